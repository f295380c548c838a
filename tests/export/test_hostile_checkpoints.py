"""Checkpoints from strangers: safetensors' rules, plain names, values in range; always a CheckpointError."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vprm_export import export_bundle
from vprm_export.checkpoint import read_safetensors_header
from vprm_export.no_weights import INDEX_NAME, SINGLE_NAME
from vprm_runtime import CheckpointError, UnsupportedError, VprmError

Header = dict[str, Any]


def safetensors(header: object, data: bytes = b"", text: bytes | None = None) -> bytes:
    """A file of this header."""
    text = json.dumps(header).encode() if text is None else text
    return len(text).to_bytes(8, "little") + text + data


def entry(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> Header:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


GOOD = {"a": entry(0, 8), "b": entry(8, 16), "empty": entry(8, 8), "scalar": entry(16, 20, [])}
DATA = bytes(20)
BAD: dict[str, bytes] = {
    "overlap": safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "same place": safetensors({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
    "gap": safetensors({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "gap in front": safetensors({"a": entry(4, 8)}, bytes(8)),
    "left over": safetensors({"a": entry(0, 8)}, bytes(9)),
    "past the end": safetensors({"a": entry(0, 8)}, bytes(7)),
    "negative": safetensors({"a": entry(-8, 0, [2])}, bytes(8)),
    "backwards": safetensors({"a": entry(8, 0, [-2])}, bytes(8)),
    "twice": safetensors(None, bytes(16), json.dumps({"a": entry(0, 8), "b": entry(8, 16)}).replace("b", "a").encode()),
    "huge shape": safetensors({"a": entry(0, 8, [1 << 40, 1 << 40])}, bytes(8)),
    "a shape that overflows to 8": safetensors({"a": entry(0, 8, [2, 1 << 63, 2])}, bytes(8)),
    "negative shape": safetensors({"a": entry(0, 8, [-1, -2])}, bytes(8)),
    "shape of floats": safetensors({"a": entry(0, 8, [2.0])}, bytes(8)),  # type: ignore[list-item]
    "shape of flags": safetensors({"a": {**entry(0, 4), "shape": [True]}}, bytes(4)),
    "shape of text": safetensors({"a": {**entry(0, 8), "shape": "2"}}, bytes(8)),
    "a shape of a hundred": safetensors({"a": entry(0, 4, [1] * 100)}, bytes(4)),
    "no shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "no dtype": safetensors({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "no offsets": safetensors({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "three offsets": safetensors({"a": {**entry(0, 8), "data_offsets": [0, 8, 8]}}, bytes(8)),
    "null offsets": safetensors({"a": {**entry(0, 8), "data_offsets": None}}, bytes(8)),
    "an unknown key": safetensors({"a": {**entry(0, 8), "extra": 1}}, bytes(8)),
    "dtype list": safetensors({"a": {**entry(0, 8), "dtype": ["F32"]}}, bytes(8)),
    "dtype object": safetensors({"a": {**entry(0, 8), "dtype": {}}}, bytes(8)),
    "dtype I8": safetensors({"a": entry(0, 8, [8], "I8")}, bytes(8)),
    "an entry that is a list": safetensors({"a": [1]}, bytes(8)),
    "an entry that is null": safetensors({"a": None}, bytes(8)),
    "a list": safetensors([]),
    "null": safetensors(None),
    "a number": safetensors(5),
    "deep": safetensors(None, b"", b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "deep lists": safetensors(None, b"", b"[" * 200_000),
    "a long integer": safetensors(None, b"", b'{"a": ' + b"1" * 5000 + b"}"),
    "NaN": safetensors(None, b"", b'{"a": NaN}'),
    "not UTF-8": safetensors(None, b"", b'{"\xff": 1}'),
    "half a character": safetensors(None, b"", b'{"\\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'),
    "nothing": b"",
    "seven bytes": b"\1" * 7,
    "a length of everything": b"\xff" * 8,
    "a length beyond the file": (100).to_bytes(8, "little") + b"{}",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_the_rules_of_safetensors(name: str, tmp_path: Path) -> None:
    file = tmp_path / "it.safetensors"
    file.write_bytes(safetensors(GOOD, DATA))
    assert set(read_safetensors_header(file)) == set(GOOD)
    file.write_bytes(BAD[name])
    with pytest.raises(CheckpointError, match=r"it\.safetensors") as caught:
        read_safetensors_header(file)
    assert len(str(caught.value)) < 700


@pytest.fixture(scope="module")
def whole(random_checkpoint: Callable[[str], Path]) -> Path:
    return random_checkpoint("internlm2")


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def refused(checkpoint: Path, *errors: type[VprmError]) -> str:
    with pytest.raises(errors or (CheckpointError, UnsupportedError)) as caught:
        export_bundle(checkpoint, checkpoint.parent / "bundle")
    assert not (checkpoint.parent / "bundle").exists()
    assert len(str(caught.value)) < 900
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b.safetensors", "..", "", ".", "a\0b", "C:x", 5, None, ["x"]]
)
def test_index_names_are_plain(name: object, checkpoint: Path) -> None:
    (checkpoint / SINGLE_NAME).rename(checkpoint.parent / "x")
    (checkpoint / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": name}}))
    assert "no file in this folder" in refused(checkpoint, CheckpointError)


ODD: list[object] = [
    None, True, -1, 0, 10**8, 10**400, 1.5, 1e-320, 1e300, "1", "", [], [[]], [["x"]], {}, {"a": 1}, "\0", "x" * 10_000,
]  # fmt: skip
RAW = ["NaN", "Infinity", "-Infinity", "[" * 5000 + "]" * 5000, "1" * 5000, '"\\ud800"', "1e400"]


def keys_of(whole: Path) -> list[tuple[str, ...]]:
    config = json.loads((whole / "config.json").read_text())
    keys: list[tuple[str, ...]] = [(key,) for key in config]
    for part in ("llm_config", "vision_config"):
        keys += [(part, key) for key in config[part]]
    return keys


def test_odd_values_of_every_config_key(whole: Path, tmp_path: Path) -> None:
    """Refused by this package, or of no matter; never another error, and quickly."""
    checkpoint = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    text = (checkpoint / "config.json").read_text()
    generator = random.Random(7)
    for keys in keys_of(whole):
        for value in generator.sample(ODD, 4):
            config = json.loads(text)
            part = config if len(keys) == 1 else config[keys[0]]
            part[keys[-1]] = value
            (checkpoint / "config.json").write_text(json.dumps(config))
            try:
                export_bundle(checkpoint, tmp_path / "bundle")
            except VprmError as error:
                assert len(str(error)) < 1500, keys
            shutil.rmtree(tmp_path / "bundle", ignore_errors=True)


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw[:9])
@pytest.mark.parametrize("key", ["rms_norm_eps", "num_hidden_layers", "rope_theta"])
def test_values_that_are_no_json(raw: str, key: str, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["llm_config"][key] = "PLACE"
    (checkpoint / "config.json").write_text(json.dumps(config).replace('"PLACE"', raw))
    refused(checkpoint)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("llm_config", "num_hidden_layers", 10**8), ("vision_config", "num_hidden_layers", 10**8),
        (None, "max_dynamic_patch", 10**6), (None, "max_dynamic_patch", 257), (None, "min_dynamic_patch", 100),
        ("llm_config", "rope_theta", 1e300), ("llm_config", "rms_norm_eps", 1e30),
        ("llm_config", "rms_norm_eps", 1e-320), ("vision_config", "layer_norm_eps", 2.0),
        (None, "downsample_ratio", 1e-320), (None, "downsample_ratio", 10**400),
        (None, "force_image_size", 1 << 20), (None, "architectures", [["InternVLRewardModel"]]),
        (None, "select_layer", -(10**9)), ("llm_config", "vocab_size", 10**12),
    ],
)  # fmt: skip
def test_values_out_of_range(section: str | None, key: str, value: object, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (config if section is None else config[section])[key] = value
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert key in refused(checkpoint)


@pytest.mark.parametrize("select", [-1, -2])
def test_a_vision_layer_more_than_config_says(select: int, checkpoint: Path) -> None:
    """Layers past select_layer are left out, layers past num_hidden_layers are of another model."""
    config = json.loads((checkpoint / "config.json").read_text())
    config["select_layer"] = select
    (checkpoint / "config.json").write_text(json.dumps(config))
    export_bundle(checkpoint, checkpoint.parent / "fine")
    config["vision_config"]["num_hidden_layers"] -= 1
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert "does not use" in refused(checkpoint, CheckpointError)


@pytest.mark.parametrize("name", ["tokenizer.model", "config.json", "tokenizer_config.json", "added_tokens.json"])
def test_flipped_bits_of_small_files(name: str, whole: Path, tmp_path: Path) -> None:
    if not (whole / name).exists():
        pytest.skip(f"this checkpoint has no {name}")
    checkpoint = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    content, generator = (whole / name).read_bytes(), random.Random(name)
    for _ in range(60):
        flipped, at = bytearray(content), generator.randrange(len(content))
        flipped[at] ^= 1 << generator.randrange(8)
        (checkpoint / name).write_bytes(flipped)
        with contextlib.suppress(VprmError):
            export_bundle(checkpoint, tmp_path / "bundle")
        shutil.rmtree(tmp_path / "bundle", ignore_errors=True)
