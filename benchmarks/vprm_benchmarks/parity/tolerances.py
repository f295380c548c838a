"""How far a bundle may be from the reference, stage by stage and precision by precision: the one table, with its
reasons.

A limit applies to the largest error of a stage. Where ``unit`` is ``rms``, it is a fraction of the root mean square
of the reference's values over all cases, so that it does not depend on a model's scale; where it is ``absolute``, a
plain difference.

The reasoning for the floating-point rows. A format with p bits of mantissa rounds to a relative 2^-p/sqrt(3) (uniform
error); in a residual network roundings add as a random walk: a transformer layer makes about ten in a row, so L
layers give sqrt(10 L) of them, and the largest of some thousand values is about four standard deviations out. For 32
layers this makes

    float32  2^-24/sqrt(3) * sqrt(320) * 4 = 2.5e-6      float16  2^-11/sqrt(3) * sqrt(320) * 4 = 2.0e-2

relative to the RMS. Sums in another order (another library, packing, a cache) add errors of the same kind; float32
rows leave room for four times as much. A score is the softmax of two logits: its slope is at most 1/4 in their
difference, whose error is at most sqrt(2) times a logit's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal[
    "tile_grid",
    "tile_pixels",
    "token_ids",
    "score_positions",
    "image_embeddings",
    "step_logits",
    "step_scores",
    "ranking",
]
STAGES: tuple[Stage, ...] = (
    "tile_grid",
    "tile_pixels",
    "token_ids",
    "score_positions",
    "image_embeddings",
    "step_logits",
    "step_scores",
    "ranking",
)
Unit = Literal["exact", "rms", "absolute"]


@dataclass(frozen=True)
class Tolerance:
    """The largest error that passes, what it is measured in, and why."""

    limit: float
    unit: Unit
    reason: str


_INTEGERS = Tolerance(0.0, "exact", "integers: one off means another prompt or another picture")
_VISION_UNASKED = "the vision encoder of this precision runs in float16"

TOLERANCES: dict[tuple[Stage, str], Tolerance] = {
    ("image_embeddings", "fp32"): Tolerance(
        1e-5, "rms", "rounding of 24 float32 layers (2.5e-6), times four for order of sums"
    ),
    ("step_logits", "fp32"): Tolerance(
        1e-5, "rms", "rounding of 32 float32 layers (2.5e-6), times four for order of sums"
    ),
    ("step_scores", "fp32"): Tolerance(
        1e-5, "absolute", "softmax slope 1/4 times two logits' errors, at logits of RMS 3"
    ),
    ("image_embeddings", "fp16"): Tolerance(2e-2, "rms", "rounding of 24 float16 layers, four standard deviations"),
    ("step_logits", "fp16"): Tolerance(2e-2, "rms", "rounding of 32 float16 layers, four standard deviations"),
    ("step_scores", "fp16"): Tolerance(
        1e-2, "absolute", "softmax slope 1/4 times two logits' errors, at logits of RMS 1.5"
    ),
    ("image_embeddings", "w8"): Tolerance(2e-2, "rms", _VISION_UNASKED),
    ("step_logits", "w8"): Tolerance(1e-1, "rms", "8-bit weights: 1.7% a layer, partly averaged out over 32 layers"),
    ("step_scores", "w8"): Tolerance(5e-2, "absolute", "softmax slope 1/4 times two logits' errors"),
    ("image_embeddings", "int8"): Tolerance(2e-2, "rms", _VISION_UNASKED),
    ("step_logits", "int8"): Tolerance(3e-1, "rms", "8-bit weights and activations: 2-6% a layer over 32 layers"),
    ("step_scores", "int8"): Tolerance(1e-1, "absolute", "softmax slope 1/4 times two logits' errors"),
    ("image_embeddings", "fp8"): Tolerance(2e-2, "rms", _VISION_UNASKED),
    ("step_logits", "fp8"): Tolerance(3e-1, "rms", "4 bits of mantissa: 3.6% a value, partly averaged out"),
    ("step_scores", "fp8"): Tolerance(1e-1, "absolute", "softmax slope 1/4 times two logits' errors"),
    ("image_embeddings", "w4"): Tolerance(2e-2, "rms", _VISION_UNASKED),
    ("step_logits", "w4"): Tolerance(
        1.0, "rms", "4-bit weights: about 10% a layer; a sanity bound, see `vprm quality`"
    ),
    ("step_scores", "w4"): Tolerance(3e-1, "absolute", "softmax slope 1/4 times two logits' errors"),
}


def tolerance(stage: Stage, precision: str) -> Tolerance:
    """The table's row; integer stages are exact in every precision. KeyError for an unknown precision.

    The ranking has the score's limit: two candidates may change places only where the reference has them closer than
    twice that.
    """
    if stage in ("tile_grid", "tile_pixels", "token_ids", "score_positions"):
        return _INTEGERS
    if stage == "ranking":
        scores = TOLERANCES["step_scores", precision]
        return Tolerance(2 * scores.limit, "absolute", "two scores' errors: nearer candidates may change places")
    return TOLERANCES[stage, precision]
