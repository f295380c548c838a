"""What a compiled pair of graphs takes at most, and the memory for what goes in and out of them."""

from dataclasses import dataclass
from math import prod

import numpy as np

from vprm_runtime.bundle.graph_io import cache_names, layer_cache_names
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.engines.cuda.profiles import Profile
from vprm_runtime.engines.cuda.protocol import ALIGNMENT_BYTES


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
    """Device memory of each staging buffer: a tensor's largest shape, cached rows aside; and new rows if narrow."""
    model = manifest.model
    image_rows = max(limits.image_rows, limits.tiles * model.tokens_per_tile)
    sizes = {"T": limits.tiles, "R": image_rows, "S": limits.tokens, "P": limits.past, "K": limits.scores}
    cached = {name for names in cache_names(model.layers) for name in (names.past, names.new)}
    found: dict[str, int] = {}
    for io in manifest.graph_io:
        for spec in (*io.inputs, *io.outputs):
            if spec.name not in cached:
                size_bytes = prod(spec.sized(sizes)) * np.dtype(spec.dtype).itemsize
                found[spec.name] = max(size_bytes, found.get(spec.name, 0))
    row_bytes = model.kv_width * np.dtype(manifest.graphs.llm.io_dtype).itemsize
    staged_parts = 0 if row_bytes % ALIGNMENT_BYTES == 0 else model.layers * 2
    return found | {"new_rows": staged_parts * aligned(limits.tokens * row_bytes)}


def aligned(size_bytes: int) -> int:
    """The next multiple of ALIGNMENT_BYTES."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
