"""The peers' virtual environment: made whole or not at all, and kept under VPRM_CACHE.

PyTorch is the one of this environment, linked, so that both measure the same one and no other build is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

from vprm_runtime.errors import EngineError, quoted
from vprm_runtime.files import whole_folder
from vprm_runtime.machine import cache_directory

REQUIREMENTS = ("optimum-onnx[onnxruntime]==0.1.0", "optimum-intel[openvino]==1.27.0", "transformers==4.57.6")
_LINKED = ("torch", "torchgen", "functorch")
_PIP = ("install", "--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "60")


def environment_path() -> Path:
    """Where it is or will be: a folder for these requirements, this Python and this PyTorch."""
    key = json.dumps([REQUIREMENTS, sys.version_info[:3], distribution("torch").version])
    return cache_directory() / f"peers-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def python_of(environment: Path) -> Path:
    """The environment's interpreter."""
    return environment / "bin" / "python"


def peer_python(say: Callable[[str], None]) -> Path:
    """The interpreter of the peers' environment, which is made if it is not there yet.

    Raises EngineError if it cannot be made: without a network, or on a full disk. Nothing is left behind then.
    """
    environment = environment_path()
    if python_of(environment).exists():
        return python_of(environment)
    say("making the peers' environment (once, a few minutes and 3 GB)")
    try:
        environment.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(environment) as folder:
            _make(folder)
    except OSError as error:
        if not python_of(environment).exists():  # else another process was faster
            raise EngineError(
                f"the peers' environment cannot be made at {environment} ({error.strerror or error}): make room, or "
                "set VPRM_CACHE to a folder on a larger disk"
            ) from error
    return python_of(environment)


def _make(folder: Path) -> None:
    """Made beside its place: of a virtual environment only the scripts in bin/ name its path, and none is run."""
    _run([sys.executable, "-m", "venv", str(folder)], "python -m venv")
    (site,) = (folder / "lib").glob("python*/site-packages")
    _link_torch(site)
    _run([str(python_of(folder)), "-m", "pip", *_PIP, *REQUIREMENTS], f"pip install {' '.join(REQUIREMENTS)}")


def _link_torch(site: Path) -> None:
    torch = distribution("torch")
    home = Path(str(torch.locate_file("")))
    names = [*_LINKED, *(path.name for path in home.glob("torch-*.dist-info"))]
    for name in names:
        if (home / name).exists():
            (site / name).symlink_to(home / name)


def _run(command: list[str], shown: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output")
        raise EngineError(
            f"the peers' environment cannot be made: {shown} failed ({quoted(why)}). It needs a network once: check "
            "pip's index and proxy, or leave out --peers"
        )
