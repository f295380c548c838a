"""`vprm bench serve` on a very short run: it starts its servers, compares answers, and prints one document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vprm_benchmarks.serving.load import percentile
from vprm_runtime.cli.main import main


def test_a_short_run_gives_one_document(demo_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "serve", str(demo_bundle), "--parts", "throughput,overload", "--seconds", "0.3", "--rounds", "1"]
    assert main([*words, "--overload-seconds", "1", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert set(document["parts"]["throughput"]) == {
        "one_response_one_image",
        "best_of_8_one_image",
        "distinct_images",
    }
    assert document["accuracy"]["compared_responses"] > 0
    assert document["accuracy"]["largest_difference"] <= 1e-6
    assert document["parts"]["overload"]["other"] == 0


def test_an_unknown_part_is_refused(demo_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", str(demo_bundle), "--parts", "everything"]) == 2
    assert "no part 'everything'" in capfd.readouterr().err


def test_percentiles() -> None:
    assert percentile([], 99) is None
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(n) for n in range(100)], 99) == 99.0
