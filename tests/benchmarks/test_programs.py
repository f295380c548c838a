"""Every benchmark is a subcommand of `vprm bench`; none loads what it needs before it runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vprm_benchmarks.speed.programs import PROGRAMS, Program
from vprm_runtime.cli.main import main

HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "ml_dtypes", "onnxruntime", "matplotlib", "jinja2", "safetensors")


def test_help_lists_all_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vprm_runtime.cli.main import build_parser\n"
        "print(build_parser('bench')._subparsers._group_actions[0].choices['bench'].format_help())\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip().endswith("[]")
    for name in (*PROGRAMS, "best-of-n", "session", "engine", "preprocess", "export"):
        assert f"\n    {name}" in shown, name


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_program_can_be_run(program: Program) -> None:
    assert callable(importlib.import_module(program.module).run)


def test_a_random_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "random-checkpoint", str(tmp_path / "made"), "--family", "qwen2", "--seed", "3"]) == 0
    assert "MB" in capsys.readouterr().out
    assert json.loads((tmp_path / "made/config.json").read_text("utf-8"))["llm_config"]["model_type"] == "qwen2"


def test_the_demo_s_figures(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--rows", "6", "--questions", "2", "--variants", "2"]
    assert main(["bench", "demo-quality", str(demo_bundle), *sizes, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert 0 <= document["grey_macro_f1"] <= document["macro_f1"] <= 1
    assert document["best_of_8_at_random"] < 1


def test_a_table_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--rows", "3", "--best-of-n", "0", "--calibration-rows", "2", "--only", "fp16", "w8"]
    assert main(["bench", "table", *sizes]) in (0, 1)
    shown = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in shown.splitlines()[2:]] == ["| fp16", "| w8"]
