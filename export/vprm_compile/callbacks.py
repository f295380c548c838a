"""Small classes that TensorRT calls back: its log, its progress, the file that it writes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from vprm_runtime.cli.signals import INTERRUPTION


@dataclass
class BuildLog:
    """What a builder said: `lines` from severity INFO up, `errors` alone."""

    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    logger: Any = None

    @staticmethod
    def create(trt: Any) -> "BuildLog":
        """A log and the logger that fills it."""
        log = BuildLog()
        severity_of = trt.ILogger.Severity

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= severity_of.INFO:
                    log.lines.append(message)
                if severity <= severity_of.ERROR:
                    log.errors.append(message)

        log.logger = Logger()
        return log


def progress_monitor(trt: Any, report: Callable[[str, int, int], None]) -> Any:
    """A monitor that reports (phase, steps done, steps in all)."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(phase_name, step + 1, self._steps.get(phase_name, step + 1))
            return not INTERRUPTION.came  # the library swallows an exception, and builds on

        def phase_finish(self, phase_name: str) -> None:
            total = self._steps.pop(phase_name, 1)
            report(phase_name, total, total)

    return Monitor()


def stream_writer(trt: Any, file: BinaryIO) -> Any:
    """A writer for an engine that goes to `file` as it is made; `sha256` is the hash of what was written so far."""

    base: Any = getattr(trt, "IStreamWriter", object)

    class Writer(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self._digest = hashlib.sha256()

        def write(self, data: bytes) -> int:
            file.write(data)
            self._digest.update(data)
            return len(data)

        @property
        def sha256(self) -> str:
            return self._digest.hexdigest()

    return Writer()


def compiled_into(builder: Any, network: Any, config: Any, writer: Any) -> bool:
    """Compile a network into a writer: as a stream if this TensorRT can, else at once. False if it failed.

    Raises KeyboardInterrupt if Ctrl-C was pressed meanwhile.
    """
    is_compiled = _compiled_into(builder, network, config, writer)
    if INTERRUPTION.came:
        raise KeyboardInterrupt
    return is_compiled


def _compiled_into(builder: Any, network: Any, config: Any, writer: Any) -> bool:
    if hasattr(builder, "build_serialized_network_to_stream"):
        return bool(builder.build_serialized_network_to_stream(network, config, writer))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return False
    writer.write(memoryview(plan))
    return True


def supported_capabilities(trt: Any) -> list[int]:
    """Compute capabilities that this TensorRT-RTX builds for, e.g. [75, 80, 86, 89, 120]."""
    names = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return sorted(int(name[2:]) for name in names)
