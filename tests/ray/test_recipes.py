"""The recipes of docs/scale.md, as they stand there: xargs, a Slurm array (with a stand-in for srun), Ray Data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.shards import Rows, sample_rows, write_lines

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text("utf-8")
RAY_CPUS = "import ray; ray.init(address='local', num_cpus=3, include_dashboard=False)\n"


def block(word: str) -> str:
    """The page's only block of code with that word."""
    (found,) = [code for code in re.findall(r"```(?:python)?\n(.*?)```", PAGE, re.S) if word in code]
    return found


@pytest.fixture
def folder(demo_bundle: Path, tmp_path: Path) -> Path:
    """A folder as the recipes have it: bundle/, rows.jsonl, its images."""
    (tmp_path / "bundle").symlink_to(demo_bundle)
    write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 12))
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables with which `vprm` is a command, and `srun` runs what it is given."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, command in {"vprm": f'{sys.executable} -m vprm "$@"', "srun": '"$@"'}.items():
        (tools / name).write_text(f"#!/bin/sh\nexec {command}\n")
        (tools / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}


def run(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def assert_whole(folder: Path, rows: Rows) -> None:
    """The merged output is what one process writes."""
    environment = {**os.environ}
    words = [sys.executable, "-m", "vprm", "score", "bundle/", "--input", "rows.jsonl", "--output", "plain.jsonl"]
    run([*words, "--threads", "1"], folder, environment)
    found = [without_text(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert found == [without_text(line) for line in (folder / "plain.jsonl").read_text().splitlines()]
    assert len(found) == len(rows)


def without_text(line: str) -> Any:
    """A document with its scores rounded: recipes take more threads than one."""
    document = json.loads(line)
    for result in document["results"]:
        result["score"] = round(result["score"], 5)
        result["steps"] = [round(step["score"], 5) for step in result["steps"]]
    return document


def test_xargs(folder: Path, environment: dict[str, str]) -> None:
    run(["bash", "-e", "-c", block("xargs")], folder, environment)
    assert_whole(folder, sample_rows(folder, 12))


def test_a_slurm_array(folder: Path, environment: dict[str, str]) -> None:
    job = block("#SBATCH")
    run(["vprm", "shard", "rows.jsonl", "-o", "shards", "--shards", "64"], folder, environment)
    (folder / "scores").mkdir()
    (tasks,) = re.findall(r"--array=0-(\d+)", job)
    for task in range(int(tasks) + 1):
        run(["bash", "-c", job], folder, {**environment, "SLURM_ARRAY_TASK_ID": str(task)})
    run(["vprm", "shard", "shards/", "--merge", "scores/", "-o", "scores.jsonl"], folder, environment)
    assert_whole(folder, sample_rows(folder, 12))


def test_ray_data(folder: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    (folder / "recipe.py").write_text(RAY_CPUS + block("map_batches"))
    run([sys.executable, "recipe.py"], folder, environment)
    lines = [line for path in (folder / "scores").glob("*.json*") for line in path.read_text().splitlines()]
    found = {document["id"]: document["scores"] for document in map(json.loads, lines)}
    assert len(found) == len(lines) == 12
    words = [sys.executable, "-m", "vprm", "score", "bundle/", "--input", "rows.jsonl", "--output", "plain.jsonl"]
    run(words, folder, environment)
    for line in (folder / "plain.jsonl").read_text().splitlines():
        document = json.loads(line)
        wanted = [result["score"] for result in document["results"]]
        assert np.allclose(found[document["id"]], wanted, atol=1e-6)
