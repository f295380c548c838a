"""Inputs of the past, a fixed short budget of each campaign, and rows of any JSON at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.fuzz.campaigns import READERS, folder_of, in_time, run, trial_of
from tests.fuzz.findings import FINDINGS
from tests.fuzz.kills import run_kills
from tests.fuzz.shared import SHARED

from vprm_runtime import VprmError
from vprm_runtime.datasets.parsed_row import row_from_line

BUDGETS = {"images": 300, "manifests": 150, "safetensors": 500, "texts": 25, "rows": 500, "tokenizers": 25}
SHARED_BUDGETS = {"threads": 2, "forks": 3, "flips": 30}
NEEDS_ALARM = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGALRM")


@NEEDS_ALARM
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, inputs in FINDINGS.items() for name in inputs])
def test_what_once_went_wrong_is_refused(
    kind: str, name: str, demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = FINDINGS[kind][name](demo_bundle)
    read = READERS[kind](folder_of(kind, tmp_path), demo_bundle)
    with in_time(20), pytest.raises(VprmError) as refused:
        read(content)
    assert 0 < len(str(refused.value)) < 1500
    assert "".join(capfd.readouterr()) == ""


@NEEDS_ALARM
@pytest.mark.parametrize("kind", BUDGETS)
def test_a_short_campaign(kind: str, demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    findings: list[str] = []
    trial = trial_of(kind, folder_of(kind, tmp_path), demo_bundle)
    outcomes = run(kind, trial, range(BUDGETS[kind]), lambda seed, error: findings.append(f"{seed}: {error!r}"))
    assert findings == []
    assert outcomes["right"] + outcomes["refused"] == BUDGETS[kind]
    assert outcomes["refused"] > 0 or kind == "texts"
    assert "".join(capfd.readouterr()) == ""


@NEEDS_ALARM
@pytest.mark.parametrize("kind", SHARED_BUDGETS)
def test_a_short_campaign_of_what_is_shared(kind: str, demo_bundle: Path, tmp_path: Path) -> None:
    findings: list[str] = []
    trial = SHARED[kind](folder_of(kind, tmp_path), demo_bundle)
    outcomes = run(kind, trial, range(SHARED_BUDGETS[kind]), lambda seed, error: findings.append(f"{seed}: {error!r}"))
    assert findings == []
    assert outcomes["refused" if kind == "flips" else "right"] == SHARED_BUDGETS[kind]


def test_a_few_kills(demo_bundle: Path, tmp_path: Path) -> None:
    findings: list[str] = []
    outcomes = run_kills(
        "kill-export", range(2), tmp_path, demo_bundle, lambda seed, error: findings.append(f"{seed}: {error!r}")
    )
    assert findings == []
    assert outcomes["resumed equal"] + outcomes["ended before"] > 0


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = some.sampled_from(["id", "question", "responses", "response", "image", "answer", "max_tiles", "conversations"])


@settings(max_examples=200, deadline=None)
@given(some.dictionaries(KEYS, JSON, max_size=8))
def test_rows_of_any_json(record: dict[str, Any]) -> None:
    row = row_from_line(json.dumps(record).encode(), 0, "line 1", Path())
    assert row.number == 0
