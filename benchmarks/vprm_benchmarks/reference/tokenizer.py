"""The checkpoint's own tokenizer, as a function from one string to token ids.

InternLM2 checkpoints bring a SentencePiece model: the text is cut at every added token (longest first), the pieces
between are encoded with the ``sentencepiece`` library, and ``<s>`` goes in front (InternLM/InternEvo @c628a8c
``InternLM2Tokenizer``). Others bring ``tokenizer.json``, which the ``tokenizers`` library runs, post-processor
included. Slow Qwen2 files (``vocab.json``, ``merges.txt``) and Llama's SentencePiece models are read by transformers'
own classes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Protocol

import sentencepiece
from tokenizers import Tokenizer


class ReferenceTokenizer(Protocol):
    """Text to token ids."""

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        """Token ids of ``text`` in which control tokens are written out; with ``add_bos``, whatever the model puts in
        front."""
        ...

    def token_id(self, token: str) -> int:
        """The id of one token, by its content; KeyError if there is none."""
        ...


def load_tokenizer(directory: Path) -> ReferenceTokenizer:
    """The tokenizer of the checkpoint ``directory``: ``tokenizer.model`` if it is there, else ``tokenizer.json``."""
    if (directory / "tokenizer.model").is_file():
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        is_llama = str(config.get("tokenizer_class")).startswith("LlamaTokenizer")
        return _TransformersTokenizer(directory) if is_llama else _SentencePieceTokenizer(directory)
    if (directory / "tokenizer.json").is_file():
        return _JsonTokenizer(directory)
    if (directory / "vocab.json").is_file():
        return _TransformersTokenizer(directory)
    raise FileNotFoundError(
        f"{directory} has no tokenizer.model, tokenizer.json or vocab.json: copy the tokenizer files there"
    )


class _SentencePieceTokenizer:
    def __init__(self, directory: Path) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._added = {entry["content"]: int(index) for index, entry in config.get("added_tokens_decoder", {}).items()}
        added_tokens = directory / "added_tokens.json"
        if added_tokens.is_file():
            self._added.update(json.loads(added_tokens.read_text(encoding="utf-8")))
        self._bos = [self._added[config["bos_token"]]] if config.get("add_bos_token", True) else []
        longest_first = sorted(self._added, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        ids = list(self._bos) if add_bos else []
        for part in self._cut.split(text):
            if part in self._added:
                ids.append(self._added[part])
            elif part:
                ids.extend(self._pieces.encode(part))
        return ids

    def token_id(self, token: str) -> int:
        if token in self._added:
            return self._added[token]
        index = self._pieces.piece_to_id(token)
        if index == self._pieces.unk_id():
            raise KeyError(token)
        return int(index)


class _JsonTokenizer:
    def __init__(self, directory: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_bos).ids)

    def token_id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise KeyError(token)
        return int(index)


class _TransformersTokenizer:
    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(str(directory))

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_bos))

    def token_id(self, token: str) -> int:
        index = self._tokenizer.get_vocab().get(token)
        if index is None:
            raise KeyError(token)
        return int(index)
