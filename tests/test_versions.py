"""Tests that decide numbers, under the oldest and the newest supported version of the libraries they rest on.

Each runs in a throwaway environment (`pip install --target` in front of the installed packages), so it needs a package
index: it is skipped unless VPRM_VERSION_TESTS=1. Continuous integration sets that; `make versions` does the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    os.environ.get("VPRM_VERSION_TESTS") != "1", reason="needs a package index: run with  make versions"
)
TILES = ("tests/runtime/test_tiling.py",)
REFERENCE = ("tests/benchmarks/test_reference.py", "tests/export/test_config_keys.py")
NEWEST = {"transformers": "5.24.*", "pillow": ""}  # the newest that were tried; "": whatever is published


def oldest(package: str) -> str:
    """The lower bound that pyproject.toml has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [entry for extra in project["optional-dependencies"].values() for entry in extra]
    bounds = [match[1] for entry in (*project["dependencies"], *extras) if (match := _bound(package, entry))]
    assert bounds, f"pyproject.toml has no lower bound for {package}"
    return bounds[0]


def _bound(package: str, entry: str) -> re.Match[str] | None:
    return re.match(rf"{package}>=([\d.]+)", entry)


def _install(wanted: str, target: Path) -> None:
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), "--upgrade", wanted]
    subprocess.run([os.environ.get("VPRM_PIP_PYTHON", sys.executable), *install], check=True)


def _run(tests: tuple[str, ...], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.parametrize("wanted", ["onnxruntime==1.28.*", "onnxruntime"])
def test_libvprm_under_another_onnx_runtime(wanted: str, tmp_path: Path) -> None:
    """The oldest that was tried and the newest; only the C++ library loads it."""
    _install(wanted, tmp_path)
    (library,) = tmp_path.glob("onnxruntime/capi/libonnxruntime.so.*")
    _run(("tests/cpp/test_ort_versions.py",), {**os.environ, "VPRM_ORT_LIBRARIES": str(library)})


@pytest.mark.parametrize("age", ["oldest", "newest"])
@pytest.mark.parametrize(("package", "tests"), [("pillow", TILES), ("transformers", REFERENCE)])
def test_under_a_version(package: str, tests: tuple[str, ...], age: str, tmp_path: Path) -> None:
    version = f"{oldest(package)}.*" if age == "oldest" else NEWEST[package]
    wanted = f"{package}=={version}" if version else package
    _install(wanted, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "VPRM_VERSION_TESTS": "0"}
    where = subprocess.run(
        [sys.executable, "-c", f"import {'PIL' if package == 'pillow' else package} as p; print(p.__file__)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(tmp_path) in where.stdout, "the version under test is not the one that is imported"
    _run(tests, environment)
