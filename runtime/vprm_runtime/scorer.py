"""The scorer: pay for the picture and the question once, then only for each candidate's own tokens.

StepScorer.score -> Session (tiles -> vision graph -> prefix -> cache) -> packed blocks -> engine -> step scores
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.engines import Engine, open_engine
from vprm_runtime.errors import InputError
from vprm_runtime.execution.aggregate import AGGREGATES, Aggregate
from vprm_runtime.execution.prefix import PrefixCache, pinned, prefix_key
from vprm_runtime.images.load import ImageInput, load_image
from vprm_runtime.images.tiling import tile_image
from vprm_runtime.prompt.builder import PromptBuilder, Response, TokenisedPrompt, split_steps
from vprm_runtime.prompt.tokenizer import TextTokenizer
from vprm_runtime.results import ScoreResult
from vprm_runtime.session import Session

CPU_BLOCK_TOKENS = 512
MAX_TILES_LIMIT = 256  # far above any trained setting; a guard against typing errors


@dataclass(frozen=True)
class ScoreOptions:
    """How to score: steps at most (None: all), tiles an image at most (None: the bundle's), how steps add up."""

    max_steps: int | None = None
    max_tiles: int | None = None
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"max_steps must be at least 1, got {self.max_steps}")
        if self.max_tiles is not None and not 1 <= self.max_tiles <= MAX_TILES_LIMIT:
            raise InputError(f"max_tiles must be between 1 and {MAX_TILES_LIMIT}, got {self.max_tiles}")
        if self.aggregate not in AGGREGATES:
            raise InputError(f"unknown aggregate {self.aggregate!r}: use one of {', '.join(AGGREGATES)}")


DEFAULT_OPTIONS = ScoreOptions()


class StepScorer:
    """Scores step-by-step solutions with one bundle on one engine. Not safe for concurrent calls: use one a thread.

    `max_block_tokens` bounds the tokens of one engine call, and with it the memory for attention; None: what the
    engine asks for, or CPU_BLOCK_TOKENS.
    `prefix_cache_bytes` is what `score` may keep of earlier calls' prefixes (keys and values, least recently used go
    first), so that the same images and question need not be run again; 0 keeps none.
    """

    def __init__(
        self,
        manifest: Manifest,
        prompts: PromptBuilder,
        engine: Engine,
        max_block_tokens: int | None = None,
        prefix_cache_bytes: int = 0,
    ) -> None:
        if max_block_tokens is not None and max_block_tokens < 1:
            raise InputError(f"max_block_tokens must be at least 1, got {max_block_tokens}")
        self.manifest = manifest
        self.engine = engine
        if max_block_tokens is None:
            max_block_tokens = int(getattr(engine, "max_block_tokens", CPU_BLOCK_TOKENS))
        self.max_block_tokens = max_block_tokens
        self.prompts = prompts
        self._kept = PrefixCache(prefix_cache_bytes)
        self.no_embeds = np.zeros((0, manifest.model.hidden_size), manifest.graphs.llm.io_dtype)

    @staticmethod
    def open(
        bundle: str | Path | Bundle,
        device: str = "auto",
        *,
        threads: int | None = None,
        max_block_tokens: int | None = None,
        prefix_cache_bytes: int = 0,
    ) -> "StepScorer":
        """Open a bundle directory on a device: "auto" or one of `engines.select.DEVICES`.

        `threads` limits CPU threads (None: all cores). Raises InputError, BundleError, EngineError or
        MissingExtraError, each saying what to do.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}: leave it out for all cores")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = opened.manifest
        tokenizer = TextTokenizer(opened.tokenizer_path, manifest.tokens, manifest.score_rule.marker_id)
        prompts = PromptBuilder(
            tokenizer, manifest.tokens, manifest.prompt, manifest.score_rule, manifest.model.tokens_per_tile
        )
        return StepScorer(manifest, prompts, open_engine(opened, device, threads), max_block_tokens, prefix_cache_bytes)

    def score(
        self,
        images: ImageInput | Sequence[ImageInput] | None,
        question: str,
        responses: Sequence[Response],
        options: ScoreOptions = DEFAULT_OPTIONS,
    ) -> ScoreResult:
        """Score all responses to one question about zero, one or several images.

        A response is a string (split on blank lines) or a list of steps. Raises InputError where nothing can be scored
        (no responses, blank question, unreadable image); a single bad response carries its error in the result.
        """
        if isinstance(responses, str) or not responses:
            raise InputError("responses must be a list with at least one response")
        return self._session_for_score(_as_list(images), question, options).score(responses)

    def session(
        self, images: ImageInput | Sequence[ImageInput] | None, question: str, options: ScoreOptions = DEFAULT_OPTIONS
    ) -> Session:
        """Encode the images and run the prefix; then score any number of responses against it."""
        return self.session_of_tiles(self.tiles(_as_list(images), options), question, options)

    def session_of_tiles(
        self, tiles: Sequence[NDArray[np.uint8]], question: str, options: ScoreOptions = DEFAULT_OPTIONS
    ) -> Session:
        """A session whose images `tiles` has decoded and cut already."""
        return Session(self, tiles, question, options)

    def tiles(self, images: Sequence[ImageInput], options: ScoreOptions = DEFAULT_OPTIONS) -> list[NDArray[np.uint8]]:
        """Tiles of each image, uint8 [T, size, size, 3]. Needs no engine, so it may run in a thread beside scoring.

        Raises InputError where an image cannot be read.
        """
        tiling = self.manifest.tiling.limited(options.max_tiles)
        return [tile_image(load_image(image), tiling) for image in images]

    def prepare(
        self, question: str, tiles: Sequence[int], response: Response, max_steps: int | None = None
    ) -> TokenisedPrompt:
        """Token ids and score positions of one candidate, as scoring uses them."""
        return self.prompts.build(question, tiles, split_steps(response, self.manifest.score_rule, max_steps))

    def _session_for_score(self, images: list[ImageInput], question: str, options: ScoreOptions) -> Session:
        """A kept session of the same content, or a new one."""
        if self._kept.budget_bytes == 0:
            return self.session(images, question, options)
        images = [pinned(image) for image in images]
        key = prefix_key(images, question, options)
        session = self._kept.get(key)
        if session is None:
            session = self.session(images, question, options)
            self._kept.put(key, session, session.prefix_tokens * self.manifest.cache_row_bytes)
        return session


def _as_list(images: ImageInput | Sequence[ImageInput] | None) -> list[ImageInput]:
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]
