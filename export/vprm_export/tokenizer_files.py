"""A checkpoint's tokenizer as one `tokenizer.json` for the `tokenizers` library.

Taken over if the checkpoint has one; else made from SentencePiece files (`tokenizer.model`: BPE with byte fallback,
as InternLM2 and Llama have it), or from `vocab.json` and `merges.txt` (byte-level BPE, Qwen2's). Tokens that
`added_tokens.json` and `tokenizer_config.json` add have to have the ids there.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from vprm_export.byte_level import MERGES_NAME, VOCABULARY_NAME, byte_level_tokenizer
from vprm_export.checkpoint import check_no_pointer, read_json
from vprm_export.readings import Readings
from vprm_export.tokenizer_json import LLAMA_CLASSES, tokenizer_of_json
from vprm_runtime.bundle.manifest import ControlTokens
from vprm_runtime.bundle.names import model_name
from vprm_runtime.errors import CheckpointError, UnsupportedError, quoted

_CONTROL_TEXTS = {
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "img_start": "<img>",
    "img_end": "</img>",
    "img_context": "<IMG_CONTEXT>",
}
_SPACE = "▁"  # SentencePiece writes a space as this sign


@dataclass(frozen=True)
class BundleTokenizer:
    """The tokenizer of a bundle: its JSON text, control tokens, and the library's object for look-ups."""

    json_text: str
    control: ControlTokens
    tokenizer: Tokenizer

    def single_token(self, text: str) -> int:
        """Id of a text that must be one token. Raises CheckpointError if it is not."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) != 1:
            raise CheckpointError(f"{text!r} is {len(ids)} tokens in this tokenizer, a score rule needs it to be one")
        return ids[0]

    def token(self, text: str) -> int:
        """Id of an added token by its text. Raises CheckpointError if the tokenizer has none."""
        index = self.tokenizer.token_to_id(text)
        if index is None:
            raise CheckpointError(f"the tokenizer has no token {text!r}: the score rule is of another model")
        return int(index)

    def with_special(self, text: str) -> "BundleTokenizer":
        """The same, but the token cannot come out of plain text: the runtime alone may put it into a prompt."""
        self.token(text)
        document = json.loads(self.json_text)
        for token in document["added_tokens"]:
            if token["content"] == text:
                token["special"], token["normalized"] = True, False
        copy = Tokenizer.from_str(json.dumps(document, ensure_ascii=False))
        if not any(token["content"] == text for token in document["added_tokens"]):
            copy.add_special_tokens([AddedToken(text, special=True, normalized=False)])
        return BundleTokenizer(copy.to_str(pretty=False), self.control, copy)


def load_tokenizer(directory: Path, readings: Readings | None = None) -> BundleTokenizer:
    """Read a checkpoint's tokenizer; `readings` gets which files were taken.

    Raises CheckpointError or UnsupportedError naming the file and what is missing.
    """
    readings = Readings() if readings is None else readings
    config = read_json(directory / "tokenizer_config.json")
    if config.get("split_special_tokens"):
        raise UnsupportedError(
            f"tokenizer_config.json in {directory}: split_special_tokens true spells control tokens in letters, in the "
            "prompt's own turns too, which is not supported: set it to false if the model was trained with them whole"
        )
    added = _added_tokens(directory, config)
    if (directory / "tokenizer.json").is_file():
        tokenizer, bos = tokenizer_of_json(directory / "tokenizer.json", config, readings)
        _check_flags(tokenizer, directory, config)
        kind = "tokenizer.json"
    elif (directory / "tokenizer.model").is_file():
        tokenizer = _from_sentencepiece(directory, added, config, readings)
        bos = _sentencepiece_bos(tokenizer, config, readings)
        kind = "tokenizer.model"
    elif (directory / VOCABULARY_NAME).is_file():
        tokenizer, bos = byte_level_tokenizer(directory, config), None
        kind = f"{VOCABULARY_NAME} and {MERGES_NAME}"
        if config.get("add_bos_token") and config.get("bos_token"):
            raise UnsupportedError(f"{directory}: add_bos_token is true, which Qwen2's tokenizer does not have")
    else:
        raise CheckpointError(
            f"{directory} has neither tokenizer.json, nor tokenizer.model, nor {VOCABULARY_NAME} with {MERGES_NAME}: "
            "copy the tokenizer files too"
        )
    _note_own_tokens(tokenizer, added, kind, readings)
    _check_added(tokenizer, added, directory, kind)
    _check_named(tokenizer, directory, config)
    _note_source(tokenizer, directory, kind, readings)
    ids: dict[str, int] = {}
    for role, text in _CONTROL_TEXTS.items():
        index = tokenizer.token_to_id(text)
        if index is None:
            raise CheckpointError(f"the tokenizer in {directory} has no token {text!r}: this is no InternVL tokenizer")
        ids[role] = index
    control = ControlTokens(bos=bos, **ids)
    readings.read("token in front", "none" if bos is None else tokenizer.id_to_token(bos), kind)
    tokenizer = _with_text_tokens(tokenizer, control, _end_texts(directory, config))
    return BundleTokenizer(tokenizer.to_str(pretty=False), control, tokenizer)


def _note_source(tokenizer: Tokenizer, directory: Path, kind: str, readings: Readings) -> None:
    """Note what was read, and what is there and was not. Raises CheckpointError if a vocabulary beside it differs."""
    others = [
        name for name in ("tokenizer.model", VOCABULARY_NAME) if name not in kind and (directory / name).is_file()
    ]
    if VOCABULARY_NAME in others and kind == "tokenizer.json":
        vocabulary = read_json(directory / VOCABULARY_NAME)
        if any(tokenizer.token_to_id(text) != index for text, index in vocabulary.items()):
            raise CheckpointError(
                f"{VOCABULARY_NAME} and tokenizer.json in {directory} number their tokens differently: remove the one "
                "that the model was not trained with"
            )
    unread = f" (not read: {', '.join(others)})" if others else ""
    readings.read("tokenizer", f"{kind}{unread}", model_name(directory))


def _check_flags(tokenizer: Tokenizer, directory: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if tokenizer.json matches an added token otherwise than tokenizer_config.json says.

    transformers takes the latter's flags.
    """
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    for entry in config.get("added_tokens_decoder", {}).values():
        token = known.get(entry["content"])
        for flag in ("lstrip", "rstrip", "single_word", "normalized"):
            if token is not None and flag in entry and bool(entry[flag]) != getattr(token, flag):
                raise CheckpointError(
                    f"added token {quoted(entry['content'], 60)!r} has {flag} {json.dumps(entry[flag])} in "
                    f"tokenizer_config.json and {json.dumps(getattr(token, flag))} in tokenizer.json of {directory}: "
                    "transformers takes the former; make both say what the model was trained with"
                )


