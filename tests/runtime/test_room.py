"""Too little memory, disk or devices is said before anything begins; what is inflated out of proportion is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from vprm_benchmarks.gpu.environment import roomy_folder
from vprm_runtime import EngineError, InputError
from vprm_runtime.cli.main import main
from vprm_runtime.datasets import open_rows, row_document, row_files
from vprm_runtime.room import check_room

ROW = b'{"question": "Q", "responses": ["a"]}\n'


def test_the_figures_are_in_the_message(tmp_path: Path) -> None:
    check_room("it", memory_bytes=1, disk_bytes=1, folder=tmp_path / "not" / "there")
    with pytest.raises(EngineError, match=r"it needs at least 1,000,000\.0 GB of memory, [\d,.]+ GB are available"):
        check_room("it", memory_bytes=10**15)
    with pytest.raises(EngineError, match=r"it needs 1,000,000\.0 GB of disk, .* has [\d,.]+ GB free"):
        check_room("it", disk_bytes=10**15, folder=tmp_path)
    with pytest.raises(EngineError, match=r"need 1,000,000\.0 GB, free are .*: [\d,.]+ GB.*--work"):
        roomy_folder(10**15)
    assert roomy_folder(1).is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "gpu", "--json", "--out", "OUT"], "no CUDA device"),
        (["bench", "gpu", "--model", "8b-slice", "--out", "OUT"], "of memory, 0.1 GB are available"),
        (["bench", "best-of-n", "--model", "8b-slice", "--roofline-size", "64"], "of memory, 0.1 GB are available"),
        (["bench", "session", "--model", "8b-slice", "--roofline-size", "64"], "of disk"),
        (["bench", "engine", "--model", "8b-slice", "--roofline-size", "64"], "of disk"),
        (["bench", "export", "--rounds", "1", "--roofline-size", "64"], "of disk"),
        (["bench", "random-checkpoint", "OUT", "--preset", "visualprm-8b"], "of disk"),
    ],
)
def test_commands_refuse_before_they_write(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No gigabytes of random weights into too little: exit code 2 and the figures, and nothing is left."""
    import tempfile

    from vprm_benchmarks.gpu import command
    from vprm_runtime import room

    monkeypatch.setattr(command, "is_device_present", lambda: False)
    monkeypatch.setattr(room, "available_memory_bytes", lambda: 10**8)
    monkeypatch.setattr(room, "free_disk_bytes", lambda folder: 10**8)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert main([str(tmp_path / "out") if word == "OUT" else word for word in words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.out == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list((tmp_path / "tmp").iterdir())


def test_a_reference_that_does_not_fit(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vprm_runtime import room

    monkeypatch.setattr(room, "available_memory_bytes", lambda: 1000)
    assert main(["parity"]) == 2
    assert "the float32 reference needs at least" in capsys.readouterr().err


def zstandard(content: bytes) -> bytes:
    arrow = pytest.importorskip("pyarrow", reason="zst files need pyarrow")
    return bytes(arrow.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard])
def test_files_that_grow_out_of_proportion(compress: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is high in use, and low here; as many bytes that do not compress so well are read."""
    monkeypatch.setattr(row_files, "_FREE_BYTES", 1 << 16)
    assert callable(compress)
    bomb, fine = tmp_path / "bomb", tmp_path / "fine"
    bomb.write_bytes(compress(ROW + b" " * (1 << 22)))
    fine.write_bytes(compress(ROW * 100))
    with pytest.raises(InputError, match=r"more than [\d,]+ when decompressed.*decompress the file yourself"):
        open_rows(bomb)
    assert open_rows(fine).total == 100
    monkeypatch.setattr(row_files, "free_disk_bytes", lambda folder: 1 << 28)
    with pytest.raises(InputError, match=r"268,435,456 free: make room"):
        open_rows(fine)


def test_lines_and_arrays_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, array = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    rows.write_bytes(ROW + json.dumps({"question": "Q" * 3000, "responses": ["a"]}).encode())
    array.write_text(json.dumps([json.loads(ROW)]))
    assert open_rows(rows).total == 2 and open_rows(array).total == 1
    monkeypatch.setattr(row_files, "MAX_LINE_BYTES", 2000)
    with pytest.raises(InputError, match=r"a line of more than 2,000 bytes"):
        open_rows(rows)
    monkeypatch.setattr(row_document, "available_memory_bytes", lambda: 100)
    with pytest.raises(InputError, match=r"is one JSON document of \d+ bytes.*100 are free: write one JSON object"):
        open_rows(array)
