"""What the pages of evaluations share: their context, rows' images and steps, figures as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vprm_benchmarks.evaluation.scored import DataFile, LeftOut, ScoredCandidate, row_images
from vprm_report import PageImage, Step, Table, page_image
from vprm_runtime import InputError
from vprm_runtime.bundle.manifest import TilingInfo

T = TypeVar("T")
MAX_LISTED = 50  # rows that were left out, by name
FOOTER = "Made by vprm. Grid lines show the tiles that the model sees; scores are the probability of a right step."


@dataclass(frozen=True)
class PageContext:
    """What a page says about its making: data, model, engine; the tiling for grids; how many rows to show."""

    data: DataFile
    data_name: str
    model: str
    engine: str
    tiling: TilingInfo
    max_rows: int = 200

    @property
    def subtitle(self) -> str:
        """One line under the title."""
        return f"{self.model} on {self.data_name} · {self.engine}"


def left_out_table(left_out: Sequence[LeftOut]) -> tuple[Table, ...]:
    if not left_out:
        return ()
    rows = tuple((str(item.id), item.reason) for item in left_out[:MAX_LISTED])
    more = f"and {len(left_out) - MAX_LISTED:,} more" if len(left_out) > MAX_LISTED else ""
    return (Table(f"Left out: {len(left_out):,}", ("Row", "Why"), rows, more),)


def steps_of(candidate: ScoredCandidate, labels: Sequence[int] | None, threshold: float | None) -> tuple[Step, ...]:
    result = []
    for number, (text, score) in enumerate(zip(candidate.steps, candidate.scores, strict=True)):
        label = labels[number] if labels is not None else None
        wrong = threshold is not None and bool(label) and (score > threshold) != (label == 1)
        result.append(Step(text, score, label, wrong))
    return tuple(result)


def most_telling(items: Sequence[T], severity: Callable[[T], tuple[int, float]], limit: int) -> list[T]:
    """At most `limit` items in their order: half of them those with most wrong calls, the rest spread evenly."""
    if len(items) <= limit:
        return list(items)
    by_severity = sorted(range(len(items)), key=lambda n: severity(items[n]), reverse=True)
    worst, others = set(by_severity[: (limit + 1) // 2]), sorted(by_severity[(limit + 1) // 2 :])
    spread = {others[n * len(others) // (limit // 2)] for n in range(limit // 2)}
    return [items[n] for n in sorted(worst | spread)]


def images_of(context: PageContext, numbers: Sequence[int]) -> Mapping[int, tuple[PageImage, ...]]:
    """Images by row number; one that cannot be read any more is left out."""
    result: dict[int, tuple[PageImage, ...]] = {}
    for number, images in row_images(context.data, set(numbers)):
        try:
            result[number] = tuple(page_image(image, context.tiling) for image in images)
        except InputError:
            continue
    return result


def answer_of(labels: Mapping[str, object]) -> str | None:
    answer = labels.get("answer")
    return None if answer is None else str(answer)


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def interval_note(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"
