"""How far a bundle may be from the reference, stage by stage and precision by precision: the one table, with its
reasons.

A limit applies to the largest error of a stage. If ``unit`` is ``rms``, it is a fraction of the root mean square
of the reference's values over all cases, so that it does not depend on a model's scale; if it is ``absolute``, a
plain difference.

The floating-point rows. A transformer layer rounds about ten times in a row; roundings in a residual network add as a
random walk, damped because each layer adds less to an ever longer stream: the error was found to stop growing after
about eight layers. Largest errors measured over the built-in cases on random checkpoints of 3 to 32 LLM layers, 2 to 24
vision layers, widths 64 to 256, and the same for PyTorch's own lower precisions (u is the unit roundoff):

                                     image_embeddings   step_logits   step_scores
    bundle float32  (u = 2^-24)           6.1e-6            1.3e-5        5.0e-6
    bundle float16  (u = 2^-11)           6.0e-3            4.6e-2        1.9e-2
    bundles in OpenVINO's bfloat16        9.5e-2            2.7e-1        5.3e-2
    PyTorch float16                       1.0e-2            3.1e-2        1.4e-2
    PyTorch bfloat16 (u = 2^-8)           1.1e-1            2.0e-1        1.0e-1

The trained demo PRM needs 7.8e-6, 3.2e-5 and 8.2e-6 in float32. The limits are up to three times what the bundles
need, and those of float16 a fifth to a half of what PyTorch's bfloat16, in which these models are published and
commonly run, would need. Those of bfloat16 are for engines that compute in it whatever the bundle stores. A score is
the softmax of two logits: its slope is at most 1/4 in their difference, whose error is at most sqrt(2) times a
logit's. The rows for quantised graphs are sanity bounds, wide because a narrow random network amplifies errors (the
demo PRM's shape needs a quarter or less): whether a quantised PRM still judges as before is what `vprm quality`
measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

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
STAGES: tuple[Stage, ...] = get_args(Stage)
Unit = Literal["exact", "rms", "absolute"]


@dataclass(frozen=True)
class Tolerance:
    """The largest error that passes, what it is measured in, and why."""

    limit: float
    unit: Unit
    reason: str


_INTEGERS = Tolerance(0.0, "exact", "integers: one off means another prompt or another image")
_SANITY = "a sanity bound above what a random 8-layer model needs"
_NO_VISION = "no vision encoder is exported in it"
_SLOPE = "softmax slope 1/4 times two logits' errors"

TOLERANCES: dict[tuple[Stage, str], Tolerance] = {
    ("image_embeddings", "fp32"): Tolerance(2e-5, "rms", "order of float32 sums: nearly three times the demo's 7.8e-6"),
    ("step_logits", "fp32"): Tolerance(1e-4, "rms", "order of float32 sums: three times the trained demo's 3.2e-5"),
    ("step_scores", "fp32"): Tolerance(1e-5, "absolute", "the bar set for float32; the trained demo needs 8.2e-6"),
    ("image_embeddings", "fp16"): Tolerance(2e-2, "rms", "rounding to 11 bits: three times the measured 6.0e-3"),
    ("step_logits", "fp16"): Tolerance(8e-2, "rms", "rounding to 11 bits: nearly twice the measured 4.6e-2"),
    ("step_scores", "fp16"): Tolerance(3e-2, "absolute", f"{_SLOPE}, for logits of RMS up to 1"),
    ("image_embeddings", "bf16"): Tolerance(2e-1, "rms", "rounding to 8 bits: twice OpenVINO's 9.5e-2"),
    ("step_logits", "bf16"): Tolerance(5e-1, "rms", "rounding to 8 bits: nearly twice OpenVINO's 2.7e-1"),
    ("step_scores", "bf16"): Tolerance(1.2e-1, "absolute", "rounding to 8 bits: twice OpenVINO's 5.3e-2"),
    ("image_embeddings", "w8"): Tolerance(3e-1, "rms", "8-bit weights: twice the measured 1.6e-1 (demo 1.1e-1)"),
    ("step_logits", "w8"): Tolerance(5e-1, "rms", f"{_SANITY} (3.3e-1, demo 5.0e-2)"),
    ("step_scores", "w8"): Tolerance(2e-1, "absolute", f"{_SANITY} (1.3e-1, demo 6.6e-3)"),
    ("image_embeddings", "int8"): Tolerance(3e-1, "rms", "8-bit products: less than twice 1.8e-1 (demo 1.5e-1)"),
    ("step_logits", "int8"): Tolerance(7e-1, "rms", f"{_SANITY} (4.5e-1, demo 8.1e-2)"),
    ("step_scores", "int8"): Tolerance(2e-1, "absolute", f"{_SANITY} (1.1e-1, demo 1.9e-2)"),
    ("image_embeddings", "fp8"): Tolerance(3e-1, "rms", _NO_VISION),
    ("step_logits", "fp8"): Tolerance(7e-1, "rms", "as int8: 3 bits of mantissa, not measured without a GPU"),
    ("step_scores", "fp8"): Tolerance(2e-1, "absolute", "as int8: 3 bits of mantissa, not measured without a GPU"),
    ("image_embeddings", "w4"): Tolerance(1.0, "rms", _NO_VISION),
    ("step_logits", "w4"): Tolerance(3.0, "rms", f"{_SANITY} (2.2, demo 5.1e-1)"),
    ("step_scores", "w4"): Tolerance(8e-1, "absolute", f"{_SANITY} (6.6e-1, demo 7.0e-2)"),
}
PRECISIONS = ("fp32", "fp16", "bf16", "w8", "fp8", "int8", "w4")  # finest first


@dataclass(frozen=True)
class Precisions:
    """What the two graphs compute in. Logits and scores are judged by the coarser: they follow from both."""

    vision: str
    llm: str

    def of_stage(self, stage: Stage) -> str:
        """The precision whose rows apply to a stage."""
        return self.vision if stage == "image_embeddings" else max(self.vision, self.llm, key=PRECISIONS.index)


def tolerance(stage: Stage, precision: str) -> Tolerance:
    """The table's row; integer stages are exact in every precision. KeyError for an unknown precision.

    The ranking has the score's limit: two candidates may change places only if the reference has them closer than
    twice that.
    """
    if stage in ("tile_grid", "tile_pixels", "token_ids", "score_positions"):
        return _INTEGERS
    if stage == "ranking":
        scores = TOLERANCES["step_scores", precision]
        return Tolerance(2 * scores.limit, "absolute", "two scores' errors: nearer candidates may change places")
    return TOLERANCES[stage, precision]
