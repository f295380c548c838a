"""Score a solution with the reference model in the three ways people do it.

``per-step``     one forward pass for every step over the conversation so far, vision encoder included (as first
shipped) ``one-pass``     one forward pass over the whole conversation; all steps' logits are read from it
``prefix-reuse`` the tokens that all candidates share run once into a KV cache, each candidate's rest follows from
there
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import DynamicCache, InternVLForConditionalGeneration

from vprm_benchmarks.reference.hf import is_native, load_native, native_settings
from vprm_benchmarks.reference.images import load_tiles, pixel_values_from_tiles
from vprm_benchmarks.reference.model import AttentionKind, cache_argument, load_model, tokens_per_tile
from vprm_benchmarks.reference.prompt import (
    candidate_ids,
    conversation_text,
    default_system_message,
    find_score_positions,
)
from vprm_benchmarks.reference.rule import VISUALPRM, ReferenceRule
from vprm_benchmarks.reference.tokenizer import ReferenceTokenizer, load_tokenizer

Method = Literal["per-step", "one-pass", "prefix-reuse"]


@dataclass(frozen=True)
class ReferenceScores:
    """What the reference says of one candidate of K steps."""

    token_ids: NDArray[np.int64]  # [tokens]
    score_positions: NDArray[np.int64]  # [K], indices into token_ids
    logits: NDArray[np.float32]  # [K, C]: a column for each of the rule's candidate tokens
    scores: NDArray[np.float32]  # [K], in 0..1

    @property
    def mean(self) -> float:
        """The candidate's score: the mean over its steps."""
        return float(self.scores.mean())


@dataclass(frozen=True)
class ReferenceImages:
    """A question's images after the vision encoder."""

    tiles: list[list[Image.Image]]  # per image
    pixel_values: torch.Tensor | None  # [n, 3, tile_px, tile_px] in the model's dtype; None for text only
    embeddings: torch.Tensor | None  # [n * tokens_per_tile, hidden]


