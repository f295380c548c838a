"""The stages of a build, in order: check, import, compile, describe, finish.

| stage    | requires                       | ensures                                                              |
|----------|--------------------------------|----------------------------------------------------------------------|
| check    | an opened bundle, options      | library installed, precision and device possible, profiles right     |
| import   | the above                      | both graphs are strongly typed networks                              |
| compile  | the above                      | engine files in a temporary folder                                   |
| describe | the above                      | hashes, memory, compiled kernels compared with the graph             |
| finish   | the above                      | engine.json written, folder renamed: the engine exists, whole        |
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vprm_compile.callbacks import (
    BuildLog,
    compiled_into,
    progress_monitor,
    stream_writer,
)
from vprm_compile.capability import BuildOptions, check_precision, checked_capability
from vprm_compile.compile_log import compile_failure, has_no_fused_attention, reported_bytes
from vprm_compile.engine_check import check_engine_file
from vprm_compile.inspector import check_by_inspector
from vprm_compile.network import adapted_graph, allow_decomposed_attention, imported_network
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import GraphInfo
from vprm_runtime.engines.cuda.profiles import Profile, llm_profiles, profile_set, vision_profiles
from vprm_runtime.engines.cuda.tensorrt.engine_file import (
    ENGINES_FOLDER,
    INFO_NAME,
    SCHEMA_VERSION,
    EngineInfo,
    GraphEngine,
    bundle_fingerprint,
    engine_name,
)
from vprm_runtime.engines.cuda.tensorrt.graph import import_tensorrt
from vprm_runtime.errors import BundleError, EngineError
from vprm_runtime.files import whole_folder, write_whole
from vprm_runtime.room import check_room

Progress = Callable[[str, int, int], None]  # phase, steps done, steps in all
NO_FUSED_ATTENTION = "attention has no fused kernel here: scores of all heads are multiplied out, which is slow"


def build_engines(
    bundle: Bundle, options: BuildOptions, progress: Progress = lambda phase, done, total: None
) -> EngineInfo:
    """Build both graphs' engines into `engines/<library>-sm<NN>/`, replacing what is there. No device is needed for
    TensorRT-RTX with full weights.

    Raises MissingExtraError (package not installed), InputError (options), UnsupportedError (a node or precision that
    TensorRT refuses), EngineError (the compilation failed), BundleError (cannot write).
    """
    trt = import_tensorrt(options.library)
    capability = checked_capability(trt, options)
    for graph in (bundle.manifest.graphs.vision, bundle.manifest.graphs.llm):
        check_precision(graph, capability)
    profiles = _profiles(bundle, options.profile)
    if options.weights == "full":
        size = sum(info.size_bytes for info in bundle.manifest.files.values())
        check_room("engines with their weights", disk_bytes=size, folder=bundle.path)
    target = bundle.path / ENGINES_FOLDER / engine_name(options.library, capability)
    try:
        target.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise BundleError(f"cannot write into {target.parent} ({error.strerror}): copy the bundle elsewhere") from error
    try:
        with whole_folder(target, replace=True) as directory:
            graphs = {
                name: _build_graph(
                    trt, name, _GraphJob(path, graph, profiles[name], capability, options), directory, progress
                )
                for name, path, graph in (
                    ("vision", bundle.vision_path, bundle.manifest.graphs.vision),
                    ("llm", bundle.llm_path, bundle.manifest.graphs.llm),
                )
            }
            info = EngineInfo(
                schema_version=SCHEMA_VERSION,
                library=options.library,
                library_version=str(trt.__version__),
                compute_capability=capability,
                weights=options.weights,
                profile=options.profile,
                bundle_sha256=bundle_fingerprint(bundle),
                vision=graphs["vision"],
                llm=graphs["llm"],
            )
            (directory / INFO_NAME).write_text(info.to_json(), "utf-8")
    except OSError as error:
        raise BundleError(f"writing {error.filename or target} failed ({error.strerror}): check the disk") from error
    return info


@dataclass(frozen=True)
class _GraphJob:
    path: Path
    graph: GraphInfo
    profiles: tuple[Profile, ...]
    capability: int
    options: BuildOptions


def _profiles(bundle: Bundle, text: str) -> dict[str, tuple[Profile, ...]]:
    profiles = profile_set(text, bundle.manifest)
    vision, llm = bundle.manifest.graph_io
    return {"vision": vision_profiles(vision, profiles), "llm": llm_profiles(llm, profiles)}


def _build_graph(trt: Any, name: str, job: _GraphJob, directory: Path, progress: Progress) -> GraphEngine:
    log = BuildLog.create(trt)
    builder = trt.Builder(log.logger)
    model = adapted_graph(job.path)
    network, parser = imported_network(trt, builder, log.logger, model, job.path)
    config = builder.create_builder_config()
    _configure(trt, builder, config, job)
    config.progress_monitor = progress_monitor(
        trt, lambda phase, done, total: progress(f"{name}: {phase}", done, total)
    )
    timing_path = directory.parent / f"timing-sm{job.capability}.cache"
    if job.options.library == "tensorrt":
        load_timing_cache(config, timing_path)
    path = directory / f"{name}.engine"
    started = time.perf_counter()
    sha256 = _compile(trt, builder, network, config, log, path)
    decomposed = sha256 is None and has_no_fused_attention(log.errors)
    if decomposed:
        log.errors.clear()
        allow_decomposed_attention(trt, network)
        sha256 = _compile(trt, builder, network, config, log, path)
    if sha256 is None:
        raise EngineError(compile_failure(job.path.name, log.errors))
    build_s = time.perf_counter() - started
    del parser
    if job.options.library == "tensorrt":
        write_whole(timing_path, bytes(config.get_timing_cache().serialize()))
        check = check_by_inspector(trt, log.logger, path, model)
    else:
        check = check_engine_file(path, model)
    if decomposed:
        check = replace(check, problems=(NO_FUSED_ATTENTION, *check.problems))
    return GraphEngine(
        file=path.name,
        size_bytes=path.stat().st_size,
        sha256=sha256,
        precision=job.graph.precision,
        profiles=job.profiles,
        weights_bytes=reported_bytes(log.lines, "Total Weights Memory")
        or _stored_bytes(job.path.with_name(job.graph.files[1])),
        workspace_bytes=reported_bytes(log.lines, "Total Activation Memory"),
        build_s=round(build_s, 3),
        check=check,
    )


def _compile(trt: Any, builder: Any, network: Any, config: Any, log: BuildLog, path: Path) -> str | None:
    """Compile into a file; the file's sha256, or None if that failed, which the log explains."""
    with path.open("wb") as file:
        writer = stream_writer(trt, file)
        return str(writer.sha256) if compiled_into(builder, network, config, writer) else None


