"""`vprm bench session` for real, on the demo PRM."""

from __future__ import annotations

import json

import pytest

from vprm_runtime.cli.main import main


def test_sessions_are_timed_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--session-steps", "3", "--alternatives", "2", "--steps", "1", "--step-tokens", "3", "--tiles", "3"]
    common = ["--rounds", "1", "--threads", "1", "--roofline-size", "256", "--json"]
    assert main(["bench", "session", *sizes, *common]) == 0
    document = json.loads(capsys.readouterr().out)
    names = {"score_next", "whole_on_kept_prefix", "whole_anew", "best_of_8", "best_of_32"}
    assert set(document["contenders"]) == names
    assert document["settings"]["prefix_tokens"] > 3 * 64
    differences = document["accuracy"]["largest_difference_from_anew"]
    assert differences["whole_anew"] == 0
    assert max(differences.values()) < 1e-5
    assert document["ratios"]["whole_anew_over_score_next"] > 0
    assert set(document["goals"]) == {
        "whole_anew_over_score_next",
        "time_per_candidate_best_of_32_over_best_of_8",
    }
