"""The pure functions give the golden vectors that are committed; C++ is held to the same files."""

from __future__ import annotations

import json

import pytest
from tests.support.golden import FOLDER, VECTORS, text_of


@pytest.mark.parametrize("name", VECTORS)
def test_golden_vectors(name: str) -> None:
    """`python -m tests.support.golden` writes them anew: only after a deliberate change."""
    committed = (FOLDER / f"{name}.json").read_text("utf-8")
    found = text_of(name)
    assert json.loads(committed)
    for line, expected in zip(found.splitlines(), committed.splitlines(), strict=True):
        assert line == expected
