"""Bundles: verified means every byte; a hostile manifest is refused by key, in no time; nothing outside is named."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vprm_runtime import Bundle, BundleError, StepScorer
from vprm_runtime.bundle.limits import is_plain_name
from vprm_runtime.bundle.manifest import Manifest, check_text, text_hash
from vprm_runtime.cli.main import main
from vprm_runtime.strict_json import loads

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def text(demo_bundle: Path) -> bytes:
    """The demo bundle's manifest."""
    return (demo_bundle / "manifest.json").read_bytes()


@pytest.fixture
def copy(demo_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of one's own."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))


def test_every_flipped_bit_of_a_manifest_is_found(text: bytes) -> None:
    check_text(text)
    for position in range(len(text)):
        flipped = bytearray(text)
        flipped[position] ^= 1 << (position % 8)
        with pytest.raises(BundleError, match="was changed after it was written"):
            check_text(bytes(flipped))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"weight": 1.0', b'"weight": 0.9'),
        (b'"weight": 1.0', b'"weight": 1.00'),
        (b'"system_message": "', b'"system_message": "Be kind. '),
        (b'"first_turn": "', b'"first_turn": "\\n'),
        (b'"use_thumbnail": true', b'"use_thumbnail": false'),
        (b'  "', b'   "'),
        (b'"im_end": ', b'"im_end": 1'),
        (b"\n}\n", b"\n}"),
    ],
    ids=lambda part: part.decode()[:24].strip(),
)
def test_verify_finds_a_changed_manifest(copy: Path, text: bytes, old: bytes, new: bytes) -> None:
    """Also if it still opens."""
    Bundle.open(copy, verify=True)
    changed = text.replace(old, new, 1)
    assert changed != text
    (copy / "manifest.json").write_bytes(changed)
    with pytest.raises(BundleError, match=r"manifest\.json was changed after it was written.*"):
        Bundle.open(copy).verify()
    with pytest.raises(BundleError):
        Bundle.open(copy, verify=True)


def test_a_flipped_bit_in_any_file_is_found(copy: Path) -> None:
    generator = random.Random(5)
    bundle = Bundle.open(copy)
    for name in bundle.manifest.files:
        whole = (copy / name).read_bytes()
        for _ in range(5):
            flipped, at = bytearray(whole), generator.randrange(len(whole))
            flipped[at] ^= 1 << generator.randrange(8)
            (copy / name).write_bytes(flipped)
            with pytest.raises(BundleError, match=f"sha256 differs from the manifest for {name}"):
                bundle.verify()
        (copy / name).write_bytes(whole)
    bundle.verify()


def test_the_hash_is_of_the_text_with_zeros_in_its_place(text: bytes) -> None:
    """What another reader has to compute; the text round-trips."""
    import hashlib

    written = json.loads(text)["manifest_sha256"]
    assert hashlib.sha256(text.replace(written.encode(), b"0" * 64)).hexdigest() == written == text_hash(text)
    assert Manifest.from_json(text).to_json().encode() == text
    assert list(json.loads(text))[-1] == "manifest_sha256"


def put(*keys: str | int, value: Any) -> Change:
    """Sets a value."""

    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def renamed(old: str, new: str) -> Change:
    """Lists a graph's files under another name, which it also has."""

    def change(document: dict[str, Any]) -> None:
        document["graphs"]["llm"]["file"] = new
        for suffix in ("", ".data"):
            document["files"][new + suffix] = document["files"].pop(old + suffix)

    return change


