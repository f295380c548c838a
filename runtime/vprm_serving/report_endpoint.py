"""/v1/report: a scored row as the page that `vprm eval` writes, one HTML file that loads nothing. The engine rests."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vprm_report import Candidate, Card, Page, RowView, Step, html_from_page, page_image
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.execution.aggregate import AGGREGATES, Aggregate, aggregate_scores
from vprm_runtime.options import DEFAULT_OPTIONS
from vprm_serving.admission import Place
from vprm_serving.http import read_json, service_of
from vprm_serving.intake import Work
from vprm_serving.service import Service

_KEYS = ("row", "results", "aggregate", "threshold")
_FOOTER = (
    "Made by vprm serve. Grid lines show the tiles that the model sees; scores are the probability of a right step."
)


async def report(request: Request, place: Place) -> Response:
    """The report of `{"row", "results", "aggregate"?, "threshold"?}`: a row, and what /v1/score answered to it."""
    service = service_of(request)
    body = await read_json(request, place)
    if not isinstance(body, Mapping) or not {"row", "results"} <= body.keys() or set(body) - set(_KEYS):
        raise InputError(
            f"the body is an object with {', '.join(_KEYS)}: the last two may be left out", code="bad_json"
        )
    aggregate, threshold = body.get("aggregate", "mean"), body.get("threshold", 0.5)
    if aggregate not in AGGREGATES:
        raise InputError(f"unknown aggregate {quoted(aggregate)}: use one of {', '.join(AGGREGATES)}")
    if not _is_score(threshold):
        raise InputError(f"threshold is a number from 0 to 1, got {quoted(threshold)}")
    work = await service.prepared(body["row"], DEFAULT_OPTIONS)
    text = await service.in_thread(_html, service, work, body["results"], aggregate, float(threshold))
    return HTMLResponse(text, headers={"content-disposition": 'attachment; filename="vprm-report.html"'})


def _html(service: Service, work: Work, results: object, aggregate: Aggregate, threshold: float) -> str:
    """The page's text. Raises InputError if the results do not fit the row."""
    row, tiling = work.row, service.model.manifest.tiling.limited(work.max_tiles)
    steps = _steps_of(results, len(row.responses))
    scores = [None if isinstance(s, str) else aggregate_scores([score for _, score in s], aggregate) for s in steps]
    order = sorted(range(len(steps)), key=lambda index: (scores[index] is None, -(scores[index] or 0.0), index))
    best = order[0] if scores[order[0]] is not None else None
    labels = row.labels.get("process_correctness")
    candidates, wrong, severity = [], 0, 0.0
    for index in order:
        found = steps[index]
        views = [] if isinstance(found, str) else _views(found, _labels_of(labels, index, len(found)), threshold)
        wrong += sum(view.wrong_call for view in views)
        severity = max([severity, *(abs(view.score - threshold) for view in views if view.wrong_call)])
        error = found if isinstance(found, str) else None
        candidates.append(
            Candidate(f"Response {index + 1}", scores[index], tuple(views), best=index == best, error=error)
        )
    answer = row.labels.get("answer")
    manifest = service.model.manifest
    top = None if best is None else scores[best]
    view = RowView(
        id=str(row.id),
        source=str(row.labels.get("data_source", "one row")),
        policy=str(row.labels.get("policy_model", "unknown")),
        question=row.question,
        images=tuple(page_image(image, tiling) for image in work.images),
        candidates=tuple(candidates),
        wrong_calls=wrong,
        severity=severity,
        score=top,
        answer=None if answer is None else str(answer),
        verdict="" if labels is None else f"{wrong} steps called wrongly",
    )
    cards = (
        Card("Responses", str(len(steps)), f"{sum(score is None for score in scores)} not scored"),
        Card("Best", "–" if best is None else f"Response {best + 1}", f"by {aggregate} of its steps"),
        Card("Its score", "–" if top is None else f"{top:.3f}"),
        Card("Threshold", f"{threshold:g}", "a step with a higher score is called right"),
    )
    page = Page(
        title="Step scores",
        subtitle=f"{manifest.model.name} · {service.scorers[0].engine.description}",
        cards=cards, charts=(), tables=(), rows=(view,), rows_in_all=1, footer=_FOOTER,
        rows_note="" if labels is None else "An outlined step is one that the model calls wrongly.",
    )  # fmt: skip
    return html_from_page(page)


def _steps_of(results: object, responses: int) -> list[list[tuple[str, float]] | str]:
    """Texts and scores of each response's steps, or its error, by index. Raises InputError on anything else."""
    if not isinstance(results, list) or len(results) != responses:
        raise InputError(f"results is a list of {responses}, as the row has so many responses: score the row first")
    found: dict[int, list[tuple[str, float]] | str] = {}
    for result in results:
        entry: Mapping[str, Any] = result if isinstance(result, Mapping) else {}
        index, error, steps = entry.get("index"), entry.get("error"), entry.get("steps")
        if not isinstance(index, int) or not 0 <= index < responses or index in found:
            raise InputError(f"each of the results has its own index from 0 to {responses - 1}, got {quoted(index)}")
        if isinstance(error, str):
            found[index] = error
            continue
        if error is not None or not isinstance(steps, list) or not steps or not all(map(_is_step, steps)):
            raise InputError(f"result {index} has neither an error nor steps with text and score: score the row first")
        found[index] = [(step["text"], float(step["score"])) for step in steps]
    return [found[index] for index in range(responses)]


def _views(steps: list[tuple[str, float]], labels: list[int] | None, threshold: float) -> list[Step]:
    views = []
    for number, (text, score) in enumerate(steps):
        label = None if labels is None else labels[number]
        views.append(Step(text, score, label, bool(label) and (score > threshold) != (label == 1)))
    return views


def _labels_of(labels: object, index: int, steps: int) -> list[int] | None:
    """Labels of one response's steps, if there is one for each (not if steps were joined)."""
    own = labels[index] if isinstance(labels, list) and index < len(labels) else None
    return own if isinstance(own, list) and len(own) == steps and all(label in (1, 0, -1) for label in own) else None


def _is_step(step: object) -> bool:
    return isinstance(step, Mapping) and isinstance(step.get("text"), str) and _is_score(step.get("score"))


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1  # NaN is neither
