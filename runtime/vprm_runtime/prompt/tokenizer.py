"""Plain text to token ids. Control tokens never come out of here: the prompt builder emits them by id."""

from pathlib import Path

from tokenizers import Tokenizer

from vprm_runtime.bundle.manifest import ControlTokens
from vprm_runtime.errors import BundleError, InputError, quoted

_CHARACTERS_NORMALISED_TO_ONE = 3  # by NFC at most, of characters that a text holds in long runs
_SLICE_CHARACTERS = 1 << 17
_SLACK = 1.5  # slices may have more tokens than the whole, but not by this factor


class TextTokenizer:
    """Encodes text in which `<|im_end|>`, `<image>`, `<IMG_CONTEXT>` and their like are ordinary characters."""

    def __init__(
        self, path: Path, control: ControlTokens, marker_id: int | None = None, max_tokens: int | None = None
    ) -> None:
        """Read the `tokenizers` library's file. Text of more than `max_tokens` tokens is refused."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # the library's own
                raise
            raise BundleError(f"{path} cannot be read ({quoted(error)}): export the bundle again") from error
        self._max_tokens = max_tokens
        longest = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)), default=1)
        self._max_characters = None if max_tokens is None else max_tokens * longest * _CHARACTERS_NORMALISED_TO_ONE
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = (control.im_start, control.im_end, control.img_start, control.img_end, control.img_context)
        self._control_ids = frozenset(ids) | {index for index in (control.bos, marker_id) if index is not None}

    def check_length(self, *texts: str) -> None:
        """Raise InputError if texts have more characters than the model's tokens can hold; costs nothing."""
        characters = sum(map(len, texts))
        if self._max_characters is not None and characters > self._max_characters:
            raise InputError(
                f"the text has {characters:,} characters, too many: the model's limit is {self._max_tokens:,} tokens; "
                "shorten the text",
                code="prompt_too_long",
            )

    def check_tokens(self, tokens: int) -> None:
        """Raise InputError if a prompt in the making is longer than the model's limit already."""
        if self._max_tokens is not None and tokens > self._max_tokens:
            raise InputError(
                f"the text takes {tokens} or more tokens, the model's limit is {self._max_tokens}: shorten it",
                code="prompt_too_long",
            )

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS. Raises InputError if text is not valid Unicode or too long.

        The library takes some 200 bytes for each character, so a long text is tried in slices first.
        """
        self.check_length(text)
        if self._max_tokens is not None and len(text) > _SLICE_CHARACTERS:
            self._try_slices(text)
        try:
            text.encode("utf-8")  # lone surrogates: the library's own error does not say so
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text has characters that are not valid Unicode ({error.reason}): clean it"
            ) from error
        ids: list[int] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        forged = self._control_ids.intersection(ids)
        if forged:
            raise InputError(f"the text would become control tokens {sorted(forged)}: remove them from the text")
        return ids

    def _try_slices(self, text: str) -> None:
        """Raise InputError once slices of the text have far more tokens than the model's limit."""
        tokens = 0
        for start in range(0, len(text), _SLICE_CHARACTERS):
            piece = text[start : start + _SLICE_CHARACTERS].encode("utf-8", "replace").decode()
            tokens += len(self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0].ids)
            self.check_tokens(int(tokens / _SLACK))
