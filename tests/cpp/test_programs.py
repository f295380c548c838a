"""vprm-score, the example service, and the library as others see it: symbols, installation, size."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cpp.conftest import ENVIRONMENT, ROOT, SOURCE, Runner, RunnerError

from vprm_runtime import Bundle

ONE = {"question": "What is 1 + 1?", "responses": ["It is 2.", ["3", ""]]}
SCORED: tuple[dict[str, Any], ...] = (
    {
        "id": "a",
        "image": "0.ppm",
        "question": "How many?",
        "responses": ["One.\n\nTwo.", ["Three.", "Vier \u2028 🙂"], []],
    },
    {
        "image": "0.ppm",
        "question": "How many?",
        "responses": ["One.\n\nTwo.\n\nThree."],
        "max_steps": 2,
        "answer": 1e-7,
    },
    {
        "image": ["0.ppm", "1.ppm"],
        "question": "Which?",
        "responses": ["Left.", "Right."],
        "max_tiles": 2,
        "correct": [True, None],
    },
    {"id": 7, **ONE, "image": None, "answer": {"x": [1.5, 1e22, None], "y": {}}},
    {"id": 8.0, **ONE, "images": [], "max_steps": 1.0, "max_tiles": None},
    {**ONE, "image": {"path": "1.ppm", "bytes": None}},
    {**ONE, "image": "0.ppm", "images": ["0.ppm"]},
    {**ONE, "image": "$ENCODED"},
    {**ONE, "images": [None, {"bytes": "$ENCODED"}, "", "0.ppm"]},
    {**ONE, "responses": ["a", 5, None, ["b", 6], {"c": 1}, True, [["d"]]]},
    {**ONE, "correct": [True, None], "policy_model": "m", "data_source": "s", "answer": ""},
    {**ONE, "process_correctness": [[1], [0, -1]]},
    {**ONE, "correct": [True]},
    {**ONE, "process_correctness": [[1], [0, 1, 1]]},
    {"question": "Q", "responses": [["a", "b"]], "process_correctness": [1, -1], "correct": [0]},
    {**ONE, "process_correctness": [None, [1, 0]], "note": 5, "subject": "arithmetic", "solved": False},
    {"question": "\ud83d\ude42 e\u0301", "responses": ['\u0000\u001f"\\/\u007f']},
    {"question": "Q", "responses": ["word " * 5000, "r"]},
    {"question": "Left <image> right <image>", "image": ["1.ppm", "1.ppm"], "responses": ["same"]},
)
"""Rows that are scored, in part at least: answered with the same bytes."""

REFUSED: tuple[Any, ...] = (
    {"id": 8, "image": "missing.ppm", "question": "Q", "responses": ["r"]},
    {"question": " ", "responses": ["r"]},
    {"question": "Q", "responses": []},
    {"question": "Q", "responses": "r"},
    {"question": 5, "responses": ["r"]},
    {"responses": ["r"]},
    {"id": True, **ONE},
    {"id": [1], **ONE},
    {"id": 1.5, **ONE},
    {"id": 9, **ONE, "max_steps": 0},
    {"id": 9, **ONE, "max_tiles": 257},
    {"id": 9, **ONE, "max_steps": "2"},
    {"id": 9, **ONE, "maxSteps": 2},
    {"id": 9, **ONE, "image": 5},
    {"id": 9, **ONE, "image": "https://example.org/a.ppm"},
    {"id": 9, **ONE, "image": "data:image/x-portable-pixmap;base64,????"},
    {"id": 9, **ONE, "image": "cut.ppm"},
    {"id": 9, **ONE, "image": "."},
    {"id": 9, **ONE, "image": "0.ppm", "images": ["1.ppm"]},
    {"id": 9, **ONE, "screenshot": "0.png"},
    {"id": 9, "question": "<image>", "responses": ["r"]},
    {"id": 9, "question": "word " * 5000, "responses": ["r"]},
    {"question": "\ud83d", "responses": ["r"]},
    [ONE],
    "row",
    None,
    {"question": "Q", "responses": ["r"], "answer": json.loads("[" * 70 + "]" * 70)},
)
"""Rows that both refuse: messages name what a program can read, the same ids and codes."""


def _lines(folder: Path) -> tuple[str, int]:
    """The rows as lines with their images in a folder, and how many are scored."""
    for number, (width, height) in enumerate(((500, 300), (90, 60))):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.ppm")
    content = (folder / "1.ppm").read_bytes()
    (folder / "cut.ppm").write_bytes(content[:-1])
    encoded = f"data:image/x-portable-pixmap;base64,{base64.b64encode(content).decode()}"
    lines = "".join(f"{json.dumps(row)}\n" for row in (*SCORED, *REFUSED)).replace("$ENCODED", encoded)
    return f"{lines}\n \t\n{{\n", len(SCORED)


def test_vprm_score_answers_as_the_command_does(build: Path, demo_bundle: Path, tmp_path: Path) -> None:
    lines, scored = _lines(tmp_path)
    arguments = [str(demo_bundle), "--input", "-", "--image-root", str(tmp_path), "--threads", "1"]
    program = subprocess.run(
        [build / "vprm-score", *arguments], input=lines, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    command = [sys.executable, "-m", "vprm_runtime.cli.main", "score", *arguments, "--device", "cpu"]
    python = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    mine, theirs = program.stdout.split("\n")[:-1], python.stdout.split("\n")[:-1]
    assert mine[:scored] == theirs[:scored]
    assert len(mine) == len(theirs) == scored + len(REFUSED) + 1
    for found, expected in zip(map(json.loads, mine[scored:]), map(json.loads, theirs[scored:]), strict=True):
        assert found.keys() == expected.keys()
        assert [found[key] for key in ("id", "row", "code")] == [expected[key] for key in ("id", "row", "code")]
    assert re.fullmatch(r"ready: ONNX Runtime .*\n", program.stderr)


def test_what_vprm_score_refuses(build: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """Other kinds of rows, which only the Python command reads, and wrong arguments; exit codes are the command's."""
    kinds = [
        {"question": "Q", "response": "r"},
        {"question": "Q", "chosen": "a", "rejected": "b"},
        {**ONE, "picture": "0.ppm"},
        {**ONE, "extra": {"nested": "0.ppm"}},
        {**ONE, "file": "0.ppm"},
    ]
    program = subprocess.run(
        [build / "vprm-score", demo_bundle, "--input", "-"],
        input="".join(f"{json.dumps(row)}\n" for row in kinds),
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert program.returncode == 3
    answers = [json.loads(line) for line in program.stdout.splitlines()]
    assert all("use vprm score" in answer["error"] for answer in answers) and len(answers) == len(kinds)
    for wrong in ([], [str(demo_bundle)], [str(demo_bundle), "--input", "rows.jsonl"], [str(tmp_path), "--input", "-"]):
        refused = subprocess.run([build / "vprm-score", *wrong], env=ENVIRONMENT, capture_output=True, check=False)
        assert (refused.returncode, refused.stdout) == (2, b"")


def test_the_example_service(build: Path, demo_bundle: Path) -> None:
    assert len((SOURCE / "examples/service.cpp").read_text("utf-8").splitlines()) <= 100
    answers = [
        subprocess.run(
            [build / "service", demo_bundle, workers], env=ENVIRONMENT, capture_output=True, text=True, check=True
        ).stdout
        for workers in ("1", "3")
    ]
    assert answers[0] == answers[1]
    scores = [float(line) for line in answers[0].splitlines()]
    assert len(scores) == 8 and all(0 < score < 1 for score in scores)


def test_exported_symbols_are_those_of_the_header(build: Path) -> None:
    shown = subprocess.run(
        ["nm", "-D", "--defined-only", build / "libvprm.so"], capture_output=True, text=True, check=True
    )
    exported = set(re.findall(r" [A-Z] (\w+)@@VPRM_1$", shown.stdout, re.M))
    declared = set(
        re.findall(r"^VPRM_API .*?(\bvprm_\w+)\(", (SOURCE / "include/vprm/vprm.h").read_text("utf-8"), re.M)
    )
    assert exported == declared and len(declared) > 50
    versions = {line.split()[-1] for line in shown.stdout.splitlines()}
    assert all(name.endswith("@@VPRM_1") or name == "VPRM_1" for name in versions), versions
    needed = subprocess.run(["readelf", "-d", build / "libvprm.so"], capture_output=True, text=True, check=True).stdout
    assert "onnxruntime" not in needed and "Library soname: [libvprm.so.1]" in needed


def test_the_library_is_small(build: Path, tmp_path: Path) -> None:
    subprocess.run(["strip", "-o", tmp_path / "libvprm.so", build / "libvprm.so"], check=True)
    assert (tmp_path / "libvprm.so").stat().st_size <= 1 << 20


CONSUMER = """
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES CXX)
find_package(vprm REQUIRED)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE vprm::vprm)
"""
MAIN = """
#include <vprm/vprm.hpp>
#include <cstdio>
int main(int, char **arguments) {
    try {
        vprm::Model model(arguments[1]);
        vprm::Session session = model.session(vprm::Input("What is 1 + 1?"));
        std::printf("%d %s\\n", vprm_abi_version(), session.append("It is 2.") > 0 ? "scored" : "");
    } catch (const vprm::Error &error) {
        std::printf("%s\\n", error.what());
    }
}
"""
C_MAIN = """
#include <vprm/vprm.h>
#include <stdio.h>
int main(void) {
    vprm_model *model = 0;
    vprm_error *error = vprm_model_open("/no/such/bundle", 0, &model);
    printf("%d %s\\n", vprm_error_get_code(error), vprm_error_reason(error));
    vprm_error_free(error);
    error = vprm_model_open(0, 0, &model);
    printf("%d %s\\n", vprm_error_get_code(error), vprm_error_message(error));
    vprm_error_free(error);
    vprm_model_free(0), vprm_result_free(0), vprm_session_free(0), vprm_error_free(0);
    return 0;
}
"""


def test_an_installed_library_is_found(build: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """By CMake's find_package and by pkg-config, from a C++17 and from a C99 program."""
    prefix = tmp_path / "prefix"
    subprocess.run(["cmake", "--install", build, "--prefix", prefix], capture_output=True, check=True)
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    (consumer / "CMakeLists.txt").write_text(CONSUMER)
    (consumer / "main.cpp").write_text(MAIN)
    (consumer / "main.c").write_text(C_MAIN)
    for command in (
        ["cmake", "-S", consumer, "-B", consumer / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}"],
        ["ninja", "-C", consumer / "build"],
    ):
        subprocess.run(command, capture_output=True, check=True)
    shown = subprocess.run(
        [consumer / "build/consumer", demo_bundle], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "1 scored\n"
    (library,) = (path.parent for path in prefix.rglob("libvprm.so"))
    if shutil.which("pkg-config") is None:
        flags = [f"-I{prefix}/include", f"-L{library}", "-lvprm"]
    else:
        asked = ["pkg-config", "--cflags", "--libs", "vprm"]
        found = subprocess.run(
            asked, env={"PKG_CONFIG_PATH": f"{library}/pkgconfig"}, capture_output=True, text=True, check=True
        )
        flags = found.stdout.split()
    subprocess.run(
        ["gcc", "-std=c99", "-pedantic", "-Wall", "-Werror", "main.c", *flags, f"-Wl,-rpath,{library}", "-o", "c_main"],
        cwd=consumer, check=True,
    )  # fmt: skip
    shown = subprocess.run([consumer / "c_main"], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert shown.stdout == "1 bundle\n3 a required argument is NULL\n"
    installed = subprocess.run([prefix / "bin/vprm-score"], capture_output=True, text=True, check=False)
    assert installed.returncode == 2 and installed.stderr.startswith("usage: vprm-score")


@pytest.mark.parametrize(("language", "lines"), [("cpp", 5), ("c", 1)])
def test_the_documented_programs(build: Path, demo_bundle: Path, tmp_path: Path, language: str, lines: int) -> None:
    text = (ROOT / "docs/embedding.md").read_text("utf-8")
    (program,) = [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if "vprm.h" in block]
    (tmp_path / f"main.{language}").write_text(program, "utf-8")
    compiler = {"cpp": ["g++", "-std=c++17"], "c": ["gcc", "-std=c99"]}[language]
    flags = ["-Wall", "-Wextra", "-Werror", f"-I{SOURCE}/include", f"-L{build}", f"-Wl,-rpath,{build}"]
    subprocess.run([*compiler, *flags, f"main.{language}", "-lvprm", "-o", "main"], cwd=tmp_path, check=True)
    shown = subprocess.run(
        [tmp_path / "main", demo_bundle], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert len(shown.stdout.splitlines()) == lines


def test_bundles_that_are_damaged_give_errors(build: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """Every value of the manifest replaced in turn, files cut, changed or gone: opened or refused, never a crash."""
    manifest = json.loads((demo_bundle / "manifest.json").read_text("utf-8"))
    runner = Runner(build / "tests/vprm_runner")
    copy = tmp_path / "bundle"
    shutil.copytree(demo_bundle, copy)

    def places(node: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        return [p for key, child in items for p in (((*path, key)), *places(child, (*path, key)))]

    refused = 0
    for path in places(manifest):
        if path[0] == "provenance" and len(path) > 1:
            continue  # nothing that scoring reads
        for value in (None, -1, 0, 1 << 62, 1e300, "", "../x", [], {}, True):
            document = json.loads(json.dumps(manifest))
            node = document
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = value
            (copy / "manifest.json").write_text(json.dumps(document), "utf-8")
            try:
                Bundle.open(copy)
            except ValueError as error:
                with pytest.raises(RunnerError):
                    runner("prompt", bundle=str(copy), question="Q", tiles=[], steps=["s"])
                refused += 1
                assert len(str(error)) < 1000
    assert refused > 500
    shutil.copy(demo_bundle / "manifest.json", copy)
    assert runner("verify", bundle=str(copy)) is None
    for name in manifest["files"]:
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[:-1])
        with pytest.raises(RunnerError, match="bytes, its manifest says"):
            runner("open", bundle=str(copy))
        (copy / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(RunnerError, match=f"sha256 differs from the manifest for {name}"):
            runner("verify", bundle=str(copy))
        (copy / name).unlink()
        with pytest.raises(RunnerError, match="is missing"):
            runner("open", bundle=str(copy))
        (copy / name).write_bytes(whole)
    text = (copy / "manifest.json").read_text("utf-8")
    (copy / "manifest.json").write_text(text.replace('"max_tiles": 4', '"max_tiles": 5'), "utf-8")
    with pytest.raises(RunnerError, match="was changed after it was written"):
        runner("verify", bundle=str(copy))
    for broken in ("", "{", "[" * 100_000, '{"a": 1, "a": 2}', '{"a": "\\ud83d"}', text[:-40]):
        (copy / "manifest.json").write_text(broken, "utf-8")
        with pytest.raises(RunnerError, match=r"manifest.json"):
            runner("open", bundle=str(copy))
    assert runner.close() == 0
