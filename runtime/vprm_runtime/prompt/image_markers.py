"""Marks for images that other models' prompts have, such as `<image 1>`: only `<image>` is one for this model.

The original takes all others as text, and so does this package if the images are there (MMMU's questions have them,
and the published figures were made so). Without an image such a mark says that one was lost on the way: a score of the
text alone would look plausible, so it is refused.
"""

import re

from vprm_runtime.errors import InputError

IMAGE_PLACEHOLDER = "<image>"
_NUMBERED = r"[<\[]\|?(?:image|img|picture|photo)[ _:#-]{0,2}([0-9]{1,3})\|?/?[>\]]"
_OTHERS = (
    r"<\|(?:image|img)(?:_?(?:pad|placeholder|start|sentinel))?\|>|<\|vision_(?:start|pad)\|>|"
    r"<image(?:_?(?:placeholder|here|token|pad|soft_?token))?>|<image ?/>|\[(?:image|img)\]|&lt;image&gt;|"
    r"!\[(?=[^\[\]\n]*\]\([^\s()])|\\includegraphics|"  # Markdown's and LaTeX's
    r"<img>(?=[^<>\n]+\.(?:png|jpg|jpeg|webp|gif|bmp|tif|tiff)</img>)"  # Qwen-VL's
)
_MARK = re.compile(f"{_NUMBERED}|{_OTHERS}", re.IGNORECASE | re.ASCII)


def check_no_lost_image(question: str) -> None:
    """Raise InputError if a question without images has a mark for one."""
    found = next((match[0] for match in _MARK.finditer(question) if match[0] != IMAGE_PLACEHOLDER), None)
    if found is not None:
        raise InputError(
            f"the question has {found} and there is no image: give the image, or take the mark out of the question if "
            "the text alone is meant"
        )


def remark_on_marks(question: str, images: int) -> str | None:
    """What to tell a user of marks that do not fit the images beside them: they are text. None if all fit."""
    found = [match for match in _MARK.finditer(question) if match[0] != IMAGE_PLACEHOLDER]
    if not found or not images:
        return None
    numbers = {int(match[1]) for match in found if match[1] is not None}
    if (other := next((match[0] for match in found if match[1] is None), None)) is not None:
        return f"{other} in the question is text to this model: write {IMAGE_PLACEHOLDER} for an image"
    if max(numbers) <= images and (len(numbers) == images or IMAGE_PLACEHOLDER in question):
        return None
    return f"the question's marks for images ({found[-1][0]} ...) are not as many as the images: they are text"
