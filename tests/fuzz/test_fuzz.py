"""A fixed short budget of each campaign, and rows of any JSON at all."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from vprm_runtime.datasets.source import row_from_line

_SPEC = importlib.util.spec_from_file_location("fuzz_campaigns", Path(__file__).with_name("campaigns.py"))
assert _SPEC is not None and _SPEC.loader is not None
campaigns = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(campaigns)

BUDGETS = {"images": 300, "manifests": 150, "safetensors": 500, "texts": 25, "rows": 500, "tokenizers": 25}


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGALRM")
@pytest.mark.parametrize("kind", BUDGETS)
def test_a_short_campaign(kind: str, demo_bundle: Path, tmp_path: Path) -> None:
    findings: list[str] = []
    outcomes = campaigns.run(
        kind, range(BUDGETS[kind]), tmp_path, demo_bundle, lambda seed, error: findings.append(f"{seed}: {error!r}")
    )
    assert findings == []
    assert outcomes["right"] + outcomes["refused"] == BUDGETS[kind]
    assert outcomes["refused"] > 0 or kind in ("rows", "texts")


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
