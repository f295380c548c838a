"""Runs that are interrupted, go on elsewhere, or fail for a reason that is not the recipe's."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vprm_demo
from vprm_demo import checkpoint_dir
from vprm_optimize.child import say_nothing
from vprm_optimize.jobs import Journal, run_job
from vprm_optimize.meter import Meter
from vprm_optimize.plan import Request
from vprm_optimize.run import Run, opened_run
from vprm_optimize.selection import ChosenRows
from vprm_runtime import BundleError, InputError
from vprm_runtime.cli.main import main
from vprm_runtime.datasets.row import Row
from vprm_runtime.files import parts_folder

CHECKPOINT = str(checkpoint_dir())


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Few best-of-2 questions, images beside them."""
    return vprm_demo.best_of_n_rows(8, n_responses=2, cache_dir=tmp_path / "rows")


def test_the_time_of_stages_that_a_kill_ended_counts(tmp_path: Path) -> None:
    file = tmp_path / "stages.jsonl"
    began = time.time() - 1000
    file.write_text(json.dumps({"began": "export", "at": began}) + "\n")
    os.utime(file, (began + 250, began + 250))  # when it was last alive
    assert Journal(file).spent_s() == pytest.approx(250, abs=1)
    with pytest.raises(KeyboardInterrupt), Journal(file).stage("export", 1.0):
        raise KeyboardInterrupt
    assert Journal(file).spent_s() == pytest.approx(250, abs=5)
    assert Journal(file).stages() == []


def test_a_stage_keeps_its_file_young(tmp_path: Path) -> None:
    file = tmp_path / "stages.jsonl"
    with Journal(file).stage("export", 1.0):
        os.utime(file, (1, 1))
        until = time.monotonic() + 30
        while file.stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert file.stat().st_mtime > 2


def test_a_time_limit_counts_what_earlier_runs_took(tmp_path: Path, rows: Path) -> None:
    request = Request(checkpoint_dir(), tmp_path / "bundle", "cpu", (rows,), time_limit_s=600.0)
    with opened_run(request) as run:
        assert not run._is_late()
        with run.journal.stage("export fp32 (reference)", 1.0):
            pass
        file = run.work / "stages.jsonl"
    file.write_text(file.read_text() + json.dumps({"interrupted": "calibrate", "seconds": 601.0}) + "\n")
    with opened_run(request) as run:
        assert run._is_late()


def test_a_run_goes_on_from_another_folder_with_relative_paths(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rows.parent)
    with opened_run(Request(checkpoint_dir(), Path("../bundle"), data=(Path(rows.name),), max_rows=4)) as run:
        before = run.plan
    assert all(Path(one.file).is_absolute() for one in before.selection.judging)
    (tmp_path / "elsewhere").mkdir()
    rows.parent.rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = Request(checkpoint_dir(), Path("../bundle"), data=(Path("moved") / rows.name,), max_rows=4)
    with opened_run(moved) as run:
        found = list(ChosenRows(run.plan.selection.judging))
        assert [one.numbers for one in run.plan.selection.judging] == [one.numbers for one in before.selection.judging]
    assert len(found) == 4
    for row in found:
        assert isinstance(row, Row) and Path(str(row.images[0])).exists()


def test_modules_in_the_users_folder_are_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "json", "types", "vprm_runtime"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the user's own')")
    monkeypatch.chdir(tmp_path)
    assert main(["optimize", CHECKPOINT, "bundle", "--goal", "exact"]) == 0


