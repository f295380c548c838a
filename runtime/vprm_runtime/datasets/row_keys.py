"""The keys of a row, with what each means: what readers know, and the table in docs/wire.md (made from here)."""

from collections.abc import Mapping
from types import MappingProxyType

TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "question": "text that the responses answer; `<image>` in it says where an image belongs, and there must be as "
        "many as images, or none",
        "responses": "a list of texts, each split into steps on blank lines, or of lists of steps",
        "response": "one response: a text, or `{steps, process_correctness}` (VisualProcessBench)",
        "steps_with_score": "one response as `[{step, score}]` (VisualPRM400K, raw)",
        "conversations": "one response as `[{from, value}]` (VisualPRM400K, conversations)",
        "chosen": "the better of two responses (MMPR)",
        "rejected": "the worse of two responses (MMPR)",
        "id": "text or integer that comes back in the document (default: the row's number, from 0)",
    }
)
LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "max_steps": "integer: join consecutive steps so that a response has at most this many",
        "max_tiles": "integer: tiles per image at most, thumbnail not counted",
    }
)
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "aggregate": "give it for all rows, as --aggregate or aggregate=, in a server's address as ?aggregate=min",
        "step_separator": "give it for all rows, as --step-separator or step_separator=",
        "drop_empty_steps": "give it for all rows, as --drop-empty-steps or drop_empty_steps=",
    }
)
"""Options of a whole run that a row cannot have, and how they are given."""
_BUNDLES = "it is the bundle's, from the checkpoint"
ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("max_num", "max_dynamic_patch", "max_patches"), "write max_tiles"),
        **dict.fromkeys(("min_num", "min_dynamic_patch", "min_patches", "use_thumbnail"), _BUNDLES),
        **dict.fromkeys(
            ("system_message", "system_prompt", "system"),
            "it is the bundle's, of vprm export --system-message; leave it out if both are the same",
        ),
    }
)
"""Keys under which other code has what decides scores, and what to do about them in a row."""
LABELS: Mapping[str, str] = MappingProxyType(
    {
        "answer": "label: the right final answer",
        "correct": "label: whether each response is right",
        "process_correctness": "label: 1, 0 or -1 for each step of each response",
        "policy_model": "label: what wrote the responses",
        "data_source": "label: the data set that the question is from",
    }
)
IMAGES: Mapping[str, str] = MappingProxyType(
    {
        "image, images, img, picture, photo (and plurals)": "a path, bytes, base64, a data URL, `{bytes}`, `{path}` or "
        '`{url}` with a data URL; or a list of them. Absent, null, `""` or `[]`: the text alone is scored',
        "image_path, image_file, image_url, image_bytes, image_base64, input_image": "the same, under another name",
        "image_1, image_2, ... image1, img_1": "one image each, in the order of their numbers; null ones are left out "
        "(MMMU)",
        "decoded_image": "the image itself beside its path under `image` (MathVista): the former is used",
    }
)
CONTENT = frozenset(TEXTS) - {"id"}
"""Keys of questions and responses. A row of one kind has some of them; what stands under others is not read."""
KNOWN_KEYS = frozenset((*TEXTS, *LIMITS, *LABELS))
"""Every key that is read, beside those of images (see row_images.is_image_key)."""


def markdown_table() -> str:
    """The table of the documentation."""
    rows = [
        (", ".join(f"`{key}`" for key in keys.split(", ")) if " (" not in keys and "..." not in keys else keys, meaning)
        for part in (TEXTS, IMAGES, LIMITS, LABELS)
        for keys, meaning in part.items()
    ]
    return "\n".join(["| key | meaning |", "|---|---|", *(f"| {keys} | {meaning} |" for keys, meaning in rows)])
