"""The scorer: pay for the picture and the question once, then only for each candidate's own tokens.

StepScorer.score -> Session (tiles -> vision graph -> prefix -> cache) -> packed blocks -> engine -> step scores
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.aggregate import AGGREGATES, Aggregate, aggregate_scores
from vprm_runtime.bundle import Bundle
from vprm_runtime.engines import Engine, open_engine
from vprm_runtime.engines.base import FloatArray
from vprm_runtime.errors import EngineError, InputError
from vprm_runtime.images import ImageInput, load_image
from vprm_runtime.manifest import Manifest, TilingInfo
from vprm_runtime.packing import Candidate, causal_block, common_prefix_tokens, groups, packed_block
from vprm_runtime.prompt import PromptBuilder, TokenisedPrompt, split_steps
from vprm_runtime.results import CandidateScore, ScoreResult, StepScore
from vprm_runtime.tiling import tile_image
from vprm_runtime.tokenizer import TextTokenizer

Response = str | Sequence[str]
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

    `max_block_tokens` bounds the tokens of one engine call, and with it the memory for attention.
    """

    def __init__(self, manifest: Manifest, prompts: PromptBuilder, engine: Engine, max_block_tokens: int = 512) -> None:
        if max_block_tokens < 1:
            raise InputError(f"max_block_tokens must be at least 1, got {max_block_tokens}")
        self.manifest = manifest
        self.engine = engine
        self.max_block_tokens = max_block_tokens
        self._prompts = prompts
        self._no_embeds = np.zeros((0, manifest.model.hidden_size), manifest.graphs.llm.io_dtype)

    @staticmethod
    def open(
        bundle: str | Path | Bundle, device: str = "auto", *, threads: int | None = None, max_block_tokens: int = 512
    ) -> "StepScorer":
        """Open a bundle directory on a device ("auto", "cpu").

        Raises BundleError, EngineError or MissingExtraError, each saying what to do.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = opened.manifest
        tokenizer = TextTokenizer(opened.tokenizer_path, manifest.tokens, manifest.score_rule.marker_id)
        prompts = PromptBuilder(
            tokenizer, manifest.tokens, manifest.prompt, manifest.score_rule, manifest.model.tokens_per_tile
        )
        return StepScorer(manifest, prompts, open_engine(opened, device, threads), max_block_tokens)

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
        return self.session(images, question, options).score(responses)

    def session(
        self, images: ImageInput | Sequence[ImageInput] | None, question: str, options: ScoreOptions = DEFAULT_OPTIONS
    ) -> "Session":
        """Encode the images and run the prefix; then score any number of responses against it."""
        tiling = self._tiling(options)
        tiles = [tile_image(load_image(image), tiling) for image in _as_list(images)]
        return Session(self, tiles, question, options)

    def prepare(
        self, question: str, tiles: Sequence[int], response: Response, max_steps: int | None = None
    ) -> TokenisedPrompt:
        """Token ids and score positions of one candidate, as scoring uses them."""
        return self._prompts.build(question, tiles, split_steps(response, self.manifest.score_rule, max_steps))

    def _tiling(self, options: ScoreOptions) -> TilingInfo:
        tiling = self.manifest.tiling
        if options.max_tiles is None:
            return tiling
        return TilingInfo(
            tiling.tile_size_px, min(tiling.min_tiles, options.max_tiles), options.max_tiles, tiling.use_thumbnail
        )


class Session:
    """One (images, question): its prefix stands in the engine's cache, candidates are scored against it."""

    def __init__(
        self, scorer: StepScorer, tiles: Sequence[NDArray[np.uint8]], question: str, options: ScoreOptions
    ) -> None:
        self._scorer = scorer
        self._question = question
        self._options = options
        self.tiles = tuple(len(image) for image in tiles)
        self._prefix = scorer._prompts.prefix(question, self.tiles)
        self._check_length(len(self._prefix), "the question and its images take")
        embeds = scorer.engine.encode_tiles(np.concatenate(tiles)) if tiles else scorer._no_embeds
        self._cache = scorer.engine.new_cache(len(self._prefix) + scorer.max_block_tokens)
        self._run_prefix(embeds)

    @property
    def prefix_tokens(self) -> int:
        """Number of cached prefix tokens."""
        return len(self._prefix)

    def score(self, responses: Sequence[Response]) -> ScoreResult:
        """Score responses; results in input order, each alone in what it sees."""
        results: dict[int, CandidateScore] = {}
        steps: dict[int, list[str]] = {}
        candidates = []
        for index, response in enumerate(responses):
            try:
                steps[index] = split_steps(response, self._scorer.manifest.score_rule, self._options.max_steps)
                candidates.append(self._candidate(index, steps[index]))
            except InputError as error:
                results[index] = CandidateScore(index, None, (), str(error))
        for group in groups(candidates, self._scorer.max_block_tokens):
            for candidate, scores in zip(group, self._run_group(group), strict=True):
                results[candidate.index] = self._result(candidate.index, steps[candidate.index], scores)
        return ScoreResult(self.tiles, tuple(results[index] for index in range(len(responses))))

    def _candidate(self, index: int, steps: Sequence[str]) -> Candidate:
        prompt = self._scorer._prompts.build(self._question, self.tiles, steps)
        self._check_length(len(prompt.ids), "the response and its question take")
        return Candidate(index, prompt, common_prefix_tokens(self._prefix, prompt.ids))

    def _check_length(self, tokens: int, what: str) -> None:
        limit = self._scorer.manifest.model.max_positions_tokens
        if tokens > limit:
            raise InputError(
                f"{what} {tokens} tokens, the model's limit is {limit}: shorten the text or use fewer tiles"
            )

    def _run_prefix(self, embeds: FloatArray) -> None:
        """Run the prefix in blocks; each takes the image rows of the image-context tokens in it."""
        size = self._scorer.max_block_tokens
        context_id = self._scorer.manifest.tokens.img_context
        expected = self._prefix.count(context_id)
        if expected != len(embeds):
            raise EngineError(
                f"the prompt has {expected} image tokens, the vision graph gave {len(embeds)} rows: "
                "the bundle's tokens_per_tile does not fit its vision graph; export it again"
            )
        used = 0
        for start in range(0, len(self._prefix), size):
            ids = self._prefix[start : start + size]
            wanted = ids.count(context_id)
            self._scorer.engine.forward(causal_block(ids, start, embeds[used : used + wanted]), self._cache)
            used += wanted

    def _run_group(self, group: Sequence[Candidate]) -> list[NDArray[np.float64]]:
        """Step scores of each candidate of a group; the cache is as before afterwards."""
        try:
            if len(group) == 1:
                logits = self._run_alone(group[0])
            else:
                block = packed_block(group, self.prefix_tokens, self._scorer._no_embeds)
                logits = self._scorer.engine.forward(block, self._cache)
        finally:
            self._cache.truncate(self.prefix_tokens)
        counts = [len(candidate.prompt.score_positions) for candidate in group]
        return np.split(self._probabilities(logits), np.cumsum(counts)[:-1])

    def _run_alone(self, candidate: Candidate) -> NDArray[np.float32]:
        """One candidate, in as many blocks as it needs. The rows of the prefix that it does not share are hidden."""
        size, shared = self._scorer.max_block_tokens, candidate.shared_tokens
        ids = candidate.prompt.ids[: shared + candidate.new_tokens]
        hidden = slice(shared, self.prefix_tokens)
        logits = []
        for start in range(shared, len(ids), size):
            stop = min(start + size, len(ids))
            score_positions = [p - start for p in candidate.prompt.score_positions if start <= p < stop]
            past = self._cache.length_tokens
            block = causal_block(ids[start:stop], past, self._scorer._no_embeds, score_positions)
            block.attention_mask[:, hidden] = False
            block.position_ids[:] = np.arange(start, stop)
            logits.append(self._scorer.engine.forward(block, self._cache))
        return np.concatenate(logits)

    def _probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores [K] from candidate-token logits [K, C]: softmax in float64, weighted. Raises EngineError on NaN."""
        if not np.isfinite(logits).all():
            raise EngineError(
                "the LLM graph gave logits that are not finite: its precision overflows on this input; "
                "export the checkpoint as fp32"
            )
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        weights = np.array([candidate.weight for candidate in self._scorer.manifest.score_rule.candidates])
        scores: NDArray[np.float64] = shifted @ weights / shifted.sum(axis=1)
        return scores

    def _result(self, index: int, steps: Sequence[str], scores: NDArray[np.float64]) -> CandidateScore:
        step_scores = tuple(StepScore(text, float(score)) for text, score in zip(steps, scores, strict=True))
        response_score = aggregate_scores([step.score for step in step_scores], self._options.aggregate)
        return CandidateScore(index, response_score, step_scores)


def _as_list(images: ImageInput | Sequence[ImageInput] | None) -> list[ImageInput]:
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]
