"""`vprm export` without flags, and model ids of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.fake_hub import COMMIT

import vprm_demo
from vprm_export.command import _chosen
from vprm_export.hub import NEEDED, local_checkpoint
from vprm_runtime import Bundle, CheckpointError, native
from vprm_runtime.cli.main import main

CHECKPOINT = vprm_demo.checkpoint_dir()


def test_without_flags_it_is_float16_and_names_the_better_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(CHECKPOINT), str(tmp_path / "bundle")]) == 0
    graphs = Bundle.open(tmp_path / "bundle").manifest.graphs
    assert (graphs.llm.precision, graphs.vision.precision) == ("fp16", "fp16")
    assert f"vprm optimize {CHECKPOINT}" in capfd.readouterr().err


def test_with_a_calibration_it_is_int8_for_this_machine(tmp_path: Path) -> None:
    assert _chosen(None, None, tmp_path) == ("int8", "cpu-native" if native.level() else "cpu")
    assert _chosen(None, "tensorrt", tmp_path) == ("int8", "tensorrt")
    assert _chosen("w8", None, tmp_path) == ("w8", "cpu")


def test_a_model_id_is_downloaded_pinned_and_named(hub: list[str], tmp_path: Path) -> None:
    lines: list[str] = []
    folder = local_checkpoint("Owner/Model", lines.append)
    assert folder.name == COMMIT and folder.parent.name == "snapshots"
    assert COMMIT in lines[0]
    fetched = {path.rsplit("/", 1)[1] for path in hub if "/resolve/" in path}
    assert "config.json" in fetched
    assert not fetched & {"modeling.py", "a.bin"}  # only what an export reads
    assert main(["export", str(folder), str(tmp_path / "bundle")]) == 0
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.model.name == "Owner/Model"
    assert manifest.provenance.revision == COMMIT
    asked = len([path for path in hub if "/resolve/" in path and not path.endswith("/config.json")])
    local_checkpoint("Owner/Model")
    assert len([path for path in hub if "/resolve/" in path and not path.endswith("/config.json")]) <= 2 * asked


def test_what_was_downloaded_is_used_without_a_network(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = local_checkpoint("Owner/Model")
    import huggingface_hub

    def unreachable() -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "HfApi", unreachable)
    hub.clear()
    lines: list[str] = []
    assert local_checkpoint("Owner/Model", lines.append) == folder
    assert hub == []
    assert "no network" in lines[0] and COMMIT in lines[0]
    assert local_checkpoint(f"Owner/Model@{COMMIT[:8]}") == folder
    for other in ("Owner/Other", "Owner/Model@v2"):
        with pytest.raises(CheckpointError, match="no network"):
            local_checkpoint(other)
    (folder.parent / ("b" * 40)).mkdir()  # which of the two is meant is not clear
    with pytest.raises(CheckpointError, match="no network"):
        local_checkpoint("Owner/Model")


def test_a_model_that_the_hub_does_not_have_is_an_error_with_the_command(hub: list[str]) -> None:
    with pytest.raises(CheckpointError, match="hf download Owner/Other --local-dir Other"):
        local_checkpoint("Owner/Other")


def test_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    assert local_checkpoint(str(tmp_path)) == tmp_path
    assert local_checkpoint("some/deep/path") == Path("some/deep/path")
    assert local_checkpoint("name") == Path("name")


def test_without_the_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install huggingface_hub.*hf download Owner/Model --revision v1 "):
        local_checkpoint("Owner/Model@v1")


def test_an_export_reads_only_files_that_are_downloaded() -> None:
    from fnmatch import fnmatch

    for file in CHECKPOINT.iterdir():
        assert any(fnmatch(file.name, pattern) for pattern in NEEDED), file.name
