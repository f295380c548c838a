"""Rows as Python objects, as training loops have them: what `StepScorer.score_many` groups and scores."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.row import Row, RowId, row_from_record
from vprm_runtime.errors import InputError
from vprm_runtime.execution.prepare import pinned
from vprm_runtime.images.load import ImageInput, NamedImage
from vprm_runtime.inputs import images_of, list_of, plain_value, text_of
from vprm_runtime.options import ScoreOptions
from vprm_runtime.prompt.builder import Response
from vprm_runtime.prompt.image_markers import remark_on_marks

RequestLike = Row | Mapping[str, Any] | tuple[Any, str, Sequence[Response]]
"""A row, a record as in a file of rows, or (images, question, responses) as `StepScorer.score` takes them."""


@dataclass(frozen=True)
class Request:
    """One question with its responses; or, if it cannot be read, the error and how many responses it was for.

    `id`, `unread` and `remarks` are those of its row, for notes; `id` is None if it has none of its own.
    """

    images: tuple[ImageInput, ...]
    question: str
    responses: tuple[Response, ...]
    options: ScoreOptions
    key: bytes = b""
    error: InputError | None = None
    id: RowId | None = None
    unread: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def request_from(row: RequestLike, number: int, image_root: Path, base: ScoreOptions) -> Request:
    """What one entry of a list of rows asks for; never raises on a bad one, which carries its error."""
    try:
        if isinstance(row, Row):
            made = _request(row.images, row.question, row.responses, row.options(base))
            return replace(made, id=row.id, unread=row.unread)
        if isinstance(row, Mapping):
            return request_from(row_from_record(plain_value(row), number, image_root), number, image_root, base)
        if isinstance(row, tuple) and len(row) == 3:
            images, question, responses = row
            return _request(images_of(images), text_of(question), list_of(responses, "responses"), base)
        raise InputError(f"a row is an object or (images, question, responses), got {type(row).__name__}")
    except InputError as error:
        return Request((), "", ("",) * _count_responses(row), base, error=error)


def by_prefix(requests: Sequence[Request]) -> list[list[int]]:
    """Indices of the readable requests, those that share a prefix together, in order of first appearance."""
    groups: dict[bytes, list[int]] = {}
    for index, request in enumerate(requests):
        if request.error is None:
            groups.setdefault(request.key, []).append(index)
    return list(groups.values())


def _count_responses(row: object) -> int:
    """How many responses a row that cannot be read asked for; 0 if that cannot be told."""
    given: object = None
    if isinstance(row, Mapping):
        given = row.get("responses")
    elif isinstance(row, tuple) and len(row) == 3:
        given = row[2]
    return len(given) if isinstance(given, Sized) and not isinstance(given, str | bytes | Mapping) else 0


def _request(
    images: Iterable[ImageInput], question: object, responses: Iterable[Response], options: ScoreOptions
) -> Request:
    kept = tuple(responses)
    if not kept:
        raise InputError("responses must be a list with at least one response")
    if not isinstance(question, str):
        raise InputError(f"the question must be text, got {type(question).__name__}")
    given = tuple(images)
    remark = remark_on_marks(question, len(given))
    remarks = () if remark is None else (remark,)
    return Request(given, question, kept, options, _key(given, question, options.max_tiles), remarks=remarks)


def _key(images: Sequence[ImageInput], question: str, max_tiles: int | None) -> bytes:
    """Equal for requests that share a prefix. Files are told apart by path: they are read once per group."""
    digest = hashlib.blake2b(repr((question, max_tiles, len(images))).encode("utf-8", "surrogatepass"), digest_size=16)
    for image in images:
        if isinstance(image, str | Path):
            digest.update(b"path" + str(image).encode("utf-8", "surrogatepass") + b"\0")
            continue
        content = pinned(image)
        data = content.content if isinstance(content, NamedImage) else content
        digest.update(f"{type(image).__name__} {getattr(data, 'shape', len(data))}:".encode())
        digest.update(data if isinstance(data, bytes) else data.tobytes())
    return digest.digest()
