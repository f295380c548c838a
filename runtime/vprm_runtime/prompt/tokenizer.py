"""Plain text to token ids. Control tokens never come out of here: the prompt builder emits them by id."""

from pathlib import Path

from tokenizers import Tokenizer

from vprm_runtime.bundle.manifest import ControlTokens
from vprm_runtime.errors import BundleError, InputError


class TextTokenizer:
    """Encodes text in which `<|im_end|>`, `<image>`, `<IMG_CONTEXT>` and their like are ordinary characters."""

    def __init__(self, path: Path, control: ControlTokens, marker_id: int | None = None) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise BundleError(f"{path} cannot be read ({error}): export the bundle again") from error
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = (control.im_start, control.im_end, control.img_start, control.img_end, control.img_context)
        self._control_ids = frozenset(ids) | {index for index in (control.bos, marker_id) if index is not None}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS. Raises InputError if text is not valid Unicode."""
        try:
            text.encode("utf-8")  # lone surrogates: the library's own error does not say so
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text has characters that are not valid Unicode ({error.reason}): clean it"
            ) from error
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        forged = self._control_ids.intersection(ids)
        if forged:
            raise InputError(f"the text would become control tokens {sorted(forged)}: remove them from the text")
        return ids
