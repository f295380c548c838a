"""The scorer: pay for the images and the question once, then only for each response's own tokens.

StepScorer.score -> execution.prepare (decode, tile, tokenise) -> execution.run (prefix, packed responses) -> engine
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.demo import demo_hook
from vprm_runtime.deprecation import deprecated_options
from vprm_runtime.engines import Engine, open_engine
from vprm_runtime.errors import InputError
from vprm_runtime.execution.aggregate import Aggregate
from vprm_runtime.execution.model import OpenedModel, block_tokens
from vprm_runtime.execution.prefix_pool import PoolCounters, PrefixPool, RunPrefix
from vprm_runtime.execution.prepare import (
    Tiles,
    pinned,
    prefix_key,
    prepare_prefix,
    tiles_of,
)
from vprm_runtime.execution.run import run_prefix, run_to_end
from vprm_runtime.images.load import MAX_IMAGE_PIXELS, ImageInput
from vprm_runtime.inputs import images_of, list_of
from vprm_runtime.options import ResponseOptions, ScoreOptions
from vprm_runtime.prompt.builder import PromptBuilder, Response, TokenisedPrompt
from vprm_runtime.prompt.image_markers import remark_on_marks
from vprm_runtime.prompt.steps import SplittingWatch, split_steps
from vprm_runtime.prompt.tokenizer import TextTokenizer
from vprm_runtime.remarks import Remarks
from vprm_runtime.results import ScoreResult
from vprm_runtime.session import Session

if TYPE_CHECKING:
    from vprm_runtime.datasets.requests import RequestLike

MAX_THREADS = max(64, 4 * (os.cpu_count() or 1))  # more of them hinder each other: minutes for a step
Images = ImageInput | Sequence[ImageInput] | None

_LOG = logging.getLogger("vprm")


class StepScorer:
    """Scores step-by-step solutions with one bundle on one engine. Threads may share it: engine calls are serialised.

    Decoding, tiling and tokenising of different calls run side by side; the engine runs one call after the other.
    Close it, or use it in a `with` statement, to give the engine's memory back at once. Made by `open`.
    """

    def __init__(self, model: OpenedModel, prefix_cache_bytes: int = 0) -> None:
        self._model = model
        self._pool = PrefixPool(prefix_cache_bytes)
        self._is_closed = False
        self._remarks = Remarks()

    @staticmethod
    def open(
        bundle: str | Path | Bundle | None = None,
        device: str = "auto",
        *,
        threads: int | None = None,
        max_block_tokens: int | None = None,
        prefix_cache_bytes: int = 0,
        engine: Engine | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> "StepScorer":
        """Open a bundle directory on a device.

        Args:
            bundle: the directory, or an opened `Bundle` (default: the demo PRM's, exported once into the user's
                cache directory).
            device: "auto", or one of `engines.select.DEVICES`.
            threads: CPU threads at most (default: all cores).
            max_block_tokens: tokens of one engine call at most, which bounds the memory for attention (default: what
                the engine asks for).
            prefix_cache_bytes: memory that `score` and `session` may keep of earlier calls' images and questions, in
                bytes of the engine's caches, least recently used go first (default: keep none).
            engine: an engine that is open already, instead of `device` and `threads`.
            max_image_pixels: images of more pixels are refused before they are decoded (default: the original's limit).

        Returns:
            A scorer.

        Raises:
            InputError: an option is out of range, or the device is unknown.
            BundleError: the directory is no bundle, or is damaged.
            EngineError: the engine's library cannot open the graphs.
            MissingExtraError: the engine's library is not installed.
        """
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise InputError(f"threads must be at least 1 and at most {MAX_THREADS} on this machine, got {threads}")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle or demo_hook("bundle")())
        manifest = opened.manifest
        tokenizer = TextTokenizer(
            opened.tokenizer_path,
            manifest.tokens,
            manifest.score_rule.marker_id,
            manifest.model.max_positions_tokens,
        )
        prompts = PromptBuilder(
            tokenizer, manifest.tokens, manifest.prompt, manifest.score_rule, manifest.model.tokens_per_tile
        )
        engine = engine or open_engine(opened, device, threads)
        _LOG.info("opened %s: %s", opened.path, engine.description)
        model = OpenedModel(manifest, prompts, engine, block_tokens(engine, max_block_tokens), max_image_pixels)
        return StepScorer(model, prefix_cache_bytes)

    def with_engine(
        self, engine: Engine, *, max_block_tokens: int | None = None, prefix_cache_bytes: int = 0
    ) -> "StepScorer":
        """A scorer of the same bundle on another engine.

        Args:
            engine: an open engine for the same bundle.
            max_block_tokens: as for `open`.
            prefix_cache_bytes: as for `open`.

        Returns:
            A scorer that shares nothing but the bundle's manifest and prompts with this one.

        Raises:
            InputError: an option is out of range.
        """
        limit = self._model.max_image_pixels
        model = OpenedModel(self.manifest, self.prompts, engine, block_tokens(engine, max_block_tokens), limit)
        return StepScorer(model, prefix_cache_bytes)

    def __repr__(self) -> str:
        name = self.manifest.model.name
        return f"<StepScorer {name}: {'closed' if self._is_closed else self.engine.description}>"

    @property
    def manifest(self) -> Manifest:
        """What the bundle is."""
        return self._model.manifest

    @property
    def engine(self) -> Engine:
        """What runs the graphs; `engine.description` names library, device and precision."""
        return self._model.engine

    @property
    def prompts(self) -> PromptBuilder:
        """What turns texts into token ids and score positions."""
        return self._model.prompts

    @property
    def max_block_tokens(self) -> int:
        """Tokens of one engine call at most."""
        return self._model.max_block_tokens

    @property
    def model(self) -> OpenedModel:
        """What `execution.prepare` and `execution.run` work on, for code that drives the engine block by block."""
        return self._model

    @property
    def prefixes(self) -> PrefixPool:
        """The caches that are alive. Hold the model's lock around its methods."""
        return self._pool

    @property
    def prefix_cache(self) -> PoolCounters:
        """How often a prefix was asked for and found, and in tokens."""
        return self._pool.counters

    def score(
        self,
        images: Images,
        question: str,
        responses: Sequence[Response],
        options: ScoreOptions | None = None,
        *,
        max_tiles: int | None = None,
        max_steps: int | None = None,
        aggregate: Aggregate = "mean",
        step_separator: str | None = None,
        drop_empty_steps: bool = False,
    ) -> ScoreResult:
        """Score all responses to one question about zero, one or several images.

        Args:
            images: a path, the bytes of an image file, base64 of one, a data URL, an object with bytes or path, a
                Pillow image, or uint8 [H, W, 3]; a list of them for several; None for text only.
            question: what the responses answer.
            responses: each a string, split into steps on blank lines, or a list of steps; at least one. Arrays,
                columns and iterators are lists too.
            options: deprecated: use the keywords.
            max_tiles: tiles per image at most, thumbnail not counted (default: the bundle's limit).
            max_steps: join consecutive steps so that a response has at most this many (default: no limit;
                `select_best_response` has 12, as on the model card).
            aggregate: how step scores become a response score.
            step_separator: split strings here (default: at blank lines, as the model's own code does).
            drop_empty_steps: leave out steps without text, which the model's own code scores.

        Returns:
            One result per response, in input order; a response that cannot be scored carries its error.

        Raises:
            InputError: nothing can be scored: no responses, a blank question, an unreadable image, an option out of
                range, or a prompt beyond the model's limit before its first step.
            EngineError: the engine failed.
        """
        asked = ScoreOptions(max_steps, max_tiles, aggregate, step_separator, drop_empty_steps)
        chosen = deprecated_options(options, asked)
        texts = list_of(responses, "responses")
        if not texts:
            raise InputError("responses must be a list with at least one response")
        with self.session(images, question, max_tiles=chosen.max_tiles) as session:
            how = chosen.responses
            result = session.score(texts, **vars(how))
        watch = SplittingWatch()
        watch.add(texts, [len(candidate.steps) for candidate in result])
        self._remarks.of_splitting(watch, how.max_steps)
        if (remark := remark_on_marks(str(question), len(result.tiles))) is not None:
            self._remarks.say(remark)
        return result

    def score_many(
        self,
        rows: Iterable["RequestLike"],
        *,
        image_root: str | Path = ".",
        max_tiles: int | None = None,
        max_steps: int | None = None,
        aggregate: Aggregate = "mean",
        step_separator: str | None = None,
        drop_empty_steps: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[ScoreResult]:
        """Score many questions. Those with the same images and question share one prefix and are packed together.

        Args:
            rows: records as in a file of rows, or (images, question, responses) with arguments as for `score`. All
                are taken before the first is scored.
            image_root: folder that relative paths in records start from.
            max_tiles: tiles per image at most; a record's own limit holds if it is smaller.
            max_steps: as for `score` (default: no limit); a record's own limit holds if it is smaller.
            aggregate: how step scores become a response score.
            step_separator: as for `score`.
            drop_empty_steps: as for `score`.
            progress: called with (rows done, rows in all) after each group of rows.

        Yields:
            One result per row, in input order. If a row cannot be scored, each of its responses carries the error.

        Raises:
            InputError: an option is out of range.
            EngineError: the engine failed.
        """
        from vprm_runtime.datasets.many import score_requests  # rows import the scorer's own modules

        base = ScoreOptions(max_steps, max_tiles, aggregate, step_separator, drop_empty_steps)
        watch = SplittingWatch()
        yield from score_requests(self.session, rows, Path(image_root), base, watch, progress, self._remarks.say)
        self._remarks.of_splitting(watch, max_steps)

    def session(
        self, images: Images, question: str, options: ScoreOptions | None = None, *, max_tiles: int | None = None
    ) -> Session:
        """Encode the images and run the prefix; then score any number of responses against it.

        Args:
            images: as for `score`.
            question: what the responses answer.
            options: deprecated: use `max_tiles` here, and the keywords of `Session.score`.
            max_tiles: tiles per image at most, thumbnail not counted (default: the bundle's limit).

        Returns:
            An open session. Close it, or use it in a `with` statement.

        Raises:
            InputError: a blank question, an unreadable image, `max_tiles` out of range, or a prompt beyond the
                model's limit.
            EngineError: the engine failed.
        """
        chosen = deprecated_options(options, ScoreOptions(max_tiles=max_tiles))
        given: Sequence[ImageInput] = images_of(images)
        key = None
        if self._pool.budget_bytes:
            contents = [pinned(image, self._model.max_image_pixels) for image in given]
            given, key = contents, prefix_key(contents, question, chosen.max_tiles)
            with self._model.lock:
                self._check_open()
                kept = self._pool.take(key)
            if kept is not None:
                return Session(self._model, self._pool, kept, chosen.responses)
        return self._opened(tiles_of(self._model, given, chosen.max_tiles), question, chosen.responses, key)

    def session_of_prefix(self, prefix: RunPrefix) -> Session:
        """A session on a prefix that is in the engine's cache. For code that runs prefixes: hold the model's lock.

        Args:
            prefix: of this scorer's pool; the session holds it until it is closed.

        Returns:
            An open session.
        """
        prefix.users += 1
        return Session(self._model, self._pool, prefix, ResponseOptions())

    def session_of_tiles(self, tiles: Sequence[Tiles], question: str) -> Session:
        """A session whose images are tiled already.

        Args:
            tiles: of each image, uint8 RGB [T, size, size, 3], as `tiles` makes them.
            question: what the responses answer.

        Returns:
            An open session.

        Raises:
            InputError: a blank question, or a prompt beyond the model's limit.
            EngineError: the engine failed.
        """
        return self._opened(tiles, question, ResponseOptions(), None)

    def tiles(self, images: Images, max_tiles: int | None = None) -> list[NDArray[np.uint8]]:
        """Decode images and cut them into tiles. Needs no engine, so it may run in a thread beside scoring.

        Args:
            images: as for `score`.
            max_tiles: as for `score`.

        Returns:
            Tiles of each image, uint8 RGB [T, size, size, 3], thumbnail last if there is more than one.

        Raises:
            InputError: an image cannot be read, or `max_tiles` is out of range.
        """
        return tiles_of(self._model, images_of(images), max_tiles)

    def prepare(
        self, question: str, tiles: Sequence[int], response: Response, max_steps: int | None = None
    ) -> TokenisedPrompt:
        """Tokenise one response, as scoring does it.

        Args:
            question: what the response answers.
            tiles: number of tiles of each image.
            response: a string or a list of steps.
            max_steps: as for `score` (default: no limit).

        Returns:
            Token ids of the whole prompt, and the positions that its step scores are read at.

        Raises:
            InputError: the question is blank or does not fit the images, or the response has no steps.
        """
        steps = split_steps(response, self.manifest.score_rule, max_steps)
        return self.prompts.build(question, tiles, steps)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> None:
        """Give kept prefixes and the engine's memory back. Open sessions cannot be used afterwards."""
        with self._model.lock:
            if not self._is_closed:
                self._is_closed = True
                self._pool.clear()
                self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self, tiles: Sequence[Tiles], question: str, defaults: ResponseOptions, key: bytes | None) -> Session:
        """A session of a prefix that is run now, and kept under `key`."""
        prepared = prepare_prefix(self._model, tiles, question)
        with self._model.lock:
            self._check_open()
            prefix = self._pool.take(key) if key is not None else None  # another thread may have been faster
            if prefix is None:
                prefix = self._pool.opened(prepared, *run_to_end(run_prefix(self._model, prepared)))
                if key is not None:
                    self._pool.keep(key, prefix)
            return Session(self._model, self._pool, prefix, defaults)

    def _check_open(self) -> None:
        self._pool.collect()
        if self._is_closed:
            raise InputError("the scorer is closed: open the bundle again")
