"""Shards scored by Ray actors: the same bytes as one process, whatever is killed. Clusters are started: a minute."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from tests.ray.campaign import Campaign
from tests.support.shards import sample_rows, write_lines

pytest.importorskip("ray", reason="the extra ray is not installed")

pytestmark = pytest.mark.filterwarnings("default")


def test_kills_cost_at_most_a_row_each(demo_bundle: Path, tmp_path: Path) -> None:
    """Rows that kill their process are named; what is left is what one process writes."""
    rows = sample_rows(tmp_path, 400)
    rows[100]["responses"] = ["POISON"]
    path, output = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "scores.jsonl"
    campaign = Campaign(demo_bundle, path, output, tmp_path, row_s=0.1)
    kills = ["scorer", "raylet", "actor", "driver"]
    outcome = campaign.run(kills, 400, seed=5)
    shown = campaign.log.read_text()
    assert outcome.exit_code == 1, shown
    assert "set aside, because they killed the process: row 100 (id row-100)" in shown
    plain = tmp_path / "plain.jsonl"
    rows[100]["responses"] = ["Another."]
    write_lines(path, rows)
    subprocess.run([*campaign.alone, str(plain), "--threads", "1"], check=True, capture_output=True)
    lines, wanted = output.read_text().splitlines(), plain.read_text().splitlines()
    assert json.loads(lines.pop(100))["code"] == "crashed"
    wanted.pop(100)
    assert lines == wanted
    counts = Counter(campaign.rows_begun())
    assert 3 <= counts.pop("100") <= 3 * outcome.commands  # an error is tried again by the next command
    assert len(counts) == 399
    assert counts.total() <= 399 + len(kills)


def test_a_thousand_rows_of_which_one_is_poison(demo_bundle: Path, tmp_path: Path) -> None:
    """Without any kill from outside: 999 are scored, the one is named, and the exit code says so."""
    rows = sample_rows(tmp_path, 1000)
    rows[417]["responses"] = ["POISON"]
    path, output = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "scores.jsonl"
    campaign = Campaign(demo_bundle, path, output, tmp_path)
    done = subprocess.run([*campaign.command, "--json"], env=campaign.environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "wrote" in done.stderr
    assert "set aside, because they killed the process: row 417 (id row-417)" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["errors"], summary["crashed_rows"]) == (1000, 1, 1)
    documents = [json.loads(line) for line in output.read_text().splitlines()]
    assert [document["row"] for document in documents] == list(range(1000))
    assert [document["row"] for document in documents if "error" in document] == [417]
    assert all(result["score"] is not None for d in documents if "error" not in d for result in d["results"])


def test_a_cluster_that_is_not_there_is_an_error(demo_bundle: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 3))
    run = Campaign(demo_bundle, path, tmp_path / "scores.jsonl", tmp_path).command
    run[run.index("local")] = "auto"
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no Ray cluster can be reached at auto" in done.stderr
    assert "Traceback" not in done.stderr
