"""The wire contract: rows in, documents out, as JSON. The command line, files, the server and its clients all use it.

| type         | what it is                                                            |
|--------------|-----------------------------------------------------------------------|
| Row          | a question about zero, one or several images, and responses to score  |
| Document     | the scores of a row                                                   |
| RowError     | why a row has none                                                    |

The JSON Schemas in `docs/wire.schema.json` are made from these types (`python -m vprm_runtime.wire`, which needs
pydantic). `datasets/row.py` reads rows, and the known data sets' rows too.
"""

from typing import (
    Any,
    NotRequired,  # pydantic needs this one before Python 3.12
)

from typing_extensions import TypedDict

from vprm_runtime.errors import VprmError
from vprm_runtime.results import ScoreResult

RowId = str | int


class ImageObject(TypedDict):
    """An image as data sets' columns have it: encoded bytes (in JSON: base64), or a path."""

    bytes: NotRequired[str | None]
    path: NotRequired[str | None]


# A path, base64 of an image file, or a data URL; to a server also blake2b:DIGEST of an upload.
Image = str | ImageObject


class Row(TypedDict):
    """A row to score. Without an image, or with an empty one, the text alone is scored."""

    id: NotRequired[RowId | None]
    image: NotRequired[Image | list[Image] | None]
    question: str
    responses: list[str | list[str]]
    max_steps: NotRequired[int | None]
    max_tiles: NotRequired[int | None]


class Step(TypedDict):
    """A step and its score: the probability of being right, 0 to 1."""

    text: str
    score: float


class Result(TypedDict):
    """A response's result. If it could not be scored, `error` and `code` say why and `score` is null."""

    index: int
    score: float | None
    steps: list[Step]
    error: str | None
    code: NotRequired[str]


class Document(TypedDict):
    """The scores of a row; a data set's labels are beside them. `best` is the index of the highest score.

    `notes` (a server's) say what its sender should know beside errors: keys that are not read, responses of one step.
    """

    id: NotRequired[RowId]
    tiles: list[int]
    results: list[Result]
    best: int | None
    notes: NotRequired[list[str]]


class RowError(TypedDict):
    """Why a row has no scores. `code` is for programs: it stays when a message is worded anew."""

    id: RowId
    error: str
    code: str


def document(result: ScoreResult, row_id: RowId | None = None) -> dict[str, Any]:
    """The `Document` of a result."""
    head = {} if row_id is None else {"id": row_id}
    results = []
    for candidate in result.candidates:
        entry = {
            "index": candidate.index,
            "score": candidate.score,
            "steps": [{"text": step.text, "score": step.score} for step in candidate.steps],
            "error": candidate.error,
        }
        results.append(entry if candidate.code is None else {**entry, "code": candidate.code})
    return {**head, "tiles": list(result.tiles), "results": results, "best": result.best}


def error_document(error: VprmError, row_id: RowId) -> dict[str, Any]:
    """The `RowError` of an error."""
    return {"id": row_id, "error": str(error), "code": error.code}


def schemas() -> dict[str, Any]:
    """JSON Schemas of all types of the contract, by name; of draft 2020-12. Needs pydantic."""
    from pydantic import TypeAdapter

    types = (Row, Document, RowError)
    return {kind.__name__: TypeAdapter(kind).json_schema() for kind in types}


if __name__ == "__main__":
    import json
    import sys

    json.dump(schemas(), sys.stdout, indent=2)
    sys.stdout.write("\n")
