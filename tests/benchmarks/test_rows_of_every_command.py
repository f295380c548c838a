"""One reader: every command reads the same rows, finds images under the same keys and refuses the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vprm_demo import held_out_rows
from vprm_runtime.cli.main import main

KEYS = ("image", "image_path", "Image", "img", "image_1", "image_url")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three held-out rows of the demo, with their images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPRM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return held_out_rows(3)


def renamed(rows: Path, target: Path, key: str, **more: Any) -> Path:
    """The same rows with their images under another key."""
    lines = []
    for line in rows.read_text("utf-8").splitlines():
        row = json.loads(line)
        image = str(rows.parent / row.pop("image")[0])
        lines.append(json.dumps({**row, key: image, **more}))
    target.write_text("\n".join(lines), "utf-8")
    return target


def command(name: str, bundle: Path, rows: Path, out: Path) -> list[str]:
    return {
        "score": ["score", str(bundle), "--input", str(rows), "--output", str(out)],
        "eval": ["eval", "processbench", str(bundle), "--data", str(rows), "--json", "--scores", str(out)],
        "quality": ["quality", str(bundle), "--against", str(bundle), "--data", str(rows), "--json"],
        "calibrate": ["calibrate", str(bundle), "--data", str(rows), "-o", str(out), "--json"],
        "parity": ["parity", str(bundle), "--checkpoint", str(checkpoint()), "--data", str(rows), "--json"],
    }[name]


def checkpoint() -> Path:
    from vprm_demo import checkpoint_dir

    return checkpoint_dir()


@pytest.mark.parametrize("name", ["score", "eval", "quality", "calibrate"])
def test_images_under_every_spelling_give_the_same(
    demo_bundle: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    outcomes = []
    for number, key in enumerate(KEYS if name in ("score", "eval") else KEYS[:2]):
        file, out = renamed(rows, tmp_path / "rows.jsonl", key), tmp_path / f"out{number}"
        assert main(command(name, demo_bundle, file, out)) == 0
        shown = capsys.readouterr().out
        outcomes.append(out.read_text("utf-8") if name == "score" else without_paths(shown))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert '"error": "' not in outcomes[0]


def without_paths(shown: str) -> Any:
    document = json.loads(shown)
    for key in ("file", "sha256", "provenance", "seconds", "bundle", "against"):
        document.pop(key, None)
    return document


@pytest.mark.parametrize("name", ["score", "eval", "quality", "calibrate", "parity"])
def test_an_image_under_an_unknown_key_is_never_ignored(
    demo_bundle: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file, out = renamed(rows, tmp_path / "rows.jsonl", "figure"), tmp_path / "out"
    code = main(command(name, demo_bundle, file, out))
    shown = capsys.readouterr()
    written = out.read_text("utf-8") if out.exists() and name == "score" else ""
    assert "figure looks like an image" in shown.err + shown.out + written
    assert code != 0 or name == "score"


@pytest.mark.parametrize("name", ["score", "eval", "quality", "calibrate", "parity"])
def test_keys_that_are_not_read_and_wrong_labels_are_named(
    demo_bundle: Path,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """Scoring needs no labels: only evaluation leaves such rows out, and says which and why."""
    file, out = renamed(rows, tmp_path / f"{name}.jsonl", "image", answr="4", correct=[True] * 9), tmp_path / "out"
    code = main(command(name, demo_bundle, file, out))
    shown = capsys.readouterr()
    assert "keys that are not read: answr (did you mean answer?)" in caplog.text + shown.err
    assert (code == 0) is (name != "eval")
    if name == "eval":
        assert "the first (row 0) because: correct must be a list with true or false for each of 1" in shown.err
    if name == "score":
        assert all("got 9 entries" in json.loads(line)["label_error"] for line in out.read_text("utf-8").splitlines())
