"""`vprm calibrate` and `vprm quality` from arguments to files, documents and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import InputError
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.cli.main import main

MakeImage = Callable[..., Image.Image]


@pytest.fixture(scope="module")
def fp32(random_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "fp32"
    export_bundle(random_checkpoint("llama"), path)
    return path


@pytest.fixture
def rows(make_image: MakeImage, tmp_path: Path) -> Path:
    """A labelled row in VisualProcessBench's format and a row with several responses."""
    make_image().save(tmp_path / "a.png")
    labelled = {"steps": ["It is 3.", "So 9."], "process_correctness": [1, -1]}
    lines = [
        {"image": ["a.png"], "question": "How much?", "answer": "9", "response": labelled, "data_source": "test"},
        {"image": "a.png", "question": "How much?", "responses": [["It is 3."], ["It is 4.", "So 16."]]},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    return file


def test_calibrate_then_export_then_quality(
    fp32: Path, random_checkpoint: Callable[[str], Path], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration, bundle, page = tmp_path / "c.safetensors", tmp_path / "int8", tmp_path / "quality.html"
    arguments = ["calibrate", str(fp32), "--data", str(rows), "-o", str(calibration), "--sensitivity", "int8", "--json"]
    assert main([*arguments, "--max-tiles", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["sites"]) == 12 and set(document["sensitivity"]["int8"]) == set(document["sites"])
    checkpoint = str(random_checkpoint("llama"))
    flags = ["--precision", "int8", "--calibration", str(calibration), "--keep-high", "1"]
    assert main(["export", checkpoint, str(bundle), *flags]) == 0
    quantisation = Bundle.open(bundle).manifest.graphs.llm.quantisation
    assert quantisation is not None and len(quantisation.kept_high) == 1
    compared = ["quality", str(bundle), "--against", checkpoint, "--data", str(rows), "--json", "--html", str(page)]
    capsys.readouterr()
    loose = ["--max-mean-error", "1", "--max-f1-change", "1", "--max-flips", "1"]
    assert main([*compared, *loose]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["rows"] == 2 and report["step_score_error"]["steps"] == 5
    assert report["kept_high"] == list(quantisation.kept_high) and len(report["layer_key_error"]) == 3
    assert {item["name"] for item in report["labels"]} >= {"macro F1 at 0.5", "AUC"}
    assert report["choices"]["count"] == 1
    html = page.read_text("utf-8")
    assert html.count("<rect") == 3 and "within the budget" in html and quantisation.kept_high[0] in html
    assert "://" not in html  # no outside resources
    assert main([*compared, "--max-mean-error", "0"]) == 1
    assert not json.loads(capsys.readouterr().out)["passed"]


def test_a_bundle_against_its_own_emulation(fp32: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quality", str(fp32), "--against", str(fp32), "--data", str(rows), "--emulate", "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0 < report["step_score_error"]["max"] < 1e-5  # two implementations, not one twice


def test_a_quantized_vision_encoder_is_judged_as_such(
    fp32: Path, random_checkpoint: Callable[[str], Path], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "vision"
    export_bundle(random_checkpoint("llama"), bundle, ExportOptions("fp32", vision_precision="int8"))
    vision = Bundle.open(bundle).manifest.graphs.vision
    assert vision.precision == "int8" and vision.quantisation is not None
    assert vision.quantisation.linears == "weights int8_channel, activations int8_token"
    main(["quality", str(bundle), "--against", str(fp32), "--data", str(rows), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["precision"] == "fp32, vision int8"
    assert [item["allowed"] for item in report["budget"]] == [0.01, 0.005, 0.005]
    assert report["step_score_error"]["mean"] > 1e-6  # images are seen through it


def test_another_model_s_calibration_is_refused(fp32: Path, rows: Path, tmp_path: Path) -> None:
    """Before any weight is written, whatever the precision."""
    calibration = tmp_path / "c.safetensors"
    assert main(["calibrate", str(fp32), "--data", str(rows), "-o", str(calibration), "--max-tiles", "1"]) == 0
    for precision in ("int8", "w8", "w4"):
        options = ExportOptions(precision, calibration=calibration)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"another model: .* layers\.0\.qkv have shape \[64\], not \[192\]"):
            export_bundle(checkpoint_dir(), tmp_path / "bundle", options)
    assert not (tmp_path / "bundle").exists()


def test_quality_refuses_what_it_cannot_compare(
    fp32: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_bundle(checkpoint_dir(), tmp_path / "demo")
    against = ["quality", str(fp32), "--data", str(rows), "--against"]
    assert main([*against, str(tmp_path / "demo")]) == 2
    assert "differ in model, not only in precision" in capsys.readouterr().err
    assert main([*against, str(fp32), "--html", str(tmp_path / "missing/page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*against, str(fp32), "--max-flips", "nan"])
    assert "'nan' is not a number from 0 to 1" in capsys.readouterr().err
    (rows.parent / "a.png").write_bytes(b"not an image")
    assert main([*against, str(fp32)]) == 3
    assert "not one of 2 rows could be scored, the first because: " in capsys.readouterr().err
    assert main(["calibrate", str(fp32), "--data", str(rows), "-o", str(tmp_path / "c.safetensors")]) == 3
    assert "not one of 2 rows can be used, the first because: " in capsys.readouterr().err


def test_bad_rows_are_left_out_and_counted(
    fp32: Path, rows: Path, tmp_path: Path, make_image: MakeImage, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing image, a line that is no JSON, a response that is none: the other rows are used."""
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")
    good = {"image": "a.png", "question": "How much?", "responses": [["It is 3."], ["It is 4."]]}
    bad = [
        {**good, "image": "gone.png"},
        {**good, "responses": ["One.", None]},
        {**good, "question": "<image> <image>"},
    ]
    lines = [json.dumps(good), "{broken", *map(json.dumps, bad)]
    rows.write_text(rows.read_text("utf-8") + "\n" + "\n".join(lines), "utf-8")
    flags = ["--data", str(rows), "--image-root", str(tmp_path / "images"), "--device", "cpu", "--json"]
    assert main(["quality", str(fp32), "--against", str(fp32), *flags]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["rows"], report["left_out"]["count"]) == (3, 4)
    assert sorted(row["number"] for row in report["left_out"]["rows"]) == [3, 4, 5, 6]
    assert "4 rows were left out, the first is row" in shown.err
    output = tmp_path / "c.safetensors"
    assert main(["calibrate", str(fp32), *flags, "-o", str(output), "--max-tiles", "1"]) == 0
    shown = capsys.readouterr()
    left_out = json.loads(shown.out)["provenance"]["left_out"]
    assert sorted(row["row"] for row in left_out) == [3, 4, 5, 6]
    assert "4 rows were left out" in shown.err
