"""Contenders of `vprm bench best-of-n` by name: PyTorch in three ways, its networks in OpenVINO, our bundles."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vprm_benchmarks.reference.scorer import Method
from vprm_benchmarks.speed.bundles import NATIVE_INT8, BundleKind
from vprm_benchmarks.speed.contenders import Contender
from vprm_benchmarks.speed.contenders.bundle import BundleContender
from vprm_benchmarks.speed.contenders.torch import TimedReference, TorchContender
from vprm_benchmarks.speed.models import Depth, Model, ModelName, Needs
from vprm_benchmarks.speed.peers.contender import EXPORTED as EXPORTED_PEERS
from vprm_benchmarks.speed.peers.contender import KINDS as PEERS
from vprm_benchmarks.speed.peers.contender import PeerContender
from vprm_benchmarks.speed.peers.environment import peer_python
from vprm_runtime import EngineError, InputError, MissingExtraError, StepScorer

_METHODS: dict[str, Method] = {"per_step": "per-step", "one_pass": "one-pass", "prefix": "prefix-reuse"}
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_BUNDLES = {
    "vprm_fp32": BundleKind("fp32"),
    "vprm_int8": NATIVE_INT8,
    "vprm_int8_standard": BundleKind("int8"),  # standard operators only
    "vprm_int8_vision_int8": replace(NATIVE_INT8, vision="int8"),
    "vprm_bf16": BundleKind("fp16", device="openvino"),  # stored in half of fp32's bytes; computed in bfloat16
    "vprm_bf16_native": BundleKind("bf16", target="cpu-native"),
    "vprm_w8_bf16": BundleKind("w8", device="openvino"),
    "vprm_int8_openvino": replace(NATIVE_INT8, vision="fp16", device="openvino"),
}
_PEER = "openvino_prefix_bf16"
NAMES = (*(f"torch_{method}_{dtype}" for method in _METHODS for dtype in _DTYPES), _PEER, *_BUNDLES, *PEERS)
_GOAL_NAMES = (
    "torch_per_step_bf16", "torch_one_pass_bf16", "torch_prefix_bf16", "torch_prefix_fp32", "vprm_fp32", "vprm_int8",
)  # fmt: skip
DEFAULT_NAMES: dict[ModelName, tuple[str, ...]] = {
    "demo": (*_GOAL_NAMES, _PEER, "vprm_bf16", "vprm_int8_openvino"),
    "8b-slice": (*_GOAL_NAMES, "vprm_int8_vision_int8"),  # about 19 GB at 4 layers, beside bundles of half of them
}


def choose(
    asked: Sequence[str] | None, default: Sequence[str], known: Sequence[str], needs_openvino: Callable[[str], bool]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Who takes part, and why others of the default do not.

    Raises InputError on an unknown name, and MissingExtraError if one that was asked for cannot take part.
    """
    names = tuple(asked or default)
    if unknown := set(names) - set(known):
        raise InputError(f"unknown contender {min(unknown)!r}: there are {', '.join(known)}")
    if importlib.util.find_spec("openvino") is not None:
        return names, {}
    lost = [name for name in names if needs_openvino(name)]
    if asked and lost:
        raise MissingExtraError(f"contender {lost[0]}", "openvino")
    reason = str(MissingExtraError("this contender", "openvino"))
    return tuple(name for name in names if name not in lost), dict.fromkeys(lost, reason)


def choose_contenders(
    asked: Sequence[str] | None, model: ModelName, peers: bool = False
) -> tuple[tuple[str, ...], dict[str, str]]:
    """`choose` for `vprm bench best-of-n`; `peers`: with all that have an environment of their own."""
    names, absent = choose(asked, DEFAULT_NAMES[model], NAMES, _needs_openvino)
    return (tuple(dict.fromkeys([*names, *EXPORTED_PEERS])) if peers else names), absent


def needs_of(names: Sequence[str]) -> Needs:
    """What contenders need at least: PyTorch's weights in memory, once for each type, and bundles on the disk.

    Peers are made of PyTorch's bfloat16, and their exports are in float32 at most, on the disk and in memory.
    """
    peers = sum(name in PEERS for name in names)
    types = {name.rpartition("_")[2] for name in names if name not in _BUNDLES and name not in PEERS}
    types |= {"bf16"} if peers else set()
    bundles = Needs.of_bundles({_BUNDLES[name] for name in names if name in _BUNDLES})
    return Needs(
        sum(_DTYPES[dtype].itemsize for dtype in types) + 4 * peers,
        bundles.disk_bytes + (2 + 4 * peers if peers else 0),
    )


def _needs_openvino(name: str) -> bool:
    return name == _PEER or (name in _BUNDLES and _BUNDLES[name].device == "openvino")


class References:
    """PyTorch's models of one checkpoint: those of a type share their weights, at every depth."""

    def __init__(self, checkpoint: Path, depth: Depth) -> None:
        self._checkpoint = checkpoint
        self._depth = depth
        self._loaded: dict[tuple[str, Depth], TimedReference] = {}

    def at(self, dtype: str, depth: Depth) -> TimedReference:
        """With the checkpoint's depth, or less."""
        found = self._loaded.get((dtype, depth))
        if found is None:
            if depth == self._depth:
                found = TimedReference.load(self._checkpoint, dtype=_DTYPES[dtype], attention="sdpa")
            else:
                found = self.at(dtype, self._depth).with_depth(depth.layers, depth.vision_layers)
            self._loaded[dtype, depth] = found
        return found


def open_contenders(
    names: Sequence[str],
    model: Model,
    reference: Callable[[str], TimedReference],
    candidates: int,
    threads: int,
    say: Callable[[str], None],
    lost: dict[str, str],
) -> dict[str, Contender]:
    """Open contenders by name, for requests of `candidates`; `reference` gives PyTorch's model in a type.

    A peer that fails is entered in `lost` with the reason.
    """
    torch.set_num_threads(threads)
    found: dict[str, Contender] = {}
    for name in names:
        say(f"opening {name}")
        if name in _BUNDLES:
            kind = _BUNDLES[name]
            scorer = StepScorer.open(model.bundle(kind), kind.device, threads=threads)
            found[name] = BundleContender(name, scorer)
        elif name == _PEER:
            from vprm_benchmarks.speed.contenders.openvino import OpenVinoReference

            peer = OpenVinoReference.of(reference("bf16"), model.checkpoint, threads)
            found[name] = TorchContender(name, peer, "prefix-reuse")
        elif name in PEERS:
            python, folder = peer_python(say), model.directory / "language-model"
            try:
                found[name] = PeerContender.open(name, python, reference("bf16"), folder, threads)
            except EngineError as error:
                lost[name] = str(error)
        else:
            method, _, dtype = name.removeprefix("torch_").rpartition("_")
            calls = candidates if _METHODS[method] == "per-step" else 1  # timed on one candidate
            found[name] = TorchContender(name, reference(dtype), _METHODS[method], calls)
    return found