def _note_own_tokens(
    tokenizer: Tokenizer, added: Mapping[str, tuple[int, AddedToken]], kind: str, readings: Readings
) -> None:
    """Note added tokens of tokenizer.json that the files beside it do not list, if they list any.

    They are one token each in texts, as transformers 4 has it; transformers 5 may spell them in letters.
    """
    if kind == "tokenizer.json" and added and (own := sorted(_added_texts(tokenizer) - added.keys())):
        shown = quoted(", ".join(own), 100)
        readings.assume("added tokens", shown, "one token each in texts: tokenizer.json alone has them")


def _check_added(tokenizer: Tokenizer, added: Mapping[str, tuple[int, AddedToken]], directory: Path, kind: str) -> None:
    """Add the tokens that the other files name and the tokenizer lacks; all must have the ids that the files say."""
    known = _added_texts(tokenizer)
    in_order = sorted(added.values(), key=lambda entry: entry[0])
    tokenizer.add_tokens([token for _, token in in_order if token.content not in known])
    for text, (index, _) in added.items():
        if tokenizer.token_to_id(text) != index:
            raise CheckpointError(
                f"added token {text!r} should have id {index}, got {tokenizer.token_to_id(text)} from {kind}: the "
                f"tokenizer files in {directory} are not one model's"
            )


