"""Plain text to token ids. Control tokens never come out of here: the prompt builder emits them by id."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from vprm_runtime.bundle.manifest import ControlTokens
from vprm_runtime.bundle.names import path_text
from vprm_runtime.errors import BundleError, InputError, quoted
from vprm_runtime.prompt.panics import caught_panics

_CHARACTERS_NORMALISED_TO_ONE = 3  # by NFC at most, of characters that a text holds in long runs
_SLICE_CHARACTERS = 1 << 17
_MAX_FILE_BYTES = 1 << 28  # twenty times the largest vocabulary's
_SAMPLE = "a 1 +\n\u7b54\U0001f600"  # letters, digits, line breaks, and characters of three and four bytes
_SLACK = 1.5  # slices may have more tokens than the whole, but not by this factor


class TextTokenizer:
    """Encodes text in which `<|im_end|>`, `<image>`, `<IMG_CONTEXT>` and their like are ordinary characters."""

    def __init__(
        self, path: Path, control: ControlTokens, marker_id: int | None = None, max_tokens: int | None = None
    ) -> None:
        """Read the `tokenizers` library's file. Text of more than `max_tokens` tokens is refused.

        Raises BundleError if the file cannot be read or used, or has no token of one of the ids.
        """
        self._path = path
        try:
            if (size := path.stat().st_size) > _MAX_FILE_BYTES:
                raise ValueError(f"it has {size:,} bytes, at most {_MAX_FILE_BYTES:,} are read")
            with caught_panics():
                self._tokenizer = Tokenizer.from_file(path_text(path))
                self._tokenizer.encode_batch_fast([_SAMPLE], add_special_tokens=False)
        except Exception as error:
            raise BundleError(f"{path} cannot be read ({quoted(error)}): export the bundle again") from error
        self._max_tokens = max_tokens
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self._ids = frozenset(vocabulary.values())
        longest = max(map(len, vocabulary), default=1)
        self._max_characters = None if max_tokens is None else max_tokens * longest * _CHARACTERS_NORMALISED_TO_ONE
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = (control.im_start, control.im_end, control.img_start, control.img_end, control.img_context)
        self._control_ids = frozenset(ids) | {index for index in (control.bos, marker_id) if index is not None}
        self.check_known(self._control_ids, "tokens")

    def check_known(self, ids: Iterable[int], key: str) -> None:
        """Raise BundleError if the tokenizer has no token of one of `ids`, which `key` of the manifest says it has."""
        unknown = sorted(set(ids) - self._ids)
        if unknown:
            raise BundleError(
                f"manifest.json: {key} has the id {unknown[0]}, and {self._path} has no such token: the files are of "
                "different models; export the bundle again"
            )

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
