"""`vprm bench preprocess` for real, on a small photo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vprm_runtime.cli.main import main


def test_preprocess_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [
        "--width",
        "640",
        "--height",
        "240",
        "--max-tiles",
        "3",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--roofline-size",
        "256",
    ]
    assert main(["bench", "preprocess", *sizes, "--json", "--plot", str(tmp_path / "plot.png")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["benchmark"] == "preprocess"
    for kind in ("photo_jpeg", "photo_png", "small_png"):
        assert document["accuracy"][kind] == {"tiles": 4, "pixels_unlike_the_reference": 0}
        for who in ("vprm", "pillow", "transformers"):
            assert document["contenders"][f"{who}_{kind}"]["median_s"] > 0
    assert document["goals"]["vprm_photo_jpeg_over_pillow_photo_jpeg"]["bar"] == 1.3
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--plot", "plot.txt"], "plot.txt is not the name of an image: end it in one of .png"),
        (["--max-tiles", "9999"], "max_tiles must be between 1 and 256"),
    ],
)
def test_bad_options_are_refused_before_the_work(
    option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "preprocess", *option]) == 2
    assert message in capsys.readouterr().err