def load_timing_cache(config: Any, path: Path) -> None:
    """Give a TensorRT configuration the kernel timings of earlier builds, or an empty cache if there are none that
    this version on this device takes."""
    saved = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(saved)
    if cache is None or not config.set_timing_cache(cache, False):  # False: refuse what another device measured
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _configure(trt: Any, builder: Any, config: Any, job: _GraphJob) -> None:
    for profile in job.profiles:
        shapes = builder.create_optimization_profile()
        for name, sizes in profile.items():
            shapes.set_shape(name, sizes.min, sizes.opt, sizes.max)
        if config.add_optimization_profile(shapes) < 0:
            raise EngineError(
                f"TensorRT refuses the profile {job.options.profile!r} for {job.path.name}: choose another"
            )
    if job.options.weights == "stripped":
        # The second flag is that of each library's guide: "Refitting an Engine"; "CPU-Only AOT ... Engines".
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        flags = trt.BuilderFlag
        config.set_flag(flags.REFIT_IDENTICAL if job.options.library == "tensorrt" else flags.REFIT)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layer names in the engine inspector
    if job.options.library == "tensorrt-rtx":
        config.num_compute_capabilities = 1
        targets = trt.ComputeCapability.__members__
        config.set_compute_capability(targets.get(f"SM{job.capability}", trt.ComputeCapability.CURRENT), 0)


def _stored_bytes(data: Path) -> int:
    """Size of a graph's weights as the bundle stores them."""
    return data.stat().st_size if data.is_file() else 0
