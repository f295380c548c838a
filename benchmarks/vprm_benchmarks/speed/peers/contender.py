"""A peer as a contender: the request's token ids go to its process, logits of the candidate tokens come back.

It gets the language model only. Its exporter takes token ids and nothing else, so image-context tokens go through it as
ordinary ones: the work is the same, the scores are not. That the exported model is the same one is checked on a text.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from vprm_benchmarks.reference.prompt import find_score_positions
from vprm_benchmarks.reference.scorer import ReferenceImages, ReferenceScorer, common_prefix
from vprm_benchmarks.speed.contenders import Scores
from vprm_benchmarks.speed.workload import Workload
from vprm_runtime.errors import EngineError, quoted

KINDS = {  # by the contender's name: the worker's kind; the last one only if it is asked for
    "optimum_onnx": "onnx",
    "optimum_openvino": "openvino",
    "optimum_openvino_int8": "openvino_int8",
    "transformers_4": "transformers",
}
EXPORTED = tuple(KINDS)[:-1]
CANNOT = (
    "take image rows: the exported graph takes token ids only, so images are not encoded and their tokens run as text",
    "give logits at chosen positions: every token's logits of the whole vocabulary are computed",
    "score candidates side by side: each runs alone after the prefix",
)
_STATE = "keep a prefix by its own interface: the model's state is saved and put back through OpenVINO"
_WORKER = Path(__file__).parent / "worker.py"
_QUESTION = "How large is the angle?"
_TEXT = ("A right angle has 90 degrees.", "So the answer is 3.")


class PeerContender:
    """One peer in a process of its own. Use :meth:`open`."""

    calls = 1
    pruned = False
    vision_s = 0.0  # it has no vision encoder

    def __init__(self, name: str, scorer: ReferenceScorer, process: _Process, description: str) -> None:
        self.name = name
        self.description = description
        self.cannot = (*CANNOT, *([_STATE] if "openvino" in name else []))
        self._scorer = scorer
        self._process = process
        self.text_difference_in_rms = self._text_difference()

    @classmethod
    def open(cls, name: str, python: Path, scorer: ReferenceScorer, folder: Path, threads: int) -> PeerContender:
        """Export the language model of `scorer` (written to `folder` if it is not there yet) in the peer's process.

        Raises EngineError with what the peer says.
        """
        if not folder.exists():
            write_language_model(scorer, folder)
        process = _Process(python, name)
        call = {"call": "open", "kind": KINDS[name], "folder": str(folder), "threads": threads}
        description = process.ask({**call, "candidates": scorer.candidates})["description"]
        return cls(name, scorer, process, f"{description}, language model only, prefix reuse")

    def scores(self, work: Workload) -> Scores:
        """Scores of the image-blind language model; see the module."""
        images = ReferenceImages([self._scorer.tiles(work.image, work.max_tiles)], None, None)
        rows = [self._scorer.token_ids(images, work.question, steps) for steps in work.candidates]
        logits = self._logits(rows)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        worth = np.array([weight for _, weight in self._scorer.rule.candidates], np.float64)
        found: Scores = odds / odds.sum(axis=1, keepdims=True) @ worth
        return found

    def vision(self, work: Workload) -> None:
        """Nothing: it has no vision encoder."""

    def prefill(self, tokens: int) -> Callable[[], object]:
        return lambda: self._process.ask({"call": "score", "rows": [[5] * tokens], "positions": [[0]], "prefix": 0})

    def tokens(self, work: Workload) -> list[int]:
        images = ReferenceImages([self._scorer.tiles(work.image, work.max_tiles)], None, None)
        return [len(self._scorer.token_ids(images, work.question, steps)) for steps in work.candidates]

    def _logits(self, rows: list[list[int]]) -> NDArray[np.float64]:
        """[all score positions, candidate tokens]."""
        places = [find_score_positions(self._scorer.rule, ids, self._scorer.tokenizer) for ids in rows]
        prefix = min(common_prefix(rows), *(positions[0] for positions in places)) if len(rows) > 1 else 0
        positions = [[int(place) for place in one] for one in places]
        call = {"call": "score", "rows": rows, "positions": positions, "prefix": prefix}
        return np.concatenate([np.array(one, np.float64) for one in self._process.ask(call)["logits"]])

    def _text_difference(self) -> float:
        """Largest difference of logits from PyTorch's on two responses without an image, over their RMS."""
        none = ReferenceImages([], None, None)
        responses = [[_TEXT[0], text] for text in _TEXT]
        rows = [self._scorer.token_ids(none, _QUESTION, steps) for steps in responses]
        wanted = np.concatenate([one.logits for one in self._scorer.score([], _QUESTION, responses)])
        found = self._logits(rows)
        return float(np.abs(found - wanted).max() / np.sqrt(np.square(wanted).mean()))


def write_language_model(scorer: ReferenceScorer, folder: Path) -> None:
    """The reference's language model in transformers' format, without its vision encoder."""
    config: dict[str, Any] = scorer.model.config.text_config.to_dict()
    rope = config.pop("rope_parameters", None) or {}  # transformers 4 spells it at the top
    if rope.get("rope_type", "default") not in ("default", "dynamic"):  # dynamic: beyond the longest prompts only
        raise EngineError(f"peers cannot be given the rotary scaling {quoted(rope['rope_type'])}: leave out --peers")
    config |= {"rope_theta": rope.get("rope_theta", config.get("rope_theta")), "rope_scaling": None}
    kind = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[config["model_type"]]
    config |= {"architectures": [kind], "torch_dtype": str(scorer.model.dtype).removeprefix("torch.")}
    config.pop("dtype", None)
    folder.mkdir(parents=True)
    tensors = {f"model.{name}": value for name, value in scorer.model.model.language_model.state_dict().items()}
    tensors["lm_head.weight"] = scorer.model.lm_head.weight.detach()
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str), "utf-8")


class _Process:
    """A worker; it ends when this object goes, or this process does."""

    def __init__(self, python: Path, name: str) -> None:
        self._name = name
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        self._worker = subprocess.Popen(
            [str(python), str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            encoding="utf-8", env=environment,
        )  # fmt: skip
        weakref.finalize(self, _end, self._worker, self._log)

    def ask(self, call: dict[str, Any]) -> dict[str, Any]:
        """The reply to a call. Raises EngineError if there is none, or if it is an error."""
        stdin, stdout = self._worker.stdin, self._worker.stdout
        if stdin is None or stdout is None:
            raise EngineError(f"peer {self._name} has no pipes")
        try:
            stdin.write(json.dumps(call) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        reply: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in reply:
            raise EngineError(f"peer {self._name} failed at {call['call']}: {quoted(reply['error'])}; leave it out")
        return reply

    def _last_words(self) -> str:
        code = self._worker.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended with {code}: {lines[-1] if lines else 'no output'}"


def _end(worker: subprocess.Popen[str], log: IO[bytes]) -> None:
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with suppress(OSError):  # it is dead, and what was written last is still in the pipe's buffer
                pipe.close()
    try:
        worker.wait(20)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    log.close()
