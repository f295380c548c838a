"""The half of scoring that needs no engine: decode, tile, tokenise, check lengths. Any number of threads may do it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.errors import InputError
from vprm_runtime.execution.aggregate import Aggregate
from vprm_runtime.execution.blocks import Candidate, common_prefix_tokens
from vprm_runtime.execution.model import OpenedModel
from vprm_runtime.images.load import (
    MAX_IMAGE_PIXELS,
    ImageInput,
    NamedImage,
    image_size,
    load_image,
    read_image_file,
)
from vprm_runtime.images.tiling import tile_count, tile_image
from vprm_runtime.inputs import text_of
from vprm_runtime.options import ResponseOptions, check_max_tiles
from vprm_runtime.prompt.builder import Response, TokenisedPrompt
from vprm_runtime.prompt.steps import split_steps
from vprm_runtime.results import CandidateScore, StepScore

Tiles = NDArray[np.uint8]  # of one image: [T, size, size, 3]
PinnedImage = bytes | NamedImage | NDArray[np.uint8]  # an image file's bytes, or RGB pixels [H, W, 3]


@dataclass(frozen=True)
class PreparedPrefix:
    """A question about images, ready to run: tiles of each image, uint8 [T, size, size, 3], and the prefix's ids."""

    question: str
    tiles: tuple[Tiles, ...]
    ids: tuple[int, ...]

    @property
    def tile_counts(self) -> tuple[int, ...]:
        """Number of tiles of each image, thumbnail included."""
        return tuple(len(image) for image in self.tiles)


@dataclass(frozen=True)
class PreparedResponse:
    """A response, ready to run: its steps and its prompt; or the result that says why it cannot be scored."""

    index: int
    steps: tuple[str, ...]
    prompt: TokenisedPrompt | None
    aggregate: Aggregate = "mean"
    failed: CandidateScore | None = None

    def candidate(self, prefix_ids: Sequence[int]) -> Candidate:
        """What of the prompt is new after a cached prefix. Only for a response that can be scored."""
        if self.prompt is None:
            raise ValueError(f"response {self.index} cannot be scored")
        return Candidate(self.index, self.prompt, common_prefix_tokens(prefix_ids, self.prompt.ids))


def tiles_of(
    model: OpenedModel, images: Sequence[ImageInput], max_tiles: int | None, max_pixels: int | None = None
) -> list[Tiles]:
    """Tiles of each image.

    Raises InputError if one cannot be read or has more than `max_pixels` (default: the model's), if several together
    are too long for the model, which is known before the first is decoded, or `max_tiles` is out of range.
    """
    tiling, limit = model.manifest.tiling.limited(check_max_tiles(max_tiles)), max_pixels or model.max_image_pixels
    if len(images) > 1:
        tokens = sum(tile_counts_of(model, images, max_tiles, limit)) * model.manifest.model.tokens_per_tile
        model.check_length(tokens, "the images alone take")
    return [tile_image(load_image(image, limit), tiling) for image in images]


def tile_counts_of(
    model: OpenedModel, images: Sequence[ImageInput], max_tiles: int | None, max_pixels: int = MAX_IMAGE_PIXELS
) -> list[int]:
    """How many tiles each image will give, thumbnail included; only headers are read. Raises as `tiles_of` does."""
    tiling = model.manifest.tiling.limited(check_max_tiles(max_tiles))
    return [tile_count(*image_size(image, max_pixels), tiling) for image in images]


def prepare_prefix(model: OpenedModel, tiles: Sequence[Tiles], question: str) -> PreparedPrefix:
    """The prefix of a question about tiled images. Raises InputError on a blank question, or one that is too long."""
    counts = [len(image) for image in tiles]
    ids = tuple(model.prompts.prefix(question, counts))
    model.check_length(len(ids), "the question and its images take")
    return PreparedPrefix(question, tuple(tiles), ids)


def prepare_responses(
    model: OpenedModel, question: str, tile_counts: Sequence[int], responses: Sequence[Response], how: ResponseOptions
) -> list[PreparedResponse]:
    """All responses to one question, in order; one that cannot be scored carries its error."""
    prepared = []
    for index, response in enumerate(responses):
        try:
            steps = split_steps(
                response, model.manifest.score_rule, how.max_steps, how.step_separator, how.drop_empty_steps
            )
            prompt = prompt_of(model, question, tile_counts, steps)
            prepared.append(PreparedResponse(index, tuple(steps), prompt, how.aggregate))
        except InputError as error:
            prepared.append(_failed(index, error))
    return prepared


def prepare_next_steps(
    model: OpenedModel, question: str, tile_counts: Sequence[int], done: Sequence[StepScore], steps: Sequence[str]
) -> list[PreparedResponse]:
    """Alternatives for the step after `done`, of which only that step is scored; one that cannot be has its error."""
    prepared = []
    texts = [step.text for step in done]
    for index, step in enumerate(steps):
        try:
            text = text_of(step)
            if not isinstance(text, str):
                raise InputError(f"a step is a string, got {type(text).__name__}")
            prompt = prompt_of(model, question, tile_counts, [*texts, text])
            last = TokenisedPrompt(prompt.ids, prompt.score_positions[-1:])
            prepared.append(PreparedResponse(index, (text,), last))
        except InputError as error:
            prepared.append(_failed(index, error))
    return prepared


def _failed(index: int, error: InputError) -> PreparedResponse:
    return PreparedResponse(index, (), None, failed=CandidateScore(index, None, (), str(error), error.code))


def prompt_of(model: OpenedModel, question: str, tile_counts: Sequence[int], steps: Sequence[str]) -> TokenisedPrompt:
    """Ids and score positions of one candidate. Raises InputError if it is longer than the model's limit."""
    prompt = model.prompts.build(question, tile_counts, steps)
    model.check_length(len(prompt.ids), "the response and its question take")
    return prompt


def pinned(image: ImageInput, max_pixels: int = MAX_IMAGE_PIXELS) -> PinnedImage:
    """The image by value, so that what is hashed is what is scored: a path's bytes, anything else's RGB pixels.

    Raises InputError as `load_image` does.
    """
    if isinstance(image, bytes | NamedImage):
        return image
    if isinstance(image, str | Path):
        return read_image_file(image)
    return np.asarray(load_image(image, max_pixels))


def prefix_key(images: Sequence[PinnedImage], question: str, max_tiles: int | None) -> bytes:
    """A hash of all that decides a prefix: pinned images, question, and tiles per image."""
    digest = hashlib.blake2b(repr((question, max_tiles, len(images))).encode("utf-8", "surrogatepass"))
    for image in images:
        if isinstance(image, np.ndarray):
            kind, content = f"pixels {image.shape}", image.tobytes()
        else:
            kind, content = "file", image if isinstance(image, bytes) else image.content
        digest.update(f"{kind}:{len(content)}:".encode())
        digest.update(content)
    return digest.digest()
