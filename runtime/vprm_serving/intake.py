"""From a request's JSON to work for the engine. Nothing here needs the engine or decodes a pixel: any thread may."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.row import Row, row_from_record
from vprm_runtime.datasets.row_images import RowImage
from vprm_runtime.datasets.row_notes import RowNotes
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.execution.model import OpenedModel
from vprm_runtime.execution.prepare import (
    PinnedImage,
    PreparedPrefix,
    PreparedResponse,
    prefix_key,
    prepare_prefix,
    prepare_responses,
    tile_counts_of,
    tiles_of,
)
from vprm_runtime.images.load import NamedImage, image_size, read_image_file
from vprm_runtime.images.tiling import tile_grid
from vprm_runtime.options import ScoreOptions
from vprm_runtime.prompt.steps import SplittingWatch
from vprm_serving.jobs import Job
from vprm_serving.settings import Limits
from vprm_serving.uploads import SCHEME, UploadStore


@dataclass(frozen=True)
class Work:
    """A row, ready for the engine but for its pixels: images by value, tokens counted, responses tokenised."""

    row: Row
    key: bytes
    images: tuple[PinnedImage, ...]
    max_tiles: int | None
    tile_counts: tuple[int, ...]
    prefix_tokens: int
    responses: tuple[PreparedResponse, ...] = field(repr=False)
    response_tokens: int = 0
    notes: tuple[str, ...] = ()

    def prefix_cost_tokens(self, tokens_per_tile: int) -> int:
        """What running the prefix costs: its tokens, and its tiles again in the vision encoder."""
        return self.prefix_tokens + sum(self.tile_counts) * tokens_per_tile


def _notes(row: Row, responses: Sequence[PreparedResponse], options: ScoreOptions) -> tuple[str, ...]:
    """What the caller should know of a row beside errors."""
    notes, watch = RowNotes(), SplittingWatch()
    notes.add(row)
    if options.max_steps != 1:
        watch.add(row.responses, [len(response.steps) for response in responses])
    return notes.lines if watch.warning is None else (*notes.lines, watch.warning)


class Intake:
    """Reads rows for one model. Threads may share it."""

    def __init__(self, model: OpenedModel, uploads: UploadStore, image_root: Path | None, limits: Limits) -> None:
        self._model, self._uploads, self._limits = model, uploads, limits
        self._image_root = None if image_root is None else image_root.resolve()

    def work(self, record: object, base: ScoreOptions, extra_images: Sequence[NamedImage] = ()) -> Work:
        """What a row asks for. `extra_images` are files sent beside it, in order, if it names none itself.

        Raises InputError if nothing of it can be scored.
        """
        row = row_from_record(record, 0, Path(), images_beside=len(extra_images))
        options = row.options(base)
        if extra_images and row.images:
            raise InputError("images were sent as files, and the row names others: give them in one way")
        if len(row.responses) > self._limits.max_responses:
            raise InputError(
                f"{len(row.responses)} responses, at most {self._limits.max_responses} are taken: send more requests",
                code="too_large",
            )
        images: tuple[PinnedImage, ...] = tuple(extra_images) or tuple(self.image(image) for image in row.images)
        return self._work(row, images, options)

    def image(self, image: RowImage) -> PinnedImage:
        """An image by value: what came with the request, an upload, or a file under the image root.

        Raises InputError for a path that leads elsewhere.
        """
        if not isinstance(image, Path):
            return image
        name = str(image)
        if name.startswith(SCHEME):
            return NamedImage(name, self._uploads.get(name.removeprefix(SCHEME)))
        if self._image_root is None:
            raise InputError(
                f"{quoted(name)} is a path, and this server reads no files (it has no --image-root): send the image as "
                f"base64, or upload it and refer to it as {SCHEME}DIGEST",
                code="path_refused",
            )
        try:
            path = (self._image_root / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{quoted(name)} is no path of a file", code="path_refused") from error
        if not path.is_relative_to(self._image_root):
            raise InputError(f"{quoted(name)} leads out of the server's image root", code="path_refused")
        return read_image_file(path, quoted(name))  # nobody is told where the root is, or where a link leads

    def grids(self, work: Work) -> list[tuple[int, int]]:
        """(columns, rows) of the tiles of each image, for people to look at."""
        tiling = self._model.manifest.tiling.limited(work.max_tiles)
        return [tile_grid(*image_size(image, self._limits.max_image_pixels), tiling) for image in work.images]

    def _work(self, row: Row, images: tuple[PinnedImage, ...], options: ScoreOptions) -> Work:
        model, limits = self._model, self._limits
        if len(images) > limits.max_images:
            raise InputError(f"{len(images)} images, at most {limits.max_images} are taken", code="too_large")
        counts = tuple(tile_counts_of(model, images, options.max_tiles, limits.max_image_pixels))
        prefix = model.prompts.prefix(row.question, counts)
        model.check_length(len(prefix), "the question and its images take")
        responses = tuple(prepare_responses(model, row.question, counts, row.responses, options.responses))
        tokens = sum(r.candidate(prefix).new_tokens for r in responses if r.failed is None)
        key = prefix_key(images, row.question, options.max_tiles)
        notes = _notes(row, responses, options)
        return Work(row, key, images, options.max_tiles, counts, len(prefix), responses, tokens, notes)

    def job(self, work: Work, deadline: float | None = None, **others: Any) -> Job:
        """The job of a row."""
        return Job(
            prefix_tokens=work.prefix_tokens,
            load=lambda: self._load(work),
            tile_counts=work.tile_counts,
            responses=deque(work.responses),
            deadline=deadline,
            **others,
        )

    def _load(self, work: Work) -> PreparedPrefix:
        tiles = tiles_of(self._model, work.images, work.max_tiles, self._limits.max_image_pixels)
        return prepare_prefix(self._model, tiles, work.row.question)
