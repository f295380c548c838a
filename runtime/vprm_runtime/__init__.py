"""vprm: fast, exact step scores from visual process reward models, without PyTorch.

from vprm_runtime import StepScorer
result = StepScorer.open("bundle").score("figure.png", "Find m \\\\angle 3.", ["first step\\n\\nsecond step"])
"""

import os

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.errors import (
    BundleError,
    CheckpointError,
    EngineError,
    InputError,
    MissingExtraError,
    ServerError,
    UnsupportedError,
    VprmError,
)
from vprm_runtime.execution.aggregate import Aggregate
from vprm_runtime.model_card import select_best_response
from vprm_runtime.options import ScoreOptions
from vprm_runtime.results import CandidateScore, ScoreResult, StepScore
from vprm_runtime.scorer import StepScorer
from vprm_runtime.session import Session

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime keeps an id in HOME and sends usage otherwise

__all__ = [
    "Aggregate",
    "Bundle",
    "BundleError",
    "CandidateScore",
    "CheckpointError",
    "EngineError",
    "InputError",
    "MissingExtraError",
    "ScoreOptions",
    "ScoreResult",
    "ServerError",
    "Session",
    "StepScore",
    "StepScorer",
    "UnsupportedError",
    "VprmError",
    "select_best_response",
]
