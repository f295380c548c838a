"""What a compiled pair of graphs takes at most, and the memory for what goes in and out of them."""

from dataclasses import dataclass

import numpy as np

from vprm_runtime.bundle.graph_io import layer_cache_names
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.engines.cuda.profiles import Profile
from vprm_runtime.engines.cuda.protocol import ALIGNMENT_BYTES

_CAST_BYTES = 8


@dataclass(frozen=True)
class Limits:
    """Largest sizes that every profile of an engine takes."""

    tiles: int
    tokens: int
    past: int
    image_rows: int
    scores: int

    @staticmethod
    def of(vision: tuple[Profile, ...], llm: tuple[Profile, ...]) -> "Limits":
        """Limits of two engines' profiles."""

        def largest(profiles: tuple[Profile, ...], name: str) -> int:
            return min(profile[name].max[0] for profile in profiles)

        return Limits(
            tiles=largest(vision, "tiles"),
            tokens=largest(llm, "input_ids"),
            past=largest(llm, layer_cache_names(0)[0].past),
            image_rows=largest(llm, "image_embeds"),
            scores=largest(llm, "score_positions"),
        )


def inputs_outputs_bytes(manifest: Manifest, limits: Limits) -> dict[str, int]:
    """Device memory of each staging buffer, cached rows aside."""
    model, graphs = manifest.model, manifest.graphs
    llm_itemsize = np.dtype(graphs.llm.io_dtype).itemsize
    row_bytes = model.kv_width * llm_itemsize
    staged_parts = 0 if row_bytes % ALIGNMENT_BYTES == 0 else model.layers * 2
    image_rows = max(limits.image_rows, limits.tiles * model.tokens_per_tile)
    return {
        "tiles": limits.tiles * manifest.tiling.tile_size_px**2 * 3,
        "image_embeds": image_rows * model.hidden_size * max(llm_itemsize, np.dtype(graphs.vision.io_dtype).itemsize),
        "input_ids": limits.tokens * _CAST_BYTES,
        "position_ids": limits.tokens * _CAST_BYTES,
        "score_positions": limits.scores * _CAST_BYTES,
        "attention_mask": limits.tokens * (limits.past + limits.tokens),
        "step_logits": limits.scores * len(manifest.score_rule.candidates) * 4,
        "new_rows": staged_parts * aligned(limits.tokens * row_bytes),
    }


def aligned(size_bytes: int) -> int:
    """The next multiple of ALIGNMENT_BYTES."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
