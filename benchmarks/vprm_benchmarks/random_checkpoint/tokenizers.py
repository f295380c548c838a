"""Small tokenizers of the kinds the families use, trained on the text in ``corpus.txt``.

InternLM2: SentencePiece BPE with byte fallback, identity normaliser, no dummy prefix, the control tokens as the
model's last, user-defined pieces ``[UNUSED_TOKEN_n]`` and the image tokens after them in ``added_tokens.json`` (the
hub's file layout). Qwen2 and Llama: byte-level BPE in one ``tokenizer.json`` with the control tokens as added special
tokens; Llama's adds a BOS.
"""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vprm_benchmarks.random_checkpoint.spec import LlmFamily

VOCABULARY_TOKENS = 700
_IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<prm>")
_CONTROL_PIECES = {
    "[UNUSED_TOKEN_141]": "<|plugin|>",
    "[UNUSED_TOKEN_142]": "<|interpreter|>",
    "[UNUSED_TOKEN_143]": "<|action_end|>",
    "[UNUSED_TOKEN_144]": "<|action_start|>",
    "[UNUSED_TOKEN_145]": "<|im_end|>",
    "[UNUSED_TOKEN_146]": "<|im_start|>",
}
_USER_DEFINED = 4  # sentencepiece_model.proto, ModelProto.SentencePiece.Type
# One word, one number of up to three digits (one digit for Qwen2), or one run of signs: the split of byte-level BPE
# tokenizers.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's."""


def write_tokenizer(directory: Path, family: LlmFamily) -> None:
    """Train a tokenizer of the family's kind and write its files into ``directory``; deterministic."""
    if family == "internlm2":
        _write_internlm2(directory)
    else:
        _write_byte_level(directory, family)


def make_slow(directory: Path) -> None:
    """Turn a byte-level tokenizer.json into the files that a slow tokenizer saves, as InternVL's trainer does:
    vocab.json, merges.txt, added_tokens.json, special_tokens_map.json."""
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    _write_json(directory / "vocab.json", document["model"]["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    added = {token["content"]: token["id"] for token in document["added_tokens"]}
    _write_json(directory / "added_tokens.json", added)
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = ("eos_token", "pad_token", "additional_special_tokens")
    _write_json(directory / "special_tokens_map.json", {name: config[name] for name in names})
    (directory / "tokenizer.json").unlink()


def read_vocab_size(directory: Path) -> int:
    """Rows that the embedding table needs for the tokenizer in ``directory``: its largest id plus one."""
    if (directory / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if (directory / "vocab.json").is_file():
        tables = [json.loads((directory / name).read_text("utf-8")) for name in ("vocab.json", "added_tokens.json")]
        return max(int(index) for table in tables for index in table.values()) + 1
    if not (directory / "tokenizer.model").is_file():
        raise FileNotFoundError(
            f"{directory} has neither tokenizer.json nor tokenizer.model: copy the model's files there"
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model")).get_piece_size()
    added = directory / "added_tokens.json"
    extra: dict[str, int] = json.loads(added.read_text()) if added.is_file() else {}
    return max(pieces, *(index + 1 for index in extra.values())) if extra else int(pieces)


def _corpus() -> list[str]:
    text = resources.files("vprm_benchmarks.random_checkpoint").joinpath("corpus.txt").read_text(encoding="utf-8")
    return text.splitlines()


def _write_internlm2(directory: Path) -> None:
    model_bytes = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_corpus()),
        model_writer=model_bytes,
        model_type="bpe",
        vocab_size=VOCABULARY_TOKENS,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model_bytes.getvalue())
    controls: dict[str, int] = {}
    for piece, content in _CONTROL_PIECES.items():
        controls[content] = len(proto.pieces)
        proto.pieces.add(piece=piece, score=0.0, type=_USER_DEFINED)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    added = {content: len(proto.pieces) + number for number, content in enumerate(_IMAGE_TOKENS)}
    (directory / "tokenizer.model").write_bytes(proto.SerializeToString())
    names = {0: "<unk>", 1: "<s>", 2: "</s>"} | {index: content for content, index in (controls | added).items()}
    specials = ["<|im_start|>", "<|im_end|>", *(name for name in controls if "im_" not in name), *_IMAGE_TOKENS]
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(index): _added_token(content) for index, content in sorted(names.items())},
        "additional_special_tokens": specials,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "InternLM2Tokenizer",
    }
    _write_json(directory / "tokenizer_config.json", config)
    _write_json(directory / "added_tokens.json", added)
    _write_json(
        directory / "special_tokens_map.json",
        {"additional_special_tokens": specials, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    )


def _write_byte_level(directory: Path, family: LlmFamily) -> None:
    tokenizer = Tokenizer(models.BPE())
    if family == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(("\n".join(_corpus()),), trainer)
    bos = "<|begin_of_text|>" if family == "llama" else None
    contents = [*([bos] if bos else []), "<|endoftext|>", "<|im_start|>", "<|im_end|>", *_IMAGE_TOKENS]
    tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in contents])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "add_bos_token": bos is not None,
        "added_tokens_decoder": {str(tokenizer.token_to_id(content)): _added_token(content) for content in contents},
        "additional_special_tokens": [content for content in contents if content not in (bos, "<|endoftext|>")],
        "bos_token": bos,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "Qwen2Tokenizer" if family == "qwen2" else "PreTrainedTokenizerFast",
    }
    _write_json(directory / "tokenizer_config.json", config)


def _added_token(content: str) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **flags}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