def test_a_job_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "job.json")  # it waits for its job for ever
    command = [sys.executable, "-P", "-m", "vprm_optimize.child", str(tmp_path / "job.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as job:
        assert job.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(3)
        job.stdin.close()
        assert job.wait(60) == 130


def test_an_error_of_the_system_is_none_of_a_recipe(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    request = Request(checkpoint_dir(), tmp_path / "bundle", "cpu", (rows,), max_rows=2, goal="exact")
    with opened_run(request) as run:
        run.run()
        bundle, selection = run.bundle(run.plan.groups[0][0]), run.plan.selection.to_dict()
        job = {"kind": "judge", "bundle": str(bundle), "device": "cpu", "threads": 1, "label": "judge"}
        job |= {"selection": selection, "output": str(tmp_path / "no" / "such" / "folder")}
        with pytest.raises(FileNotFoundError) as caught:
            run_job(job, work, (), say_nothing, Meter())
    assert caught.value.filename == job["output"] and list(work.iterdir()) == []

    def full(self: Run, *arguments: object) -> None:
        raise BundleError("the disk is full") if failing == "export" else OSError(errno.ENOSPC, "No space left", "x")

    for failing, method in (("export", "_export"), ("judge", "_child")):
        with monkeypatch.context() as patch:
            patch.setattr(Run, "_export", lambda self, outcome: None)
            patch.setattr(Run, method, full)
            other = Request(checkpoint_dir(), tmp_path / failing, "cpu", (rows,), max_rows=2)
            with opened_run(other) as run, pytest.raises((BundleError, OSError)):
                run._try_group(run.plan.groups[0])
            assert [outcome.state for outcome in run.outcomes] == ["not tried"]


def test_a_full_disk_is_said_with_what_is_kept(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Run, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))

    monkeypatch.setattr(Run, "_child", full)
    assert main(["optimize", CHECKPOINT, str(tmp_path / "bundle"), "--data", str(rows), "--for", "cpu"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path / 'x'}: No space left on device" in shown
    assert f"kept in {tmp_path / 'bundle.parts'}: mend this, and the same command goes on" in shown


def test_who_waited_for_a_run_that_made_the_bundle_says_so_and_leaves_nothing(tmp_path: Path, rows: Path) -> None:
    request = Request(checkpoint_dir(), tmp_path / "bundle", "cpu", (rows,))
    (tmp_path / "bundle").mkdir()
    parts_folder(request.output).mkdir()  # as it is when the other one has just cleared up
    with pytest.raises(InputError, match="exists already"), opened_run(request):
        pass
    assert not parts_folder(request.output).exists()


def test_folders_of_a_run_that_cannot_be_planned_are_not_left(tmp_path: Path) -> None:
    missing = Request(tmp_path / "none", tmp_path / "new" / "folders" / "bundle", goal="exact")
    with pytest.raises(ValueError, match="no checkpoint directory"), opened_run(missing):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", ["/dev/null", "/dev/stdin"])
def test_rows_that_can_be_read_only_once_are_refused_with_what_to_do(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path(data).exists():
        pytest.skip(f"no {data} here")
    assert main(["optimize", CHECKPOINT, str(tmp_path / "bundle"), "--data", data]) == 2
    assert "write them into a file and name that" in " ".join(capsys.readouterr().err.split())


def run_in(folder: str, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python code, from a folder, with variables of the environment set."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env={**os.environ, **variables}
    )


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r}); from vprm_runtime.cli.main import main; "
    relative = run_in(
        str(gone), code + f"raise SystemExit(main(['optimize', {CHECKPOINT!r}, 'out', '--goal', 'exact']))"
    )
    assert (relative.returncode, relative.stderr.count("\n")) == (2, 1), relative.stderr
    assert "the working directory is gone" in relative.stderr
    gone.mkdir()
    output = str(tmp_path / "bundle")
    absolute = run_in(
        str(gone), code + f"raise SystemExit(main(['optimize', {CHECKPOINT!r}, {output!r}, '--goal', 'exact']))"
    )
    assert absolute.returncode == 0, absolute.stderr


def test_names_that_are_not_ascii_are_reported_as_they_are_in_every_locale(tmp_path: Path) -> None:
    """LC_ALL=C without Python's UTF-8 mode: names come as surrogates, which no UTF-8 file takes."""
    folder = tmp_path / "Prüfung 图"
    folder.mkdir()
    for file in checkpoint_dir().iterdir():
        (folder / file.name).symlink_to(file)
    arguments = [str(folder), str(tmp_path / "Bündel"), "--goal", "exact", "--html", "--system-message", "Prüfe 图."]
    command = [sys.executable, "-m", "vprm", "optimize", *arguments]
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "Bündel" / "report.json").read_text("utf-8"))
    manifest = json.loads((tmp_path / "Bündel" / "manifest.json").read_text("utf-8"))
    assert report["model"] == manifest["model"]["name"] == "Prüfung 图"
    assert report["bundle"] == str(tmp_path / "Bündel")
    assert manifest["prompt"]["system_message"] == "Prüfe 图."
    assert any(str(folder) in command for command in report["commands"])
