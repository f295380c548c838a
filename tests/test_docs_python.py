"""Every Python block in the documentation is run as it stands, or compiled if it needs a library or hours.

What a run changes: paths are those of a folder with a bundle and an image in it, the server's address is a real one's,
and numbers of generated rows are small.
"""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.serving.conftest import running

import vprm
from vprm_demo import example
from vprm_serving.service import Service
from vprm_serving.settings import Settings

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
BLOCKS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(BLOCK.findall(page.read_text("utf-8")))
]
NOT_RUN = {  # words of the block: why it is compiled only, with the imports from this package looked up
    "from trl import": "trains a model from the hub",
    "from swift.rewards import": "needs ms-swift",
    "import ray": "needs Ray; tests/ray runs the like",
}
SMALLER = {"held_out_rows(1000)": "held_out_rows(2)", "best_of_n_rows(200)": "best_of_n_rows(2)", "rows(64)": "rows(2)"}
OWN_IMPORT = re.compile(r"^(?:from (vprm\S*) import (\w+)|import (vprm\S*))$", re.MULTILINE)


@pytest.fixture(scope="module")
def address(demo_bundle: Path) -> Any:
    pytest.importorskip("httpx", reason="a client needs httpx")
    with running(Service(Settings(bundle=demo_bundle))) as server:
        yield server.url


@pytest.fixture
def folder(demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader who pastes a block would be."""
    (tmp_path / "bundle").symlink_to(demo_bundle)
    for name in ("figure.png", "b.png"):
        shutil.copy(example().image, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VPRM_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_runs_as_pasted(code: str, folder: Path, request: pytest.FixtureRequest) -> None:
    compile(code, "documentation", "exec")
    if any(words in code for words in NOT_RUN):
        for module, name, plain in OWN_IMPORT.findall(code):
            assert plain or hasattr(importlib.import_module(module), name)
        return
    if "http://127.0.0.1:8000" in code:
        code = code.replace("http://127.0.0.1:8000", request.getfixturevalue("address"))
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    names: dict[str, Any] = {"model": SimpleNamespace()}
    exec(compile(code, "documentation", "exec"), names)
    for value in names.values():
        if isinstance(value, vprm.Client | vprm.StepScorer):
            value.close()


def test_every_reason_is_of_a_block() -> None:
    codes = [str(parameter.values[0]) for parameter in BLOCKS]
    assert all(any(words in code for code in codes) for words in NOT_RUN)
    assert len(codes) >= 12
