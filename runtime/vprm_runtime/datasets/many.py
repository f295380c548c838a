"""Many questions in one call, for `StepScorer.score_many`: grouped by prefix, results in input order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from vprm_runtime.datasets.requests import Request, RequestLike, by_prefix, request_from
from vprm_runtime.datasets.row_notes import RowNotes
from vprm_runtime.errors import InputError
from vprm_runtime.images.load import ImageInput
from vprm_runtime.options import ScoreOptions
from vprm_runtime.prompt.steps import SplittingWatch
from vprm_runtime.results import ScoreResult, all_failed
from vprm_runtime.session import Session


class OpenSession(Protocol):
    """`StepScorer.session`."""

    def __call__(self, images: Sequence[ImageInput], question: str, *, max_tiles: int | None) -> Session:
        """A session of the images and the question."""
        ...


def score_requests(
    open_session: OpenSession,
    rows: Iterable[RequestLike],
    image_root: Path,
    base: ScoreOptions,
    watch: SplittingWatch,
    progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> Iterator[ScoreResult]:
    """One result per row, in input order; a row that cannot be scored has its error for each of its responses.

    `say` gets what a user should know of the rows before the first is scored.
    """
    requests = [request_from(row, number, image_root, base) for number, row in enumerate(rows)]
    notes = RowNotes()
    for request in requests:
        notes.add(request)
        if request.id is not None:
            notes.add_id(request.id)
    for line in notes.lines:
        say(line)
    done: dict[int, ScoreResult] = {}
    following = 0
    for group in [*by_prefix(requests), []]:
        if group:
            done |= _scored(open_session, [requests[index] for index in group], group)
        while following < len(requests) and (following in done or requests[following].error is not None):
            request = requests[following]
            if request.error is None:
                result = done.pop(following)
                watch.add(request.responses, [len(candidate.steps) for candidate in result])
            else:
                result = all_failed(len(request.responses), str(request.error), request.error.code)
            yield result
            following += 1
        if progress is not None:
            progress(following, len(requests))


def _scored(open_session: OpenSession, group: Sequence[Request], numbers: Sequence[int]) -> dict[int, ScoreResult]:
    """Results, by number, of requests that share a prefix: responses with equal options run side by side."""
    results: dict[int, ScoreResult] = {}
    first = group[0]
    try:
        with open_session(list(first.images), first.question, max_tiles=first.options.max_tiles) as session:
            for how in {request.options.responses: None for request in group}:
                same = [(n, r) for n, r in zip(numbers, group, strict=True) if r.options.responses == how]
                scored = session.score([response for _, r in same for response in r.responses], **vars(how))
                start = 0
                for number, request in same:
                    part = scored.candidates[start : start + len(request.responses)]
                    start += len(part)
                    own = tuple(replace(candidate, index=index) for index, candidate in enumerate(part))
                    results[number] = ScoreResult(scored.tiles, own)
    except InputError as error:
        for number, request in zip(numbers, group, strict=True):
            results[number] = all_failed(len(request.responses), str(error), error.code)
    return results
