"""What scoring returns. Its JSON form is `vprm_runtime.wire`'s."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.errors import InputError


@dataclass(frozen=True)
class StepScore:
    """A step's text and its score in [0, 1]: the probability of being right."""

    text: str
    score: float

    def __repr__(self) -> str:
        return f"StepScore({self.score:.4f}, {_shortened(self.text)!r})"


@dataclass(frozen=True)
class CandidateScore:
    """One response's result. If it could not be scored, `error` and `code` say why and `score` is None."""

    index: int
    score: float | None
    steps: tuple[StepScore, ...]
    error: str | None = None
    code: str | None = None

    @property
    def step_scores(self) -> NDArray[np.float64]:
        """Scores of the steps, float64 [steps]; empty if the response could not be scored."""
        return np.array([step.score for step in self.steps], np.float64)

    def __repr__(self) -> str:
        if self.score is None:
            return f"CandidateScore({self.index}, {self.code}: {_shortened(self.error or '')!r})"
        steps = ", ".join(f"{step.score:.3f}" for step in self.steps)
        return f"CandidateScore({self.index}, {self.score:.4f}, steps [{steps}])"


@dataclass(frozen=True)
class ScoreResult:
    """Results of all responses to one question, in input order, duplicates kept; a sequence of them.

    `tiles` has the number of tiles of each image, thumbnail included.
    """

    tiles: tuple[int, ...]
    candidates: tuple[CandidateScore, ...]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Response scores, float64 [responses]; NaN for a response that could not be scored."""
        return np.array([np.nan if c.score is None else c.score for c in self.candidates], np.float64)

    @property
    def step_scores(self) -> NDArray[np.float64]:
        """Step scores, float64 [responses, most steps]; NaN after a response's last step and for failed ones."""
        width = max((len(candidate.steps) for candidate in self.candidates), default=0)
        table = np.full((len(self.candidates), width), np.nan)
        for row, candidate in zip(table, self.candidates, strict=True):
            row[: len(candidate.steps)] = candidate.step_scores
        return table

    @property
    def best(self) -> int | None:
        """Index of the highest score (the first of equals), or None if nothing could be scored."""
        ranking = self.ranking
        return ranking[0] if ranking else None

    @property
    def best_candidate(self) -> CandidateScore:
        """The response with the highest score. Raises InputError if nothing could be scored."""
        if self.best is None:
            reason = self.candidates[0].error if self.candidates else "there is none"
            raise InputError(f"no response could be scored: {reason}", code="nothing_scored")
        return self.candidates[self.best]

    @property
    def ranking(self) -> list[int]:
        """Indices of the scored responses, best first; equals stay in input order."""
        scored = [(candidate.score, candidate.index) for candidate in self.candidates if candidate.score is not None]
        return [index for _, index in sorted(scored, key=lambda pair: -pair[0])]

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index: int) -> CandidateScore:
        return self.candidates[index]

    def __iter__(self) -> Iterator[CandidateScore]:
        return iter(self.candidates)

    def to_dict(self, row_id: str | int | None = None) -> dict[str, Any]:
        """The JSON document of one row, as `vprm score --json` prints it.

        Args:
            row_id: the document's id (default: none).

        Returns:
            A dictionary that `json.dumps` takes: `vprm_runtime.wire.Document`.
        """
        from vprm_runtime.wire import document

        return document(self, row_id)


def all_failed(count: int, error: str, code: str) -> ScoreResult:
    """A result in which every one of `count` responses carries the same error."""
    return ScoreResult((), tuple(CandidateScore(index, None, (), error, code) for index in range(count)))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
