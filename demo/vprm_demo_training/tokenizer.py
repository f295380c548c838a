"""The demo PRM's tokenizer: SentencePiece BPE of InternLM2's kind, trained on generated text, and its companion files.

Layout as InternLM2's (InternLM/InternEvo @c628a8c): unk 0, `<s>` 1, `</s>` 2, the bytes, the pieces, then reserved
pieces `[UNUSED_TOKEN_n]` of which the last are renamed to chat control tokens, then InternVL's added tokens beyond
the model's vocabulary.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

import sentencepiece

from vprm_demo.generator import Variation, scene
from vprm_demo.generator.solving import FILLERS

SYSTEM_MESSAGE = "Check each step."
CONTROL_TOKENS = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")
ADDED_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
RESERVED_PIECES = 8
BPE_PIECES = 720
_ASCII = "".join(chr(code) for code in range(33, 127))


def corpus(seed: int, scenes: int) -> Iterator[str]:
    """Prompt text of training rows, with the turns' frame words often enough to become single pieces."""
    rng = Random(seed)
    for _ in range(scenes):
        made = scene(rng, Variation(shape="tile"))
        problem = rng.choice(made.problems)
        yield f"system\n{SYSTEM_MESSAGE}"
        yield f"\n### Question:\n{problem.question}\n\n### Solution Process:\n"
        for step in problem.solve(rng, rng.choice((0, 1))).steps:
            yield f"user\n{step.text}"
            yield "assistant\n"
        for _ in range(3):
            yield f"user\n{rng.choice(made.facts)(rng, rng.random() < 0.5).text}"
        yield rng.choice(FILLERS)


def train_sentencepiece(seed: int = 7, scenes: int = 6000) -> bytes:
    """A serialised SentencePiece model with the reserved pieces appended."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(seed, scenes),
        model_writer=out,
        model_type="bpe",
        vocab_size=BPE_PIECES,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        required_chars="\n°" + _ASCII,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    model = out.getvalue()
    for index in range(RESERVED_PIECES):
        model += _piece_message(f"[UNUSED_TOKEN_{index}]")
    return model


def _piece_message(piece: str) -> bytes:
    """One more entry of ModelProto's repeated field `pieces` (1): piece (1), score (2), type (3) = USER_DEFINED (4)."""
    text = piece.encode()
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", 0.0) + b"\x18\x04"
    return b"\x0a" + bytes([len(body)]) + body


def _token(content: str, special: bool | None = None) -> dict[str, object]:
    entry: dict[str, object] = {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    }
    return entry if special is None else {**entry, "special": special}


def write_tokenizer(folder: Path, model: bytes) -> int:
    """Write `tokenizer.model` and its companions into `folder`; returns the vocabulary's size with the added tokens."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2}
    ids |= {token: pieces - len(CONTROL_TOKENS) + index for index, token in enumerate(CONTROL_TOKENS)}
    added = {token: pieces + index for index, token in enumerate(ADDED_TOKENS)}
    special = [*reversed(CONTROL_TOKENS), *ADDED_TOKENS]
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    template = (
        "{{ bos_token }}{% for message in messages %}"
        "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(index): _token(token, True) for token, index in (ids | added).items()},
        "additional_special_tokens": special,
        **roles,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "tokenizer_class": "InternLM2Tokenizer",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    for name, document in (
        ("added_tokens.json", added),
        ("special_tokens_map.json", {"additional_special_tokens": special, **{k: _token(v) for k, v in roles.items()}}),
        ("tokenizer_config.json", config),
    ):
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return pieces + len(added)
