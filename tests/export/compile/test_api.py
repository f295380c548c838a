"""Every TensorRT and CUDA name that the package uses exists in the installed bindings and takes that many arguments.

Without a device most of these calls cannot be made; a wrong name or a missing argument would show on the first card.
The sources are read as syntax trees: what a variable is stands in `OBJECTS`, everything used of it is looked up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vprm_compile
import vprm_runtime.engines.cuda.tensorrt
from vprm_runtime.engines.cuda import device as cuda_device
from vprm_runtime.engines.cuda.device import import_cuda_runtime
from vprm_runtime.engines.cuda.tensorrt.engine_file import LIBRARIES, Library
from vprm_runtime.engines.cuda.tensorrt.graph import import_tensorrt, is_installed
from vprm_runtime.errors import MissingExtraError

EXPORT, RUNTIME = (Path(package.__path__[0]) for package in (vprm_compile, vprm_runtime.engines.cuda.tensorrt))
OBJECTS: dict[Path, dict[str, str]] = {
    EXPORT / "build.py": {
        "builder": "Builder",
        "config": "IBuilderConfig",
        "shapes": "IOptimizationProfile",
        "flags": "BuilderFlag",
    },
    EXPORT / "network.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "layer": "IAttentionInputLayer",
        "layer.attention": "IAttention",
        "error": "ParserError",
        "first": "ParserError",
    },
    EXPORT / "callbacks.py": {"builder": "Builder"},
    EXPORT / "capability.py": {},
    EXPORT / "inspector.py": {"engine": "ICudaEngine"},
    RUNTIME / "graph.py": {
        "self._runtime": "Runtime",
        "self._engine": "ICudaEngine",
        "context": "IExecutionContext",
        "config": "IRuntimeConfig",
    },
    RUNTIME / "kernel_cache.py": {"cache": "IRuntimeCache", "self.cache": "IRuntimeCache"},
    RUNTIME / "refit.py": {"refitter": "Refitter", "parser": "OnnxParserRefitter"},
}
MODULES = ("trt", "self._trt")
# What a call returns, for calls on its result.
RESULTS = {
    "create_engine_inspector": "EngineInspector",
    "get_timing_cache": "ITimingCache",
    "Runtime": "Runtime",
}
ONLY_RTX = {
    "ComputeCapability",
    "num_compute_capabilities",
    "set_compute_capability",
    "CudaGraphStrategy",
    "cuda_graph_strategy",
    "DynamicShapesKernelSpecializationStrategy",
    "dynamic_shapes_kernel_specialization_strategy",
    "create_runtime_cache",
    "set_runtime_cache",
}


class Names:
    """What an expression of a source file is, in one library."""

    def __init__(self, module: Any, objects: dict[str, str]) -> None:
        self.module = module
        self.objects = objects

    def kind(self, node: ast.expr) -> Any:
        """The module, class or enumeration behind an expression; None if it is none of the library's."""
        text = ast.unparse(node)
        if text in MODULES:
            return self.module
        if text in self.objects:
            return getattr(self.module, self.objects[text], None)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RESULTS:
            return getattr(self.module, RESULTS[node.func.attr])
        if isinstance(node, ast.Attribute) and (owner := self.kind(node.value)) is not None:
            found = getattr(owner, node.attr, None)
            return found if isinstance(found, type) else None
        return None


def uses(path: Path, module: Any) -> Iterator[tuple[str, Any, str, int | None]]:
    """(where, owner, name, number of arguments or None) for all that a file uses of the library."""
    tree = ast.parse(path.read_text("utf-8"))
    names = Names(module, OBJECTS[path])
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (owner := names.kind(node.value)) is not None:
            call = called.get(id(node))
            count = None if call is None else len(call.args) + len(call.keywords)
            yield f"{path.name}:{node.lineno}", owner, node.attr, count


