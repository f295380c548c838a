"""One peer: a program of the peers' environment. Lines of JSON in, lines of JSON out; it imports nothing of vprm.

    {"call": "open", "kind": K, "folder": DIR, "threads": N, "candidates": [ids]}  -> {"description": text}
    {"call": "score", "rows": [[ids]], "positions": [[...]], "prefix": N}          -> {"logits": [[[float]]]}

`folder` is a language model in transformers' format. All rows begin with the same `prefix` ids, which are run once; the
logits are those of the candidate ids at each row's positions, all of which are in the rest. What goes wrong is
{"error": text}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from typing import Any

import numpy as np


class Onnx:
    """optimum's export to ONNX, run by ONNX Runtime; keys and values are inputs and outputs."""

    def __init__(self, folder: str, threads: int, kind: str) -> None:
        ort = importlib.import_module("onnxruntime")
        optimum = importlib.import_module("optimum.onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._torch = importlib.import_module("torch")
        self._model = optimum.ORTModelForCausalLM.from_pretrained(
            folder, export=True, use_cache=True, provider="CPUExecutionProvider", session_options=options
        )
        self._past: Any = None
        self.description = f"optimum-onnx {version('optimum-onnx')}, ONNX Runtime {ort.__version__}, float32"

    def prefix(self, ids: list[int]) -> None:
        """Run the ids and keep their keys and values."""
        self._past = self._run(ids, None, len(ids)).past_key_values if ids else None

    def rest(self, ids: list[int], prefix: int) -> Any:
        """Logits [ids, vocabulary] of ids after the kept prefix."""
        return self._run(ids, self._past, prefix + len(ids)).logits[0]

    def _run(self, ids: list[int], past: Any, total: int) -> Any:
        torch = self._torch
        mask = torch.ones((1, total), dtype=torch.int64)
        return self._model(input_ids=torch.tensor([ids]), attention_mask=mask, past_key_values=past, use_cache=True)


class OpenVino:
    """optimum-intel's export to OpenVINO; keys and values are the model's state, saved and put back by hand."""

    def __init__(self, folder: str, threads: int, kind: str) -> None:
        self._ov = importlib.import_module("openvino")
        optimum = importlib.import_module("optimum.intel")
        self._torch = importlib.import_module("torch")
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        eight_bit = kind == "openvino_int8"  # weights; inputs are rounded to 8 bits by OpenVINO when they come
        self._model = optimum.OVModelForCausalLM.from_pretrained(
            folder, export=True, load_in_8bit=eight_bit, ov_config=config
        )
        self._saved: list[Any] = []
        stored = "int8 weights" if eight_bit else "weights as stored"
        self.description = f"optimum-intel {version('optimum-intel')}, OpenVINO {self._ov.__version__}, {stored}"

    def prefix(self, ids: list[int]) -> None:
        """Run the ids and save the state."""
        self._saved = []
        if ids:
            self._run(ids, None, len(ids))
            self._saved = [self._copied(variable.state) for variable in self._model.request.query_state()]

    def rest(self, ids: list[int], prefix: int) -> Any:
        """Logits [ids, vocabulary] of ids after the saved state."""
        if prefix:
            for variable, state in zip(self._model.request.query_state(), self._saved, strict=True):
                variable.state = state
        return self._run(ids, ((),) if prefix else None, prefix + len(ids)).logits[0]

    def _run(self, ids: list[int], past: Any, total: int) -> Any:
        torch = self._torch
        mask = torch.ones((1, total), dtype=torch.int64)
        return self._model(input_ids=torch.tensor([ids]), attention_mask=mask, past_key_values=past)

    def _copied(self, tensor: Any) -> Any:
        copy = self._ov.Tensor(tensor.element_type, tensor.shape)
        tensor.copy_to(copy)
        return copy


class Transformers:
    """The model as it is, in PyTorch: what the others are exported from."""

    def __init__(self, folder: str, threads: int, kind: str) -> None:
        self._torch = importlib.import_module("torch")
        self._torch.set_num_threads(threads)
        transformers = importlib.import_module("transformers")
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        self._cache = transformers.DynamicCache
        self._past: Any = None
        self.description = f"transformers {transformers.__version__}, PyTorch {self._torch.__version__}"

    def prefix(self, ids: list[int]) -> None:
        """Run the ids and keep their keys and values."""
        self._past = self._cache()
        if ids:
            self._run(ids)

    def rest(self, ids: list[int], prefix: int) -> Any:
        """Logits [ids, vocabulary] of ids after the kept prefix."""
        logits = self._run(ids)
        if prefix:
            self._past.crop(-len(ids))
        return logits

    def _run(self, ids: list[int]) -> Any:
        with self._torch.inference_mode():
            return self._model(self._torch.tensor([ids]), past_key_values=self._past, use_cache=True).logits[0]


KINDS: dict[str, Any] = {
    "onnx": Onnx, "openvino": OpenVino, "openvino_int8": OpenVino, "transformers": Transformers,
}  # fmt: skip


def version(package: str) -> str:
    """An installed package's version."""
    return importlib.import_module("importlib.metadata").version(package)  # type: ignore[no-any-return]


class Worker:
    """Answers calls, one after the other."""

    def __init__(self) -> None:
        self._peer: Any = None
        self._candidates: list[int] = []

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        """The reply to one call."""
        if call["call"] == "open":
            self._candidates = call["candidates"]
            self._peer = KINDS[call["kind"]](call["folder"], call["threads"], call["kind"])
            return {"description": self._peer.description}
        prefix = call["prefix"]
        self._peer.prefix(call["rows"][0][:prefix])
        found = []
        for ids, positions in zip(call["rows"], call["positions"], strict=True):
            logits = self._peer.rest(ids[prefix:], prefix)
            rows = np.asarray(logits.float() if hasattr(logits, "float") else logits, np.float32)
            found.append(rows[[place - prefix for place in positions]][:, self._candidates].tolist())
        return {"logits": found}


def main() -> None:
    """Serve stdin until it ends. Libraries that print get stderr instead of the replies' stdout."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="vprm-peer-") as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary  # exports; gone with this process
        worker = Worker()
        for line in sys.stdin:
            try:
                reply = worker.answer(json.loads(line))
            except Exception as error:  # noqa: BLE001 - shown by the benchmark, whatever a library raises
                reply = {"error": f"{type(error).__name__}: {error}"[:500]}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


if __name__ == "__main__":
    main()
