"""vprm-score, the example service, and the library as others see it: symbols, installation, size."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.cpp.conftest import ENVIRONMENT, ROOT, SOURCE, Runner, RunnerError

from vprm_runtime import Bundle


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


def test_manifests_that_are_damaged_give_errors(build: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """Every value of the manifest replaced in turn: opened or refused, never a crash."""
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
    assert runner.close() == 0


def test_bundles_whose_files_are_damaged_give_errors(build: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """Files cut, changed or gone, and text that is no manifest."""
    runner = Runner(build / "tests/vprm_runner")
    copy = tmp_path / "bundle"
    shutil.copytree(demo_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
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