def _check_named(tokenizer: Tokenizer, directory: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the configuration names a special token that the tokenizer lacks.

    transformers gives it a new id, beyond those that the model was trained with; here it would be spelled in letters.
    """
    extra = config.get("extra_special_tokens") or []
    named = [*(config.get("additional_special_tokens") or []), *(extra.values() if isinstance(extra, dict) else extra)]
    for entry in named:
        text = entry.get("content") if isinstance(entry, Mapping) else entry
        if isinstance(text, str) and tokenizer.token_to_id(text) is None:
            raise CheckpointError(
                f"tokenizer_config.json in {directory} names the special token {quoted(text, 60)!r}, which the "
                "tokenizer does not have: save the tokenizer that the model was trained with again, with its "
                "save_pretrained, or take the name out"
            )


def _sentencepiece_bos(tokenizer: Tokenizer, config: Mapping[str, Any], readings: Readings) -> int | None:
    """The token that InternLM2's and Llama's own tokenizer classes put in front."""
    if config.get("add_bos_token") is None:
        readings.assume("add_bos_token", True, "absent: default of InternLM2's tokenizer class")
    elif not config["add_bos_token"]:
        return None
    text = config.get("bos_token") or "<s>"
    text = text["content"] if isinstance(text, dict) else text
    index = tokenizer.token_to_id(text)
    if index is None:
        raise CheckpointError(f"the tokenizer has no token {text!r}, which tokenizer_config.json puts in front")
    return int(index)


_UNUSED = re.compile(
    r"\[UNUSED_TOKEN_\d+\]|<\|reserved_special_token_\d+\|>|<\|extra_\d+\|>|<unused_?\d+>", re.IGNORECASE
)
_ENDS = frozenset({"<|endoftext|>", "<s>", "</s>"})


def _with_text_tokens(tokenizer: Tokenizer, control: ControlTokens, ends: frozenset[str]) -> Tokenizer:
    """The tokenizer with exactly the prompt's control tokens marked "special", which the runtime encodes as characters.

    All other added tokens are tokens in user text, as in the checkpoint's own tokenizer: InternVL's `<ref>` and `<box>`
    occur in questions and in responses. Control tokens of a prompt are the template's, the image tokens, beginnings,
    ends and padding; tokens that no training used (`[UNUSED_TOKEN_n]`) stay characters too.
    """
    ids = {control.im_start, control.im_end, control.img_start, control.img_end, control.img_context}
    ids |= {control.bos} if control.bos is not None else set()
    document = json.loads(tokenizer.to_str())
    known = {int(token["id"]) for token in document["added_tokens"]}
    missing = [AddedToken(tokenizer.id_to_token(index), special=True, normalized=False) for index in ids - known]
    if missing:
        tokenizer.add_special_tokens(missing)
        document = json.loads(tokenizer.to_str())
    for token in document["added_tokens"]:
        text = token["content"]
        token["special"] = token["id"] in ids or text in ends or _UNUSED.fullmatch(text) is not None
        token["normalized"] = token["normalized"] and not token["special"]
    return Tokenizer.from_str(json.dumps(document, ensure_ascii=False))


def _end_texts(directory: Path, config: Mapping[str, Any]) -> frozenset[str]:
    """Texts of the tokens that begin, end or pad a sequence, by the tokenizer's own files."""
    sources = [config]
    if (directory / "special_tokens_map.json").is_file():
        sources.append(read_json(directory / "special_tokens_map.json"))
    named = (source.get(f"{role}_token") for source in sources for role in ("bos", "eos", "pad"))
    texts = (entry.get("content") if isinstance(entry, Mapping) else entry for entry in named)
    return _ENDS | {text for text in texts if isinstance(text, str)}


def _from_sentencepiece(
    directory: Path, added: Mapping[str, tuple[int, AddedToken]], config: Mapping[str, Any], readings: Readings
) -> Tokenizer:
    """SentencePiece BPE -> tokenizers BPE with the same ids.

    Control, unknown and byte pieces take no part in merges. Pieces that SentencePiece matches whole before BPE
    ("user defined", such as full-width letters) become added tokens that are matched the same way; the reserved
    `[UNUSED_TOKEN_n]` among them do not, so that their literal text stays text.
    """
    from sentencepiece import sentencepiece_model_pb2 as spm  # protobuf classes only: no model is loaded by it

    path = directory / "tokenizer.model"
    check_no_pointer(path)
    model = spm.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has moved between versions
        raise CheckpointError(f"{path} is not a SentencePiece model ({error}): copy it again") from error
    _check_kind(model, path, config, readings)
    renamed = {index: text for text, (index, _) in added.items() if index < len(model.pieces)}
    kinds = model.SentencePiece
    vocabulary = {renamed.get(i, piece.piece): i for i, piece in enumerate(model.pieces)}
    if len(vocabulary) != len(model.pieces):
        raise CheckpointError(
            f"{path} and the added tokens name a piece twice: the tokenizer files are not one model's"
        )
    mergeable = {p.piece: i for i, p in enumerate(model.pieces) if p.type == kinds.NORMAL}
    unknown = next(piece.piece for piece in model.pieces if piece.type == kinds.UNKNOWN)
    bpe = BPE(vocabulary, _merges(mergeable), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    whole = [
        piece.piece
        for i, piece in enumerate(model.pieces)
        if piece.type == kinds.USER_DEFINED and i not in renamed and not piece.piece.startswith("[UNUSED_TOKEN")
    ]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in whole])
    return tokenizer


