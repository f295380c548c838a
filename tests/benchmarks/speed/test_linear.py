"""`vprm bench linear` for real, on small Linears."""

from __future__ import annotations

import json

import pytest

from vprm_benchmarks.speed.physical import physical_tops, read_gb_per_s
from vprm_runtime import native
from vprm_runtime.cli.main import main

pytestmark = pytest.mark.skipif(native.level() is None, reason="the native library was not built")


def run(*arguments: str) -> int:
    return main(["bench", "linear", "--roofline-size", "64", "--rounds", "1", *arguments])


def test_native_linears_stand_beside_onnx_runtimes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--shapes", "256x96", "--tokens", "20", "2", "--precisions", "int8", "w4", "w8", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["benchmark"] == "linear"
    for precision in ("int8", "w8", "w4"):
        errors = [
            document["accuracy"][f"{who}_{precision}_256x96"]["relative_error"] for who in ("native", "onnxruntime")
        ]
        assert errors[0] == pytest.approx(errors[1], rel=0.02)
        assert errors[0] < (0.15 if precision == "w4" else 0.02)
        assert document["ratios"][f"onnxruntime_{precision}_256x96_20_over_native_{precision}_256x96_20"] > 0
    few = document["contenders"]["native_w4_256x96_2"]
    assert few["weight_gb_per_s"] > 0 and "weight_gb_per_s" not in document["contenders"]["native_w4_256x96_20"]


@pytest.mark.parametrize("option", [("--shapes", "4096"), ("--shapes", "0x5"), ("--precisions", "int3")])
def test_what_is_not_there_is_refused(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*option) == 2
    assert option[1] in capsys.readouterr().err


def test_the_hardwares_peaks() -> None:
    """Loops that a compiler had emptied would be absurdly fast: a core does not reach 100 TOP/s without tiles."""
    found = physical_tops(1, 0.01)
    level = native.level()
    assert ("avx512_int8" in found) == bool(level)
    assert ("amx_int8" in found) == (level is native.Level.AMX)
    for name, value in found.items():
        assert 0.001 < value < 100, name
    bandwidth = read_gb_per_s(1, 1)
    assert bandwidth is not None and 0.1 < bandwidth < 10_000
