"""A byte-level BPE tokenizer from `vocab.json` and `merges.txt`, as InternVL's own trainer saves Qwen2's.

Source: transformers 5.23, models/qwen2/tokenization_qwen2.py (class Qwen2Tokenizer): NFC, the split below, byte-level
BPE without prefix space. Added tokens come from `added_tokens.json` and tokenizer_config.json.
"""

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from vprm_export.checkpoint import check_no_pointer, read_json
from vprm_runtime.errors import CheckpointError, UnsupportedError

VOCABULARY_NAME, MERGES_NAME = "vocab.json", "merges.txt"
QWEN2_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level_tokenizer(directory: Path, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer without its added tokens. Raises CheckpointError naming the file that is missing or damaged.

    Raises UnsupportedError for the tokenizer classes whose way to split text is not known here.
    """
    kind = config.get("tokenizer_class")
    if kind not in QWEN2_CLASSES:
        raise UnsupportedError(
            f"{directory}: {VOCABULARY_NAME} and {MERGES_NAME} of tokenizer_class {kind!r} are not supported, only of "
            f'{" and ".join(QWEN2_CLASSES)}: make a tokenizer.json with  python -c "from transformers import '
            "AutoTokenizer; AutoTokenizer.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
        )
    vocabulary = read_json(directory / VOCABULARY_NAME)
    ids = list(vocabulary.values())
    if not all(isinstance(index, int) for index in ids) or sorted(ids) != list(range(len(ids))):
        raise CheckpointError(f"{directory / VOCABULARY_NAME} does not number its tokens from 0 on: copy it again")
    try:
        model = BPE(vocabulary, _merges(directory / MERGES_NAME))
    except Exception as error:  # the library's own, for a merge of unknown tokens
        raise CheckpointError(
            f"{directory / MERGES_NAME} does not fit {VOCABULARY_NAME} ({error}): copy both"
        ) from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    prefix_space = bool(config.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: copy the tokenizer files too")
    check_no_pointer(path)
    try:
        lines = path.read_text("utf-8").split("\n")  # other line breaks can be tokens
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 ({error.reason}): copy it again") from error
    merges = []
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\r")
        if not text or (number == 1 and text.startswith("#version")):
            continue
        first, space, second = text.partition(" ")
        if not space or not first or not second or " " in second:
            raise CheckpointError(f"{path}, line {number} is no pair of tokens: copy it again")
        merges.append((first, second))
    return merges