HOSTILE: dict[str, tuple[Change, str]] = {
    **{
        f"weight {value}": (put("score_rule", "candidates", 0, "weight", value=value), "weight")
        for value in (-1, 5, 1e308, 1.0000001, -0.5, 10**400, "1", True, None)
    },
    **{f"layers {value}": (put("model", "layers", value=value), "layers") for value in (10**6, 10**8, 0, -1, 1.0, "6")},
    **{
        f"{key} {value}": (put("model", key, value=value), key)
        for key in ("hidden_size", "kv_heads", "head_dim", "max_positions_tokens", "tokens_per_tile")
        for value in (-5, 0, 10**12, 10**30)
    },
    "kv width": (lambda d: d["model"].update(kv_heads=1000, head_dim=4000), r"kv_heads \* head_dim"),
    **{f"max_tiles {v}": (put("tiling", "max_tiles", value=v), "max_tiles") for v in (3000, 257, 0, -1, 10**9, 2.5)},
    "min_tiles above max_tiles": (put("tiling", "min_tiles", value=200), "min_tiles"),
    **{f"tile size {v}": (put("tiling", "tile_size_px", value=v), "tile_size_px") for v in (0, -56, 10**6)},
    **{f"im_end {v}": (put("tokens", "im_end", value=v), "im_end") for v in (-1, 1 << 31, 2**63, "3", None, True)},
    "bos": (put("tokens", "bos", value=-1), "bos"),
    "one id twice": (lambda d: d["tokens"].update(im_end=d["tokens"]["im_start"]), "five different ids"),
    **{
        f"first_turn {value!r}": (put("score_rule", "first_turn", value=value), "first_turn")
        for value in ("", "{step}", "{question}", "{question}{question}{step}", "{step}{question}", "{question}{step} ",
                      "{images}{images}{question}{step}", "{question}{step}{step}")
    },
    "step_joiner": (put("score_rule", "step_joiner", value=""), "step_joiner"),
    "no candidates": (put("score_rule", "candidates", value=[]), "candidates"),
    "one candidate": (lambda d: d["score_rule"]["candidates"].pop(), "candidates"),
    "a candidate twice": (lambda d: d["score_rule"]["candidates"].append({**d["score_rule"]["candidates"][0]}), "ids"),
    "a negative candidate": (put("score_rule", "candidates", 0, "id", value=-3), "candidates: id"),
    "marker alone": (put("score_rule", "marker", value="<prm>"), "marker_id"),
    "no files": (put("files", value={}), "files"),
    "tokenizer not listed": (lambda d: d["files"].pop("tokenizer.json"), "tokenizer.json among them"),
    "data not listed": (lambda d: d["files"].pop("llm.onnx.data"), r"llm\.onnx\.data among them"),
    "graph not listed": (lambda d: d["files"].pop("vision.onnx"), r"vision\.onnx among them"),
    **{
        f"graph {name!r}": (renamed("llm.onnx", name), "graphs: llm: file")
        for name in ("/etc/passwd", "../llm.onnx", "a/llm.onnx", "a\\llm.onnx", "llm\0.onnx", "", ".", "..", ".hidden",
                     "C:llm.onnx", "x" * 300, "llm.onnx ", "llm\n.onnx", "./llm.onnx")
    },
    "both graphs one file": (put("graphs", "llm", "file", value="vision.onnx"), "another file"),
    "a file outside": (put("files", "../x", value={"size_bytes": 1, "sha256": "0" * 64}), "plain names"),
    "a negative size": (put("files", "llm.onnx", "size_bytes", value=-1), "size_bytes"),
    "a hash too short": (put("files", "llm.onnx", "sha256", value="00"), "sha256"),
    "a hash in capitals": (put("files", "llm.onnx", "sha256", value="A" * 64), "sha256"),
    "an unknown key": (put("model", "extra", value=1), "extra"),
    "an unknown key at the top": (put("extra", value=1), "extra"),
    "a missing key": (lambda d: d["tiling"].pop("max_tiles"), "max_tiles"),
    "no hash": (lambda d: d.pop("manifest_sha256"), "manifest_sha256"),
    "a list for an object": (put("model", value=[]), "model should be an object"),
    "a precision unheard of": (put("graphs", "llm", "precision", value="fp3"), "precision"),
    "a list for a precision": (put("graphs", "llm", "precision", value=["fp32"]), "precision"),
    "version 1.5": (put("schema_version", value=1.5), "schema_version"),
    "a long text for a number": (put("model", "layers", value="9" * 100_000), "layers"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_refused_by_key(name: str, copy: Path, text: bytes) -> None:
    change, key = HOSTILE[name]
    document = json.loads(text)
    change(document)
    (copy / "manifest.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(BundleError, match=key) as caught:
        Bundle.open(copy)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"null", b"[]", b"5", b'"x"', b"{} {}",
        b'{"schema_version": 1, "schema_version": 1}', b'{"schema_version": NaN}',
        b'{"schema_version": ' + b"1" * 5000 + b"}",
        b'{"schema_version": "\\ud83d"}', b'{"\\ud83d": 1}', b"\xef\xbb\xbf{}", b"\0" * 100,
    ],
    ids=lambda content: repr(content[:16]),
)  # fmt: skip
def test_what_is_no_manifest(content: bytes, copy: Path) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json (is not JSON|has schema_version)"):
        Bundle.open(copy)


def test_duplicate_keys_are_refused(copy: Path, text: bytes) -> None:
    (copy / "manifest.json").write_bytes(text.replace(b'"weight": 1.0', b'"weight": 0.0, "weight": 1.0', 1))
    with pytest.raises(BundleError, match="'weight' is there twice"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["weights.data", "llm.onnx.data.bak", "a\nb"])
def test_files_that_no_hash_stands_for_are_named(name: str, copy: Path) -> None:
    """A graph could read them. Reports, notes and hidden files are read by nothing."""
    for harmless in ("README.md", "report.json", "report.html", ".gitattributes", "LICENSE"):
        (copy / harmless).touch()
    (copy / "engines").mkdir()
    Bundle.open(copy, verify=True)
    (copy / name).touch()
    Bundle.open(copy)
    with pytest.raises(BundleError, match=r"files that its manifest does not list: (weights|llm|a\\n)"):
        Bundle.open(copy, verify=True)


def test_score_can_verify_first(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", str(copy), "--question", "Q", "--response", "a"]
    assert main([*words, "--verify"]) == 0
    content = bytearray((copy / "llm.onnx.data").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "llm.onnx.data").write_bytes(content)
    assert main(words) == 0
    capsys.readouterr()
    for given in (words, [*words[:2], "--input", "-"]):
        assert main([*given, "--verify"]) == 2
        shown = capsys.readouterr()
        assert "sha256 differs from the manifest for llm.onnx.data" in shown.err and shown.out == ""


@pytest.mark.parametrize("key", ["candidates", "im_start", "bos", "marker"])
def test_ids_that_the_tokenizer_has_not_are_found_at_once(key: str, copy: Path) -> None:
    document = json.loads((copy / "manifest.json").read_text("utf-8"))
    if key == "candidates":
        document["score_rule"]["candidates"][0]["id"] = 10**6
    elif key == "marker":
        document["score_rule"] |= {"marker": "<m>", "marker_id": 10**6}
    else:
        document["tokens"][key] = 10**6
    (copy / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"has the id 1000000, and .*tokenizer\.json has no such token"):
        StepScorer.open(copy)


def test_links_into_a_cache_open_and_pipes_do_not(copy: Path, tmp_path: Path) -> None:
    """As in a hub's cache: every file a link to a blob. A pipe in place of a file is refused at once."""
    import os

    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(copy.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    Bundle.open(copy, verify=True)
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(copy)


def test_plain_names() -> None:
    assert all(map(is_plain_name, ("llm.onnx", "llm.onnx.data", "a b", "x", "größe.onnx", "a..b")))
    assert not any(map(is_plain_name, ("a.", "a ", "..", "a/b", "a\\b", "a:b", "\0", "", "\x7f", "x" * 201)))


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', "[NaN]", "[Infinity]", "[-Infinity]", '["\\udc00"]', "[" * 3000 + "]" * 3000, "[1,]", ""],
)
def test_strict_json(text: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(ValueError):
            loads(given)
    assert loads('{"a": [1, 2.5, null, "\\ud83d\\ude00"]}') == {"a": [1, 2.5, None, "😀"]}


def test_a_bundle_s_repr_is_one_short_line(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    assert repr(bundle) == f"<Bundle {str(demo_bundle)!r}: checkpoint, vision fp32, LLM fp32>"
