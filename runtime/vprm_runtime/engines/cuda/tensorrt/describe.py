"""What a bundle's engines are, for people and for `vprm inspect`."""

from dataclasses import asdict
from typing import Any

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.engines.cuda.limits import Limits
from vprm_runtime.engines.cuda.tensorrt.engine_checks import check_bundle, check_files, check_hashes
from vprm_runtime.engines.cuda.tensorrt.engine_file import EngineInfo, GraphEngine, engine_directories
from vprm_runtime.errors import EngineError


def inspect_engines(bundle: Bundle, verify: bool = False) -> list[dict[str, Any]]:
    """For `vprm inspect`: a JSON-ready description of each engine; `error` says why one cannot be used. `verify`: also
    read the engine files and compare their hashes."""
    described: list[dict[str, Any]] = []
    for directory in engine_directories(bundle):
        entry: dict[str, Any] = {"name": directory.name, "error": None}
        try:
            info = EngineInfo.read(directory)
            entry |= asdict(info)
            check_bundle(info, bundle)
            check_files(info, directory)
            if verify:
                check_hashes(info, directory)
        except EngineError as error:
            entry["error"] = str(error)
        described.append(entry)
    return described


def engine_lines(info: EngineInfo) -> list[str]:
    """What an engine is, in lines for people."""
    limits = Limits.of(info.vision.profiles, info.llm.profiles)
    lines = [
        f"{info.name}: {info.library} {info.library_version}, profile {info.profile}, {info.weights} weights",
        f"  a run takes {limits.tiles} tiles, or {limits.tokens:,} tokens after {limits.past:,} cached ones, at most",
    ]
    for name, graph in (("vision", info.vision), ("llm", info.llm)):
        lines.append(
            f"  {name}: {graph.precision}, {graph.size_bytes / 1e6:,.1f} MB in {graph.build_s:.1f} s, "
            f"workspace {graph.workspace_bytes / 1e6:,.1f} MB, {_compiled(graph)}"
        )
        lines += [f"    problem: {problem}" for problem in graph.check.problems]
    return lines


def _compiled(graph: GraphEngine) -> str:
    """What the engine does with the costly nodes, in words."""
    check = graph.check
    if not check.read:
        return "compiled kernels cannot be read from this library's engines"
    matmuls = ", ".join(f"{count} of {pair}" for pair, count in check.matmuls.items())
    return f"attention fused in {check.fused_attention_nodes} of {check.attention_nodes}, products {matmuls}"
