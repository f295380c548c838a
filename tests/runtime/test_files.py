"""Files and folders whole or not at all; what killed processes left is named and cleared."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vprm_runtime.errors import InputError
from vprm_runtime.files import (
    NotRegularError,
    claim_parts,
    clear_leftovers,
    clear_parts,
    open_regular,
    parts_folder,
    read_small,
    whole_file,
    whole_folder,
    write_whole,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and signals of POSIX systems")
CHILD = """
import sys, time
from pathlib import Path
from vprm_runtime.files import whole_file, whole_folder
with {what}(Path(sys.argv[1])) as it:
    ((it / "part") if it.is_dir() else it).write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def started(what: str, target: Path) -> subprocess.Popen[str]:
    """A process in the midst of writing."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(what=what), str(target)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def test_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "folder").exists()
    with whole_file(tmp_path / "it.npz") as file:
        assert file.suffix == ".npz"
        file.write_text("2")
    write_whole(tmp_path / "it.npz", b"3")
    assert ((tmp_path / "folder" / "a").read_text(), (tmp_path / "it.npz").read_text()) == ("1", "3")
    with whole_folder(tmp_path / "folder", replace=True) as folder:
        (folder / "b").write_text("4")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "it.npz"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_nothing_is_left_of_what_failed(error: BaseException, tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"before")
    with pytest.raises(type(error)), whole_file(tmp_path / "file") as file:
        file.write_text("half")
        raise error
    with pytest.raises(type(error)), whole_folder(tmp_path / "folder"):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"before"


@pytest.mark.parametrize("what", ["whole_file", "whole_folder"])
def test_what_a_killed_process_left_is_cleared(what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the next one, with a word; a living process's, other targets' and a user's own files stay."""
    target = tmp_path / "it.bin"
    (tmp_path / ".it.bin.mine").mkdir()
    (tmp_path / ".other.bin.0123abcd.tmp.bin").touch()
    killed, living = started(what, target), started(what, target)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with caplog.at_level(logging.WARNING):
        assert len(clear_leftovers(target)) == 1
    assert "which an interrupted run left" in caplog.text
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 3 and {".it.bin.mine", ".other.bin.0123abcd.tmp.bin"} < names
    living.kill()
    living.communicate()
    write_whole(target, b"x") if what == "whole_file" else clear_leftovers(target)
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name and name.startswith(".it")]


@pytest.mark.parametrize(
    ("number", "interrupts"),
    [(signal.SIGTERM, "default_int_handler"), (signal.SIGTERM, "SIG_IGN"), (signal.SIGINT, "default_int_handler"),
     (signal.SIGKILL, "default_int_handler")],
    ids=["SIGTERM", "SIGTERM in the background", "SIGINT", "SIGKILL"],
)  # fmt: skip
def test_an_export_that_is_ended(number: signal.Signals, interrupts: str, tmp_path: Path) -> None:
    """Nothing but, after SIGKILL, a hidden folder that the next export clears; never something that opens."""
    code = (
        f"import signal; signal.signal(signal.SIGINT, signal.{interrupts})  # whatever these tests were started with\n"
        "import sys, time, vprm_export.exporter as e\n"
        "write = e._write\n"
        "def slow(*a):\n    files = write(*a); print('ready', flush=True)\n"
        "    for _ in range(6000):\n        time.sleep(0.01)  # another thread may get the signal: no sleep ends then\n"
        "    return files\n"
        "e._write = slow\n"
        "from vprm_runtime.cli.main import main; sys.exit(main(['export', *sys.argv[1:], '--precision', 'fp32']))"
    )
    from vprm_demo import checkpoint_dir
    from vprm_export import export_bundle

    target = tmp_path / "bundle"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(checkpoint_dir()), str(target)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(number)
        _, error = child.communicate(timeout=60)
    assert child.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in error and not target.exists()
    assert len(list(tmp_path.iterdir())) == (1 if number == signal.SIGKILL else 0)
    export_bundle(checkpoint_dir(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_generated_rows_and_kept_kernels_clear_leftovers(tmp_path: Path) -> None:
    """They are written as all files are: whole or not at all, and the next one clears what was left."""
    import vprm_demo
    from vprm_runtime.engines.cuda.tensorrt.kernel_cache import KernelCache

    rows = vprm_demo.best_of_n_rows(2, cache_dir=tmp_path)
    left = rows.parent.with_name(f".{rows.parent.name}.0123abcd.tmp{rows.parent.suffix}")
    rows.parent.rename(left)
    assert vprm_demo.best_of_n_rows(2, cache_dir=tmp_path) == rows and rows.is_file()
    assert [path.name for path in rows.parent.parent.iterdir()] == [rows.parent.name]

    class Cache:
        def deserialize(self, content: bytes) -> None:
            assert content == b"kernels"

        def serialize(self) -> bytes:
            return b"kernels"

    kept = tmp_path / "kernels" / "it.cache"
    kept.parent.mkdir()
    kept.with_name(".it.cache.0123abcd.tmp.cache").touch()
    KernelCache(Cache(), kept).save()
    KernelCache(Cache(), kept)
    assert [(path.name, path.read_bytes()) for path in kept.parent.iterdir()] == [("it.cache", b"kernels")]
    KernelCache(Cache(), tmp_path / "missing" / "it.cache").save()  # a read-only bundle: compiled again next time


def test_the_message_of_what_is_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(NotRegularError) as caught:
        open_regular(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a directory"


def test_small_files_are_regular_and_small(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_small(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_small(tmp_path / "file", 4)
    with pytest.raises(NotRegularError):
        read_small("/dev/zero")


def test_a_folder_of_state_is_its_own_commands_only(tmp_path: Path) -> None:
    work = parts_folder(tmp_path / "out")
    clear_parts(work, "optimize")  # nothing is there
    claim_parts(work, "optimize")
    (work / "state").write_text("x")
    claim_parts(work, "optimize")
    with pytest.raises(InputError, match="not from an interrupted  vprm calibrate"):
        claim_parts(work, "calibrate")
    clear_parts(work, "calibrate")
    assert (work / "state").read_text() == "x"
    clear_parts(work, "optimize")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "elsewhere").mkdir()
    work.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="move it away"):
        claim_parts(work, "optimize")


def test_onnxruntime_keeps_no_id_of_the_user() -> None:
    import vprm_runtime  # noqa: F401

    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
