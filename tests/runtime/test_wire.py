"""The wire contract: documents are what the schemas say, and the committed schemas are the types'."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from vprm_runtime import InputError, StepScorer
from vprm_runtime.wire import Document, Row, RowError, error_document, schemas

SCHEMA = Path(__file__).parents[2] / "docs" / "wire.schema.json"


def checked(kind: Any, document: object) -> None:
    TypeAdapter(kind).validate_json(json.dumps(document, allow_nan=False), strict=True)


def test_the_committed_schemas_are_current() -> None:
    """Run the tests with UPDATE_DOCS=1 to write them anew."""
    text = json.dumps(schemas(), indent=2) + "\n"
    if os.environ.get("UPDATE_DOCS"):
        SCHEMA.write_text(text, "utf-8")
    assert SCHEMA.read_text("utf-8") == text


def test_documents_are_as_the_contract_says(
    random_scorer: Callable[[str], StepScorer], make_image: Callable[..., Image.Image]
) -> None:
    result = random_scorer("internlm2").score(make_image(), "How many?", ["One.\n\nTwo.", []])
    document = result.to_dict("a")
    checked(Document, document)
    assert list(document) == ["id", "tiles", "results", "best"]
    assert list(document["results"][0]) == ["index", "score", "steps", "error"]
    assert document["results"][1]["code"] == "invalid_input"
    assert "id" not in result.to_dict()
    checked(RowError, error_document(InputError("x"), 3))
    checked(Row, {"image": ["a.png"], "question": "How many?", "responses": ["One.", ["One.", "Two."]]})
    with pytest.raises(ValidationError):
        checked(Document, {**document, "best": "0"})
    with pytest.raises(ValidationError):
        checked(Row, {"question": "How many?", "responses": [3]})
