"""A checkpoint's own `tokenizer.json`, without what the library would do beside tokenising a text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vprm_export.byte_level import QWEN2_CLASSES, QWEN2_SPLIT
from vprm_export.checkpoint import check_no_pointer
from vprm_export.readings import Readings
from vprm_runtime.bundle.names import path_text
from vprm_runtime.errors import CheckpointError, UnsupportedError, quoted

LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_BPE_EXTRAS = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")


def tokenizer_of_json(path: Path, config: Mapping[str, Any], readings: Readings) -> tuple[Tokenizer, int | None]:
    """The tokenizer, and the token that it puts in front of a text, if any; `config` is tokenizer_config.json.

    Raises CheckpointError or UnsupportedError if the file is damaged, puts more than one token in front, or if the
    configuration says something else.
    """
    check_no_pointer(path)
    try:
        tokenizer = Tokenizer.from_file(path_text(path))
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy it again") from error
    document = json.loads(tokenizer.to_str())
    _check_class(document, path, config)
    _keep_whole(document, readings)
    _drop_first_blank(document)
    tokenizer = Tokenizer.from_str(json.dumps(document, ensure_ascii=False))
    in_front = _tokens_in_front(tokenizer, path)
    if len(in_front) > 1:
        raise UnsupportedError(f"{path} puts {len(in_front)} tokens in front of a text; supported is one BOS or none")
    says = config.get("add_bos_token")
    if says is not None and bool(says and config.get("bos_token")) != bool(in_front):
        raise CheckpointError(
            f"{path} puts {'a' if in_front else 'no'} token in front of a text, tokenizer_config.json says "
            f"add_bos_token {str(says).lower()}: set it to what the model was trained with"
        )
    return tokenizer, in_front[0] if in_front else None


def _check_class(document: Mapping[str, Any], path: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the file changes texts in another way than its class does.

    transformers 4 takes the file. transformers 5 takes the vocabulary alone and makes the rest as its class has it
    (5.23, models/qwen2/tokenization_qwen2.py and models/llama/tokenization_llama.py), so ids depend on the version
    that the model was trained with.
    """
    kind = config.get("tokenizer_class")
    differs = ""
    if kind in QWEN2_CLASSES:
        differs = _unlike_qwen2(document, config)
    elif kind in LLAMA_CLASSES:
        differs = _unlike_llama(document, config)
    if differs:
        raise CheckpointError(
            f"{path} is not as its tokenizer_class {kind} has it ({differs}): transformers 4 takes the file, "
            "transformers 5 the class. If the model was trained with the file, set tokenizer_class to "
            "PreTrainedTokenizerFast in tokenizer_config.json"
        )


def _unlike_qwen2(document: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What Qwen2's class has otherwise, or ""."""
    top = document["pre_tokenizer"] or {}
    steps = top.get("pretokenizers", ())
    byte_levels = [step for step in (top, *steps) if step.get("type") == "ByteLevel"]
    has, wants = any(step["add_prefix_space"] for step in byte_levels), bool(config.get("add_prefix_space", False))
    if document["normalizer"] != {"type": "NFC"}:
        return f"normalizer {quoted(json.dumps(document['normalizer']), 60)}, not NFC"
    if has != wants:
        return f"add_prefix_space {str(has).lower()}, tokenizer_config.json says {str(wants).lower()}"
    odd = [key for key in (*_BPE_EXTRAS, "byte_fallback", "fuse_unk") if document["model"].get(key)]
    if odd:
        return f"{odd[0]} {quoted(json.dumps(document['model'][odd[0]]), 60)}, which the class does not have"
    return _other_split(byte_levels[0] if byte_levels else {}, steps)


def _unlike_llama(document: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What Llama's SentencePiece class has otherwise, or ""."""
    prepend = "never" if config.get("add_prefix_space") is False else "always" if config.get("legacy") else "first"
    wanted = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend, "split": False}
    if document["normalizer"] is not None:
        return f"normalizer {quoted(json.dumps(document['normalizer']), 60)}, not null"
    if document["pre_tokenizer"] != wanted:
        found = quoted(json.dumps(document["pre_tokenizer"]), 90)
        return f"pre_tokenizer {found}, not Metaspace that prepends {prepend}"
    model = document["model"]
    odd = [*(key for key in _BPE_EXTRAS if model.get(key)), *(k for k in ("byte_fallback", "fuse_unk") if not model[k])]
    return f"{odd[0]} {quoted(json.dumps(model.get(odd[0])), 60)}, unlike the class" if odd else ""


def _other_split(byte_level: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    """How a file splits texts otherwise than Qwen2's class, which splits by its pattern before the bytes; or ""."""
    splits = [step for step in steps if step["type"] == "Split"]
    patterns = [str(split["pattern"].get("Regex") or split["pattern"]) for split in splits]
    if patterns != [QWEN2_SPLIT]:
        return f"texts are split by {quoted(' and '.join(patterns) or 'no pattern', 60)}, not by the class's pattern"
    if splits[0]["behavior"] != "Isolated" or splits[0]["invert"] or splits[0] is not steps[0]:
        return f"its pattern splits texts otherwise: {quoted(json.dumps({**splits[0], 'pattern': '...'}), 90)}"
    if byte_level.get("use_regex", True):
        return "texts are split by a second pattern, ByteLevel's own (use_regex)"
    others = {str(step["type"]) for step in steps} - {"Split", "ByteLevel"}
    return f"texts are split by {quoted(', '.join(sorted(others)), 60)} too" if others else ""


def _keep_whole(document: dict[str, Any], readings: Readings) -> None:
    """Take out what a trainer left for its batches: cut texts, padding, and merges that are dropped at random.

    transformers sets the first two at each call. Dropped merges would give other ids, and scores, each time.
    """
    document["truncation"] = document["padding"] = None
    if document["model"].get("dropout"):
        readings.assume(
            "merges of the tokenizer", "all", f"dropout {document['model']['dropout']:g} (for training) left out"
        )
        document["model"]["dropout"] = None


def _tokens_in_front(tokenizer: Tokenizer, path: Path) -> list[int]:
    """Ids that the tokenizer puts before a text. Those after it have no part in scores, which are read earlier."""
    text = "a"
    encoding = tokenizer.encode(text, add_special_tokens=True)
    if 0 not in encoding.special_tokens_mask:
        raise CheckpointError(f"{path} makes no token of the text {text!r}: it is no tokenizer of texts; copy it again")
    count = encoding.special_tokens_mask.index(0)
    ids: list[int] = encoding.ids
    return ids[:count]


def _drop_first_blank(document: Mapping[str, Any]) -> None:
    """Take out the blank that Metaspace puts in front of a text's very beginning.

    In a prompt a control token is before each stretch of text, so the checkpoint's own tokenizer puts none there; the
    runtime tokenises stretches one by one, and each would look like a beginning.
    """
    top = document["pre_tokenizer"] or {}
    for step in (top, *top.get("pretokenizers", ())):
        if step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "never"
