"""What values of a manifest can be: ranges far above any model's, so that a damaged one cannot hang or exhaust memory.

Each rule names the key that breaks it.
"""

import math
import re
from collections.abc import Iterable

from vprm_runtime.bundle.manifest import TOKENIZER_NAME, FileInfo, Manifest
from vprm_runtime.errors import BundleError, quoted
from vprm_runtime.options import MAX_TILES_LIMIT

MAX_TOKEN_ID = (1 << 31) - 1
MAX_MANIFEST_BYTES = 1 << 26
_MAX_ENTRIES = 100_000
_MAX_FILE_BYTES = 1 << 50
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"(?!\.)[^/\\:\x00-\x1f\x7f]{1,200}(?<![. ])")  # of a file in the bundle's own folder


def check_limits(manifest: Manifest) -> None:
    """Raise BundleError naming the first key whose value no bundle can have."""
    _check_model(manifest)
    _check_tokens(manifest)
    _check_score_rule(manifest)
    tiling = manifest.tiling
    _in_range("tiling: tile_size_px", tiling.tile_size_px, 1, 1 << 11)
    _in_range("tiling: max_tiles", tiling.max_tiles, 1, MAX_TILES_LIMIT)
    _in_range("tiling: min_tiles", tiling.min_tiles, 1, tiling.max_tiles)
    _check_files(manifest)


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file in the bundle's folder itself, on every system."""
    return _PLAIN_NAME.fullmatch(name) is not None


def _check_model(manifest: Manifest) -> None:
    model = manifest.model
    for key, most in (
        ("layers", 1 << 10), ("hidden_size", 1 << 17), ("kv_heads", 1 << 10), ("head_dim", 1 << 12),
        ("max_positions_tokens", 1 << 27), ("tokens_per_tile", 1 << 16),
    ):  # fmt: skip
        _in_range(f"model: {key}", getattr(model, key), 1, most)
    _in_range("model: kv_heads * head_dim", model.kv_width, 1, 1 << 17)


def _check_tokens(manifest: Manifest) -> None:
    tokens = manifest.tokens
    control = {key: getattr(tokens, key) for key in ("im_start", "im_end", "img_start", "img_end", "img_context")}
    for key, value in {**control, **({} if tokens.bos is None else {"bos": tokens.bos})}.items():
        _in_range(f"tokens: {key}", value, 0, MAX_TOKEN_ID)
    if len(set(control.values())) < len(control):
        raise _wrong("tokens", control, "five different ids")


def _check_score_rule(manifest: Manifest) -> None:
    rule = manifest.score_rule
    turn = rule.first_turn
    if turn.count("{question}") != 1 or turn.count("{images}") > 1 or turn.count("{step}") != 1:
        raise _wrong("score_rule: first_turn", turn, "a text with one {question}, at most one {images}, and one {step}")
    if turn.index("{question}") > turn.index("{step}") or not turn.endswith("{step}"):
        raise _wrong("score_rule: first_turn", turn, "a text that ends with {step}")
    if not rule.step_joiner:
        raise _wrong("score_rule: step_joiner", rule.step_joiner, "a text that splits a response")
    if not 2 <= len(rule.candidates) <= 64 or len({one.id for one in rule.candidates}) < len(rule.candidates):
        raise _wrong("score_rule: candidates", [one.id for one in rule.candidates], "2 to 64 different ids")
    for one in rule.candidates:
        _in_range("score_rule: candidates: id", one.id, 0, MAX_TOKEN_ID)
        if not (math.isfinite(one.weight) and 0 <= one.weight <= 1):
            raise _wrong("score_rule: candidates: weight", one.weight, "a number from 0 to 1")
    if (rule.marker is None) != (rule.marker_id is None):
        raise _wrong("score_rule: marker_id", rule.marker_id, "an id exactly if there is a marker")
    if rule.marker_id is not None:
        _in_range("score_rule: marker_id", rule.marker_id, 0, MAX_TOKEN_ID)


def _check_files(manifest: Manifest) -> None:
    graphs, files = (manifest.graphs.vision, manifest.graphs.llm), manifest.files
    for where, graph in zip(("vision", "llm"), graphs, strict=True):
        if not is_plain_name(graph.file):
            raise _wrong(f"graphs: {where}: file", graph.file, "the plain name of a file in the bundle")
    if graphs[0].file == graphs[1].file:
        raise _wrong("graphs: llm: file", graphs[1].file, "another file than the vision graph's")
    for name, info in _entries(files.items()):
        if not is_plain_name(name):
            raise _wrong("files", name, "plain names, none outside the bundle's folder")
        _in_range(f"files: {name}: size_bytes", info.size_bytes, 0, _MAX_FILE_BYTES)
        if not _SHA256.fullmatch(info.sha256):
            raise _wrong(f"files: {name}: sha256", info.sha256, "64 hexadecimal digits")
    missing = sorted({TOKENIZER_NAME, *graphs[0].files, *graphs[1].files} - files.keys())
    if missing:
        raise _wrong("files", sorted(files), f"{', '.join(missing)} among them")


def _entries(items: Iterable[tuple[str, FileInfo]]) -> list[tuple[str, FileInfo]]:
    found = list(items)
    _in_range("files: number", len(found), 1, _MAX_ENTRIES)
    return found


def _in_range(key: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise _wrong(key, value, f"{least} to {most:,}")


def _wrong(key: str, value: object, expected: str) -> BundleError:
    return BundleError(
        f"manifest.json: {quoted(key)} is {quoted(repr(value))}, expected {expected}: the bundle is damaged "
        "or was not made by vprm export; export it again"
    )
