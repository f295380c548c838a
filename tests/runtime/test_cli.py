"""The command line as its users meet it: JSON on stdout alone, exit codes, one clear line for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vprm_demo import checkpoint_dir, example
from vprm_runtime import extras
from vprm_runtime.cli.main import main


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def failure(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must fail with exit code 2; returns its one-paragraph message."""
    assert run(*arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.lstrip().startswith("error:")
    return " ".join(err.split())


def test_json_score_has_the_contracts_shape(demo_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    card = example()
    arguments: list[str | Path] = ["score", demo_bundle, "--image", card.image, "--question", card.question, "--json"]
    for response in card.responses:
        arguments += ["--response", response]
    assert run(*arguments) == 0
    document = json.loads(capfd.readouterr().out)
    assert list(document) == ["id", "tiles", "results", "best"]
    assert len(document["results"]) == 2
    for index, result in enumerate(document["results"]):
        assert list(result) == ["index", "score", "steps", "error"]
        assert result["index"] == index
        assert result["error"] is None
        assert [step["text"] for step in result["steps"]] == card.responses[index].split("\n\n")
        mean = sum(step["score"] for step in result["steps"]) / len(result["steps"])
        assert result["score"] == pytest.approx(mean)


def test_the_table_names_the_winner(demo_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    card = example()
    assert run("score", demo_bundle, "--image", card.image, "--question", "Which?", "--response", "One.\n\nTwo.") == 0
    shown = capfd.readouterr().out
    assert "best" in shown
    assert re.search(r"1 │ One\.", shown)


def test_without_arguments_the_demos_example_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VPRM_CACHE", str(tmp_path))
    for _ in range(2):  # the second run finds the bundle in the cache
        assert run("score", "--json") == 0
        assert len(json.loads(capfd.readouterr().out)["results"]) == 2
        assert len(list(tmp_path.iterdir())) == 1
    next(tmp_path.glob("*/llm.onnx")).unlink()
    assert "and the next run makes it again" in failure(capfd, "score")


def test_export_and_inspect(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    system = tmp_path / "system.txt"
    system.write_text("Be strict.", "utf-8")
    assert run("export", checkpoint_dir(), bundle, "--precision", "fp16", "--system-message", f"@{system}") == 0
    assert capfd.readouterr().out == ""
    assert run("inspect", bundle, "--verify", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["verified"] is True
    assert document["manifest"]["prompt"]["system_message"] == "Be strict."
    assert document["manifest"]["graphs"]["llm"] == {
        "file": "llm.onnx", "precision": "fp16", "io_dtype": "float16", "quantisation": None,
    }  # fmt: skip
    assert run("inspect", bundle, "--verify") == 0
    assert "all hashes agree" in capfd.readouterr().out
    (bundle / "engines" / "tensorrt-rtx-sm89").mkdir(parents=True)
    (bundle / "engines" / "tensorrt-rtx-sm89" / "engine.json").write_text("{}", "utf-8")
    assert run("inspect", bundle) == 0
    assert run("inspect", bundle, "--verify") == 1
    assert "cannot be used" in capfd.readouterr().out
    data = bundle / "vision.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 255
    data.write_bytes(content)
    assert "vision.onnx.data" in failure(capfd, "inspect", bundle, "--verify")
    assert "exists already" in failure(capfd, "export", checkpoint_dir(), bundle)
    assert "bundle directory" not in failure(capfd, "inspect", system)
    (bundle / "manifest.json").write_text("{", "utf-8")
    assert str(bundle) in failure(capfd, "inspect", bundle).replace(" ", "")


def test_text_that_looks_like_markup_stays_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle, message = tmp_path / "bundle", "[/b] Be strict. [red]:smile:"
    assert run("export", checkpoint_dir(), bundle, "--precision", "fp16", "--system-message", message) == 0
    assert run("inspect", bundle) == 0
    assert message in capfd.readouterr().out
    assert "a:b:c" in failure(capfd, "inspect", "a:b:c")


def test_mistakes_get_one_clear_line(demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    card = example()
    image = ("--image", str(card.image))
    asked = (*image, "--question", "Which?")
    text = tmp_path / "text.png"
    text.write_text("not an image")
    cases: list[tuple[str, Sequence[str]]] = [
        ("give --question", (*image, "--response", "One.")),
        ("at least one --response", asked),
        ("question is empty", (*image, "--question", " ", "--response", "One.")),
        ("convert it to PNG or JPEG", ("--image", str(text), "--question", "Which?", "--response", "One.")),
        ("check the path", ("--image", "absent.png", "--question", "Which?", "--response", "One.")),
        ("unknown device 'tpu'", (*asked, "--response", "One.", "--device", "tpu")),
        ("--input and --output", ("--input", "rows.jsonl")),
    ]
    for message, arguments in cases:
        assert message in failure(capfd, "score", demo_bundle, *arguments)
    assert "vprm optimize" in failure(capfd, "score", tmp_path, *asked, "--response", "One.")
    assert "[brackets]" in failure(capfd, "inspect", tmp_path / "[brackets]")


def test_a_response_that_cannot_be_scored_is_shown(demo_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    long = "word " * 100_000
    arguments = ("score", demo_bundle, "--question", "Which?", "--response", "One.", "--response", long)
    assert run(*arguments, "--json") == 0
    results = json.loads(capfd.readouterr().out)["results"]
    assert results[0]["error"] is None
    assert results[1]["score"] is None
    assert "the model's limit is" in results[1]["error"]
    assert run(*arguments) == 0
    assert "not scored" in capfd.readouterr().out


def test_usage_errors_exit_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--no-such-option"], ["score", "--max-steps", "0"], ["score", "--imge", "a.png"], ["scor"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "usage: vprm score" in shown.err
    assert "did you mean --image?" in shown.err
    assert main([]) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "score responses" in shown.err


def test_help_and_version_are_words_too(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["help", "score"], ["score", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert "usage: vprm score" in capfd.readouterr().out
    for arguments in (["version"], ["-V"], ["--version"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert capfd.readouterr().out.startswith("vprm ")


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['onnx_ir'] = None; from vprm_runtime.cli.main import main; "
        f"sys.exit(main(['export', {str(checkpoint_dir())!r}, {str(tmp_path / 'bundle')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'vprm[export]'" in " ".join(done.stderr.split())


def test_extras_to_install_bring_the_missing_module_and_what_the_command_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's first run exports it, which the engine's extra does not bring."""
    absent = {"onnxruntime", "onnx-ir"}
    monkeypatch.setattr(extras, "installed_version", lambda name: None if name in absent else "1.0")
    assert extras.extras_to_install("onnxruntime", "cpu") == ["cpu"]
    assert extras.extras_to_install("onnx_ir", "cpu") == ["cpu", "export"]
    absent.remove("onnxruntime")
    assert extras.extras_to_install("onnx_ir", "cpu") == ["export"]


def test_an_interrupted_export_leaves_nothing_that_opens(tmp_path: Path) -> None:
    """Killed in the middle: the bundle's name does not exist."""
    code = (
        "import os, signal\n"
        "from vprm_export.external_data import ExternalData\n"
        "from vprm_export import export_bundle\n"
        "write = ExternalData.write\n"
        "def killed(self, directory, progress):\n"
        "    write(self, directory, progress)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "ExternalData.write = killed\n"
        f"export_bundle({str(checkpoint_dir())!r}, {str(tmp_path / 'bundle')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -9
    assert not (tmp_path / "bundle").exists()
    for left in tmp_path.iterdir():
        shutil.rmtree(left)


def test_texts_come_from_files_and_a_bundle_after_images_is_the_bundle(
    demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    example_image = str(example().image)
    (tmp_path / "q.txt").write_text("Find m \\angle 3.\n", "utf-8")
    (tmp_path / "r.txt").write_text("A right angle is split in two.\n\nSo 51.\n", "utf-8")
    texts = ("--question", f"@{tmp_path / 'q.txt'}", "--response", f"@{tmp_path / 'r.txt'}")
    assert run("score", "--image", example_image, demo_bundle, *texts, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    plain = ("--question", "Find m \\angle 3.", "--response", "A right angle is split in two.\n\nSo 51.")
    assert run("score", demo_bundle, "--image", example_image, *plain, "--json") == 0
    assert found == json.loads(capfd.readouterr().out)
    assert len(found["results"][0]["steps"]) == 2
    assert run("score", demo_bundle, "--question", "Q", "--response", "@no-such-file") == 2
    assert "cannot read the response from no-such-file" in capfd.readouterr().err


def test_rows_of_a_file_do_not_go_to_a_file_named_like_stdout(
    demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"question": "Q", "responses": ["r"]}\n')
    assert run("score", demo_bundle, "--input", "rows.jsonl", "--output", "-") == 2
    assert "for stdout use" in capfd.readouterr().err
    assert not (tmp_path / "-").exists()
