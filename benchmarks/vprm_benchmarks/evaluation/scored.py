"""Rows of a file with their scores: scoring runs through `vprm_runtime.datasets`, so it streams, shares and resumes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vprm_runtime import InputError, ScoreOptions, StepScorer
from vprm_runtime.datasets import BadRow, open_rows, score_file
from vprm_runtime.datasets.row import Row, RowId
from vprm_runtime.datasets.row_images import RowImage
from vprm_runtime.prompt.builder import Response

Progress = Callable[[int, int | None, int], None]


@dataclass(frozen=True)
class ScoredCandidate:
    """A response's steps as scored, their scores, and their labels if the row has them."""

    steps: tuple[str, ...]
    scores: tuple[float, ...]
    labels: tuple[int, ...] | None
    error: str | None
    label_error: str | None = None  # why there are labels and they are not used


@dataclass(frozen=True)
class ScoredRow:
    """A row with its scores. `number`: its place in scoring order; `outcome`: scores of its responses as one step."""

    number: int
    id: RowId
    question: str
    responses: tuple[Response, ...]
    tiles: tuple[int, ...]
    candidates: tuple[ScoredCandidate, ...]
    labels: Mapping[str, Any]
    outcome: tuple[float | None, ...] = ()

    @property
    def source(self) -> str:
        """The data set that the question comes from."""
        return str(self.labels.get("data_source", "unknown"))

    @property
    def policy(self) -> str:
        """The model that wrote the responses."""
        return str(self.labels.get("policy_model", "unknown"))


@dataclass(frozen=True)
class LeftOut:
    """A row that is not evaluated, and why."""

    id: RowId
    reason: str


def first_reason(left_out: Sequence[LeftOut]) -> str:
    """How many rows are left out and why the first is, to go after an error message; "" if none is."""
    if not left_out:
        return ""
    return f"; {len(left_out)} rows were left out, the first (row {left_out[0].id}) because: {left_out[0].reason}"


@dataclass(frozen=True)
class ScoredRows:
    """What became of a file's rows."""

    rows: tuple[ScoredRow, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class DataFile:
    """A file of rows and where its relative image paths start (None: beside it)."""

    path: Path
    image_root: Path | None = None


def score_rows(
    scorer: StepScorer,
    data: DataFile,
    options: ScoreOptions,
    scores_path: Path | None,
    progress: Progress,
    with_outcome: bool = False,
) -> ScoredRows:
    """Score a file's rows into `scores_path` (None: a temporary file), resuming it, and read them back."""
    with tempfile.TemporaryDirectory(prefix="vprm-eval-") as folder:
        target = scores_path or Path(folder) / "scores.jsonl"
        score_file(
            scorer, data.path, target,
            image_root=data.image_root, options=options, progress=progress, with_outcome=with_outcome,
        )  # fmt: skip
        scored = read_scored(data, target)
    if not scored.rows and scored.left_out:
        first = scored.left_out[0]
        raise InputError(
            f"not one of {len(scored.left_out)} rows can be evaluated, the first (row {first.id}) because: "
            f"{first.reason}",
            code="nothing_scored",
        )
    return scored


def read_scored(data: DataFile, scores_path: Path) -> ScoredRows:
    """Join a file of rows with its scores. Rows and candidates with an error are kept apart, never counted as 0."""
    documents: dict[int, dict[str, Any]] = {}
    with scores_path.open("rb") as file:
        for line in file:
            document = json.loads(line)
            documents[document["row"]] = document
    rows: list[ScoredRow] = []
    left_out: list[LeftOut] = []
    for number, row in enumerate(open_rows(data.path, data.image_root)):
        document = documents.get(row.number, {})
        if document.get("id") != row.id:
            raise InputError(f"{scores_path} has no scores of row {row.number} (id {row.id!r}): score the file again")
        if isinstance(row, BadRow) or "error" in document:
            left_out.append(LeftOut(row.id, document.get("error") or "not readable"))
        elif row.label_error is not None:
            left_out.append(LeftOut(row.id, row.label_error))
        else:
            rows.append(_scored_row(number, row, document))
    return ScoredRows(tuple(rows), tuple(left_out))


def row_images(data: DataFile, numbers: set[int]) -> Iterator[tuple[int, tuple[RowImage, ...]]]:
    """(number, images) of the rows with these numbers, one at a time."""
    for number, row in enumerate(open_rows(data.path, data.image_root)):
        if number in numbers and isinstance(row, Row):
            yield number, row.images


def _miscounted(labels: object, steps: int) -> str | None:
    if not isinstance(labels, list) or len(labels) == steps:
        return None
    return f"process_correctness has {len(labels)} labels for {steps} steps: split steps as the labels were made for"


def _scored_row(number: int, row: Row, document: Mapping[str, Any]) -> ScoredRow:
    step_labels = row.labels.get("process_correctness")
    by_candidate = step_labels if isinstance(step_labels, list) else []
    candidates = []
    for index, result in enumerate(document["results"]):
        labels = by_candidate[index] if index < len(by_candidate) else None
        steps = result["steps"]
        candidates.append(
            ScoredCandidate(
                steps=tuple(step["text"] for step in steps),
                scores=tuple(float(step["score"]) for step in steps),
                labels=tuple(labels) if isinstance(labels, list) and len(labels) == len(steps) else None,
                error=result["error"],
                label_error=_miscounted(labels, len(steps)),
            )
        )
    return ScoredRow(
        number=number,
        id=row.id,
        question=row.question,
        responses=row.responses,
        tiles=tuple(document["tiles"]),
        candidates=tuple(candidates),
        labels=row.labels,
        outcome=tuple(document.get("outcome", ())),
    )
