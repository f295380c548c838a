"""libvprm, built once for all tests, and a small program that drives it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "runtime/cpp"
BUILD = ROOT / "build/cpp"
ORT_LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
ENVIRONMENT = {**os.environ, "VPRM_ORT_LIBRARY": str(ORT_LIBRARY)}
HEADERS = {"nlohmann/json.hpp": "nlohmann-json3-dev", "doctest/doctest.h": "doctest-dev"}
QUICK = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_C_FLAGS=-O1", "-DCMAKE_CXX_FLAGS=-O1")
"""Options of a build that is fast to make: for sanitizers."""


def missing_packages() -> list[str]:
    """Debian packages that building the library and its tests needs and this machine has not."""
    tools = {"cmake": "cmake", "ninja": "ninja-build", "g++": "g++"}
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
    return [*missing, *(package for name, package in HEADERS.items() if not Path("/usr/include", name).is_file())]


def built(name: str, *options: str) -> Path:
    """A build folder of the library and its test programs, made or brought up to date."""
    if missing := missing_packages():
        pytest.skip(f"libvprm is not tested: install {' '.join(missing)}")
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:  # test processes run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "-S", str(SOURCE), "-B", str(folder), "-G", "Ninja", "-DVPRM_TESTS=ON", *options],
            ["ninja", "-C", str(folder)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning:" not in done.stdout, done.stdout
    return folder


@pytest.fixture(scope="session")
def build() -> Path:
    """The release build."""
    return built("release")


class RunnerError(Exception):
    """The runner's answer was an error: `code` and `reason` are libvprm's."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["error"])
        self.code, self.reason = answer["code"], answer["reason"]


class Runner:
    """The test program: requests and answers over pipes."""

    def __init__(self, program: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **environment},
        )

    def __call__(self, op: str, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the runner ended with {self._process.wait()} on {op}"
        answer = json.loads(line)
        if "error" in answer:
            raise RunnerError(answer)
        return answer["value"]

    def close(self) -> int:
        """End it; its exit code."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()


@pytest.fixture
def runner(build: Path) -> Iterator[Runner]:
    """A runner of the release build, with nothing opened."""
    made = Runner(build / "tests/vprm_runner")
    yield made
    assert made.close() == 0


@pytest.fixture
def as_image(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes pixels uint8 [H, W, 3] to a file, `padding` bytes after each row; the runner's description of it."""
    count = iter(range(10**6))

    def write(pixels: NDArray[np.uint8], padding: int = 0) -> dict[str, Any]:
        height, width, _ = pixels.shape
        rows = np.full((height, width * 3 + padding), 99, np.uint8)
        rows[:, : width * 3] = pixels.reshape(height, width * 3)
        path = tmp_path / f"{next(count)}.rgb"
        rows.tofile(path)
        return {"file": str(path), "width": width, "height": height, "stride": width * 3 + padding}

    return write