class ReferenceScorer:
    """The reference on one checkpoint directory. Use :meth:`load`."""

    def __init__(
        self,
        model: InternVLForConditionalGeneration,
        tokenizer: ReferenceTokenizer,
        config: dict[str, Any],
        system_message: str,
        rule: ReferenceRule,
    ) -> None:
        vision = config["vision_config"]
        self.model = model
        self.tokenizer = tokenizer
        self.system_message = system_message
        self.rule = rule
        self.tile_px = int(config.get("force_image_size") or vision["image_size"])
        dynamic = config["dynamic_image_size"]  # without it, an image is one tile
        self.min_tiles = int(config["min_dynamic_patch"]) if dynamic else 1
        self.max_tiles = int(config["max_dynamic_patch"]) if dynamic else 1
        self.thumbnail = bool(config["use_thumbnail"])
        self.tokens_per_tile = tokens_per_tile(self.tile_px, vision["patch_size"], config["downsample_ratio"])
        self.transposed = config["ps_version"] == "v1"
        self.image_token = tokenizer.token_id("<IMG_CONTEXT>")
        self.candidates = candidate_ids(rule, tokenizer)

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        attention: AttentionKind = "eager",
        system_message: str | None = None,
        rule: ReferenceRule = VISUALPRM,
    ) -> Self:
        """Load a checkpoint; ``system_message`` None takes config.json's, else the template's."""
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        if system_message is None:
            from_config = None if rule.default_system else config.get("system_message")
            system_message = default_system_message() if from_config is None else from_config
        if is_native(config):
            model = load_native(directory, dtype, device, attention)
            config = native_settings(directory, model)
        else:
            model = load_model(directory, dtype, device, attention)
        return cls(model, load_tokenizer(directory), config, system_message, rule)

    def tiles(self, image: Path | Image.Image, max_tiles: int | None = None) -> list[Image.Image]:
        """One image's tiles."""
        most = max_tiles or self.max_tiles
        return load_tiles(image, self.tile_px, min(self.min_tiles, most), most, self.thumbnail)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Path | Image.Image], max_tiles: int | None = None) -> ReferenceImages:
        """Tiles, pixel values and image embeddings of a question's images, in order."""
        tiles = [self.tiles(image, max_tiles) for image in images]
        flat = [tile for per_image in tiles for tile in per_image]
        if not flat:
            return ReferenceImages(tiles, None, None)
        pixel_values = pixel_values_from_tiles(flat).to(device=self.model.device, dtype=self.model.dtype)
        return ReferenceImages(tiles, pixel_values, self._embed(pixel_values))

    def _embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = self._features(pixel_values)
        if self.transposed:
            side = int(features.shape[1] ** 0.5)
            features = features.view(-1, side, side, features.shape[-1]).transpose(1, 2)
        return features.reshape(-1, features.shape[-1])

    def _features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The vision encoder: [n, 3, tile_px, tile_px] -> [n, tokens, hidden]."""
        outputs = self.model.get_image_features(pixel_values, return_dict=True)
        features: torch.Tensor = outputs.pooler_output
        return features

    def token_ids(self, images: ReferenceImages, question: str, steps: Sequence[str]) -> list[int]:
        """Ids of the whole conversation, tokenised as one string."""
        image_texts = [
            "<img>" + "<IMG_CONTEXT>" * (self.tokens_per_tile * len(per_image)) + "</img>" for per_image in images.tiles
        ]
        return self.tokenizer.encode(conversation_text(self.rule, self.system_message, question, steps, image_texts))

    @torch.inference_mode()
    def score(
        self,
        images: Sequence[Path | Image.Image],
        question: str,
        candidates: Sequence[Sequence[str]],
        method: Method = "one-pass",
        max_tiles: int | None = None,
    ) -> list[ReferenceScores]:
        """Scores of every candidate (a list of steps), in order; "per-step" encodes the images for every step anew."""
        if method == "per-step":
            return [self._score_per_step(images, question, steps, max_tiles) for steps in candidates]
        encoded = self.encode_images(images, max_tiles)
        if method == "prefix-reuse":
            return self._score_with_prefix(encoded, question, candidates)
        return [self._score_whole(encoded, self.token_ids(encoded, question, steps)) for steps in candidates]

    def _score_per_step(
        self, images: Sequence[Path | Image.Image], question: str, steps: Sequence[str], max_tiles: int | None
    ) -> ReferenceScores:
        last_rows, ids = [], []
        for count in range(1, len(steps) + 1):
            encoded = self.encode_images(images, max_tiles)
            ids = self.token_ids(encoded, question, steps[:count])
            last_rows.append(self._score_whole(encoded, ids).logits[-1])
        return self._result(ids, np.stack(last_rows))

    def _score_whole(self, images: ReferenceImages, ids: list[int]) -> ReferenceScores:
        positions = find_score_positions(self.rule, ids, self.tokenizer)
        hidden = self.model.model.language_model(inputs_embeds=self._inputs(images, ids), use_cache=False)[0]
        return self._result(ids, self._candidate_logits(hidden[0, positions]))

    def _score_with_prefix(
        self, images: ReferenceImages, question: str, candidates: Sequence[Sequence[str]]
    ) -> list[ReferenceScores]:
        rows, places, prefix = self._with_prefix(images, question, candidates)
        inputs = [self._inputs(images, ids) for ids in rows]
        text_model = self.model.model.language_model
        cache = DynamicCache()
        cached = {**cache_argument(text_model, cache), "use_cache": True}
        text_model(inputs_embeds=inputs[0][:, :prefix], **cached)
        results = []
        for ids, embeds, positions in zip(rows, inputs, places, strict=True):
            rest = text_model(inputs_embeds=embeds[:, prefix:], **cached)[0]
            cache.crop(prefix - len(ids))  # negative: how many to drop
            results.append(self._result(ids, self._candidate_logits(rest[0, [place - prefix for place in positions]])))
        return results

    def _with_prefix(
        self, images: ReferenceImages, question: str, candidates: Sequence[Sequence[str]]
    ) -> tuple[list[list[int]], list[list[int]], int]:
        """Each candidate's ids and score positions, and how many ids all share before the first score."""
        rows = [self.token_ids(images, question, steps) for steps in candidates]
        places = [find_score_positions(self.rule, ids, self.tokenizer) for ids in rows]
        return rows, places, min(common_prefix(rows), *(positions[0] for positions in places))

    def _inputs(self, images: ReferenceImages, ids: list[int]) -> torch.Tensor:
        """Token embeddings with the image rows put in place: [1, tokens, hidden]."""
        tokens = torch.tensor([ids], device=self.model.device)
        embeds: torch.Tensor = self.model.get_input_embeddings()(tokens)
        places = tokens == self.image_token
        rows = 0 if images.embeddings is None else images.embeddings.shape[0]
        if int(places.sum()) != rows:
            raise ValueError(f"{int(places.sum())} image tokens in the prompt but {rows} image rows from the encoder")
        if images.embeddings is not None:
            embeds = embeds.masked_scatter(places.unsqueeze(-1), images.embeddings.to(embeds.dtype))
        return embeds

    def _candidate_logits(self, hidden: torch.Tensor) -> NDArray[np.float32]:
        """[K, hidden] -> [K, C]: the whole vocabulary's logits, then those that matter."""
        logits = self.model.lm_head(hidden).float()[:, self.candidates]
        return np.asarray(logits.cpu().numpy(), dtype=np.float32)

    def _result(self, ids: list[int], logits: NDArray[np.float32]) -> ReferenceScores:
        positions = find_score_positions(self.rule, ids, self.tokenizer)
        worth = torch.tensor([weight for _, weight in self.rule.candidates])
        scores = (torch.from_numpy(logits).softmax(dim=-1) @ worth).numpy()
        return ReferenceScores(np.asarray(ids, dtype=np.int64), np.asarray(positions, dtype=np.int64), logits, scores)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of ids that all rows start with."""
    for place, column in enumerate(zip(*rows, strict=False)):
        if len(set(column)) > 1:
            return place
    return min(map(len, rows))