def _check_kind(model: Any, path: Path, config: Mapping[str, Any], readings: Readings) -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != trainer.BPE or not trainer.byte_fallback:
        raise UnsupportedError(f"{path} is not a BPE model with byte fallback: bring a tokenizer.json beside it")
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        raise UnsupportedError(f"{path} normalises text (white space or characters): bring a tokenizer.json")
    if not normalizer.add_dummy_prefix:
        return
    kind, legacy = config.get("tokenizer_class"), config.get("legacy")
    if kind not in LLAMA_CLASSES or legacy is not False:
        raise UnsupportedError(
            f"{path} puts a blank in front of texts (add_dummy_prefix), and tokenizer_config.json has tokenizer_class "
            f"{kind}, legacy {json.dumps(legacy)}: read is only {LLAMA_CLASSES[0]} with legacy false, which puts none "
            "after a control token. With legacy true, transformers 4 and 5 tokenise texts differently: bring a "
            'tokenizer.json of the one that the model was trained with, made with  python -c "from transformers import '
            "AutoTokenizer; AutoTokenizer.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
        )
    readings.read("blank in front of a text", "none: a control token is before each", "tokenizer_config.json: legacy")


def _merges(pieces: dict[str, int]) -> list[tuple[str, str]]:
    """BPE merges that give the same pieces: every way to cut a piece in two known ones, in order of the joined id."""
    merges = []
    for piece, rank in pieces.items():
        cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        known = [(pieces[a], pieces[b], a, b) for a, b in cuts if a in pieces and b in pieces]
        merges += [(rank, *cut) for cut in sorted(known)]
    return [(a, b) for _, _, _, a, b in sorted(merges)]


def _added_tokens(directory: Path, config: Mapping[str, Any]) -> dict[str, tuple[int, AddedToken]]:
    """Text -> (id, token with its flags) of the tokens that the files beside the vocabulary add or rename."""
    added: dict[str, tuple[int, AddedToken]] = {}
    for index, entry in config.get("added_tokens_decoder", {}).items():
        flags = {
            key: bool(entry.get(key, False)) for key in ("lstrip", "rstrip", "single_word", "normalized", "special")
        }
        added[entry["content"]] = (int(index), AddedToken(entry["content"], **flags))
    if (directory / "added_tokens.json").is_file():
        for text, index in read_json(directory / "added_tokens.json").items():
            if text in added and added[text][0] != int(index):
                raise CheckpointError(
                    f"added token {text!r} has id {index} in added_tokens.json and {added[text][0]} in "
                    f"tokenizer_config.json: the tokenizer files in {directory} are not one model's"
                )
            added.setdefault(text, (int(index), AddedToken(text, normalized=False, special=True)))
    return added


def _added_texts(tokenizer: Tokenizer) -> frozenset[str]:
    return frozenset(token.content for token in tokenizer.get_added_tokens_decoder().values())
