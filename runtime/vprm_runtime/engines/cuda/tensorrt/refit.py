"""Weights for engines that were built without them."""

from pathlib import Path
from typing import Any

from vprm_runtime.errors import EngineError


def refit(trt: Any, engine: Any, onnx_path: Path, logger: Any) -> None:
    """Fill a weight-stripped engine with the bundle's weights. Raises EngineError naming weights that stay empty."""
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(onnx_path)):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(
            f"the engine cannot take the weights of {onnx_path}: {reasons}. Build it again from this bundle"
        )
    missing = refitter.get_missing_weights()
    if missing:
        raise EngineError(
            f"{onnx_path} has no values for {len(missing)} weights of the engine, the first is {missing[0]!r}: "
            "build the engine again from this bundle"
        )
    if not refitter.refit_cuda_engine():
        reasons = "; ".join(logger.messages[-3:])
        raise EngineError(f"refitting from {onnx_path} failed: {reasons}. Build the engine again from this bundle")
