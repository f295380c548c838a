"""`vprm bench export` for real, on a small checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vprm_runtime.cli.main import main


def test_export_is_timed_and_weighed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--model", "tiny", "--layers", "2", "--vision-layers", "1", "--precisions", "int8", "--rounds", "1"]
    assert (
        main(
            [
                "bench",
                "export",
                *sizes,
                "--threads",
                "1",
                "--roofline-size",
                "256",
                "--directory",
                str(tmp_path),
                "--json",
            ]
        )
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    contenders = document["contenders"]
    assert set(contenders) == {"copy", "export_int8", "copy_half_depth", "export_int8_half_depth"}
    assert contenders["export_int8"]["layers"] == 2
    assert contenders["export_int8_half_depth"]["layers"] == 1
    assert contenders["copy"]["checkpoint_bytes"] > contenders["copy_half_depth"]["checkpoint_bytes"]
    assert contenders["export_int8"]["written_bytes"] > contenders["export_int8_half_depth"]["written_bytes"]
    assert 10e6 < contenders["export_int8"]["peak_rss_bytes"] < 1e9
    assert document["goals"]["export_int8_peak_rss_gb"]["met"] == "stretch"
    assert document["ratios"]["export_int8_over_copy"] > 0
    assert not list(tmp_path.iterdir())
