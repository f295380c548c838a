"""Servers in processes of their own, and what the system says of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vprm_runtime.errors import ServerError

_START_S = 120.0


@dataclass(frozen=True)
class ServerProcess:
    """A server that answers on `port`."""

    process: subprocess.Popen[bytes]
    port: int

    def rss_bytes(self) -> int:
        """Resident memory."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def metrics(self) -> dict[str, float]:
        """Samples without labels of /metrics, by name."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = [line.split() for line in lines if not line.startswith("#") and "{" not in line]
        return {name: float(value) for name, value in pairs}


@contextmanager
def vprm_server(bundle: Path, *options: str, threads: int | None = None) -> Iterator[ServerProcess]:
    """`vprm serve` on the CPU."""
    port = free_port()
    more = [] if threads is None else ["--threads", str(threads)]
    command = [sys.executable, "-m", "vprm", "serve", str(bundle), "--port", str(port), "--device", "cpu"]
    with _started([*command, *more, *options], port) as server:
        yield server


@contextmanager
def baseline_server(bundle: Path) -> Iterator[ServerProcess]:
    """The server with one lock."""
    port = free_port()
    with _started([sys.executable, "-m", "vprm_benchmarks.serving.baseline", str(bundle), str(port)], port) as server:
        yield server


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _started(command: Sequence[str], port: int) -> Iterator[ServerProcess]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_ready(process, port)
        yield ServerProcess(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ServerError(f"the server ended with code {process.returncode} while it started: run it by hand")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise ServerError(f"the server was not ready after {_START_S:.0f} s")