def argument_counts(function: Any) -> list[tuple[int, int]]:
    """(fewest, most) arguments of each signature that pybind writes into a docstring; self does not count."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        if match := re.fullmatch(r"(?:\d+\. )?\w+\((.*)\) -> .+", line.strip()):
            arguments = [one for one in _split(match.group(1)) if not one.startswith("self")]
            found.append((sum("=" not in one for one in arguments), len(arguments)))
    return found


def _split(arguments: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for letter in arguments:
        depth += (letter in "[<(") - (letter in "]>)")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def wrong_uses(path: Path, library: Library) -> list[str]:
    """What a file uses that the installed library does not have, in words."""
    wrong = []
    for where, owner, name, count in uses(path, import_tensorrt(library)):
        if name.startswith("__") or (name in ONLY_RTX and library == "tensorrt"):
            continue
        if not hasattr(owner, name):
            wrong.append(f"{where}: {owner.__name__} has no {name}")
            continue
        used = getattr(owner, name)
        counts = argument_counts(used.__init__ if isinstance(used, type) else used)
        if count is not None and counts and not any(low <= count <= high for low, high in counts):
            wrong.append(f"{where}: {name} takes {counts} arguments, not {count}")
    return wrong


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_names_of_the_library(path: Path, library: Library) -> None:
    if not is_installed(library):
        pytest.skip(f"{library} is not installed")
    assert wrong_uses(path, library) == []


@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="tensorrt-rtx is not installed")
def test_enough_is_looked_up_and_mistakes_are_found(tmp_path: Path) -> None:
    module = import_tensorrt("tensorrt-rtx")
    found = {(path.name, name) for path in OBJECTS for _, _, name, _ in uses(path, module)}
    assert {name for path, name in found if path == "build.py"} >= {
        "STRIP_PLAN",
        "set_shape",
        "add_optimization_profile",
    }
    assert {"execute_async_v3", "set_tensor_address", "get_engine_information", "refit_from_file"} <= {
        name for _, name in found
    }
    source = tmp_path / "wrong.py"
    source.write_text(
        "context.enqueue_v3(1)\ncontext.execute_async_v3(1, 2)\ntrt.BuilderFlag.STRIP\nconfig.set_flag(1)\n"
    )
    OBJECTS[source] = {"context": "IExecutionContext", "config": "IBuilderConfig"}
    try:
        assert sorted(wrong_uses(source, "tensorrt-rtx")) == [
            "wrong.py:1: IExecutionContext has no enqueue_v3",
            "wrong.py:2: execute_async_v3 takes [(1, 1)] arguments, not 2",
            "wrong.py:3: BuilderFlag has no STRIP",
        ]
    finally:
        del OBJECTS[source]


def test_names_of_the_cuda_runtime() -> None:
    try:
        runtime = import_cuda_runtime()
    except MissingExtraError:
        pytest.skip("cuda-python is not installed")
    tree = ast.parse(Path(cuda_device.__file__).read_text("utf-8"))
    checked = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, arguments = node.func.attr, node.args
        if name == "_call" and isinstance(node.args[0], ast.Constant):
            name, arguments = node.args[0].value, node.args[1:]
        if name.startswith("cuda"):
            signature = (getattr(runtime, name).__doc__ or "").strip().splitlines()[0]
            assert len(_split(signature[signature.index("(") + 1 : -1])) == len(arguments), signature
            checked.add(name)
    assert {"cudaMemcpyAsync", "cudaGraphInstantiate", "cudaStreamCreateWithFlags", "cudaMalloc"} <= checked
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for name in ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice"):
        assert name in attributes
        assert hasattr(runtime.cudaMemcpyKind, name)
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeRelaxed")
    assert isinstance(runtime.cudaStreamNonBlocking, int)
    properties = runtime.cudaDeviceProp()
    assert all(hasattr(properties, name) for name in ("name", "major", "minor", "totalGlobalMem"))


def test_modules_are_those_that_are_imported() -> None:
    """The sources that talk to the libraries are all looked at."""
    for folder in (EXPORT, RUNTIME):
        for path in folder.glob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text("utf-8")))
            if any(isinstance(node, ast.Attribute) and ast.unparse(node.value) in MODULES for node in nodes):
                assert path in OBJECTS, path
