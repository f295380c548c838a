"""Shards scored by Ray actors: the same bytes as one process, whatever is killed. Clusters are started: a minute."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.support.shards import SITE, sample_rows, write_lines

pytest.importorskip("ray", reason="the extra ray is not installed")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a process whose workers keep a list of the rows that they begin."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "VPRM_TEST_BEGUN": str(tmp_path / "begun"), "VPRM_TEST_ROW_S": "0.1"}


def command(bundle: Path, path: Path, output: Path) -> list[str]:
    run = [sys.executable, "-m", "vprm", "score", str(bundle), "--input", str(path), "--output", str(output)]
    return [*run, "--ray", "local", "--workers", "2"]


def processes(driver: int, title: str) -> list[int]:
    """Processes of the driver's cluster with such a title."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True).stdout
    parents = {
        int(pid): (int(parent), args) for pid, parent, args in (line.split(None, 2) for line in listed.splitlines())
    }

    def is_below(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid][0]
        return pid == driver

    return [pid for pid, (_, args) in parents.items() if title in args and pid != driver and is_below(pid)]


def wait_for_rows(begun: Path, rows: int, driver: subprocess.Popen[bytes]) -> None:
    """Until so many more rows were begun."""

    def count() -> int:
        return len(begun.read_text().split()) if begun.exists() else 0

    start = count()
    while count() < start + rows:
        assert driver.poll() is None, [log.read_text()[-1000:] for log in begun.parent.glob("*.log")]
        time.sleep(0.05)


def test_killed_actors_raylet_and_driver_cost_a_row_each(
    demo_bundle: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Rows that kill their process are named; what is left is what one process writes."""
    rows = sample_rows(tmp_path, 400)
    rows[100]["responses"] = ["POISON"]
    path, output, begun = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "scores.jsonl", tmp_path / "begun"
    deaths, chance = 0, random.Random(5)
    for killed in ("raylet/raylet", "driver"):
        with (tmp_path / f"{Path(killed).name}.log").open("w") as shown:
            driver = subprocess.Popen(command(demo_bundle, path, output), env=environment, stderr=shown)
        try:
            wait_for_rows(begun, 20, driver)
            before = processes(driver.pid, "ray::_Actor")
            os.kill(chance.choice(before), signal.SIGKILL)
            while not set(processes(driver.pid, "ray::_Actor")) - set(before):  # Ray starts another in its place
                assert driver.poll() is None, (tmp_path / f"{Path(killed).name}.log").read_text()[-1000:]
                time.sleep(0.1)
            wait_for_rows(begun, 10, driver)
            victim = driver.pid if killed == "driver" else processes(driver.pid, killed)[0]
            os.kill(victim, signal.SIGKILL)
            driver.wait(120)
        finally:
            driver.kill()
        deaths += 3
    done = subprocess.run(command(demo_bundle, path, output), env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "set aside, because they killed the process: row 100 (id row-100)" in done.stderr
    plain = tmp_path / "plain.jsonl"
    alone = [word for word in command(demo_bundle, path, plain) if word not in ("--ray", "local", "--workers", "2")]
    rows[100]["responses"] = ["Another."]
    write_lines(path, rows)
    subprocess.run([*alone, "--threads", "1"], check=True, capture_output=True)
    lines, wanted = output.read_text().splitlines(), plain.read_text().splitlines()
    assert json.loads(lines.pop(100))["code"] == "crashed"
    wanted.pop(100)
    assert lines == wanted
    counts = Counter(begun.read_text().split())
    assert counts.pop("100") == 3
    assert len(counts) == 399
    assert counts.total() <= 399 + deaths + 3


def test_a_cluster_that_is_not_there_is_an_error(demo_bundle: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 3))
    run = command(demo_bundle, path, tmp_path / "scores.jsonl")
    run[run.index("local")] = "auto"
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no Ray cluster can be reached at auto" in done.stderr
    assert "Traceback" not in done.stderr
