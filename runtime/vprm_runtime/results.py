"""What scoring returns, and its JSON form (the contract of `vprm score --json`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepScore:
    """A step's text and its score in [0, 1]: the probability of being right."""

    text: str
    score: float


@dataclass(frozen=True)
class CandidateScore:
    """One candidate's result. Where it could not be scored, `error` says why, `score` is None and `steps` is empty."""

    index: int
    score: float | None
    steps: tuple[StepScore, ...]
    error: str | None = None


@dataclass(frozen=True)
class ScoreResult:
    """Results of all candidates of one (image, question), in input order, duplicates kept.

    `tiles` has the number of tiles of each image, thumbnail included.
    """

    tiles: tuple[int, ...]
    candidates: tuple[CandidateScore, ...]

    @property
    def best(self) -> int | None:
        """Index of the highest score (the first of equals), or None where nothing could be scored."""
        ranking = self.ranking
        return ranking[0] if ranking else None

    @property
    def ranking(self) -> list[int]:
        """Indices of the scored candidates, best first; equals stay in input order."""
        scored = [(candidate.score, candidate.index) for candidate in self.candidates if candidate.score is not None]
        return [index for _, index in sorted(scored, key=lambda pair: -pair[0])]

    def to_dict(self, row_id: str | int) -> dict[str, Any]:
        """The JSON document of one row."""
        return {
            "id": row_id,
            "tiles": list(self.tiles),
            "results": [
                {
                    "index": candidate.index,
                    "score": candidate.score,
                    "steps": [{"text": step.text, "score": step.score} for step in candidate.steps],
                    "error": candidate.error,
                }
                for candidate in self.candidates
            ],
            "best": self.best,
        }


def all_failed(tiles: Sequence[int], count: int, error: str) -> ScoreResult:
    """A result in which every one of `count` candidates carries the same error."""
    return ScoreResult(tuple(tiles), tuple(CandidateScore(index, None, (), error) for index in range(count)))
