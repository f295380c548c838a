"""The library under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and libFuzzer's inputs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cpp.conftest import ENVIRONMENT, Runner, built
from tests.cpp.test_scores import RESPONSES, pixels
from tests.cpp.texts import texts

from vprm_demo import checkpoint_dir
from vprm_export.tokenizer_files import load_tokenizer

FUZZ_SECONDS = int(os.environ.get("VPRM_FUZZ_SECONDS", "0"))
QUICK = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_C_FLAGS=-O1", "-DCMAKE_CXX_FLAGS=-O1")


def test_threads_share_a_model(build: Path, demo_bundle: Path) -> None:
    subprocess.run([build / "tests/vprm_threads", demo_bundle], env=ENVIRONMENT, check=True)


def test_threads_under_thread_sanitizer(demo_bundle: Path) -> None:
    """ONNX Runtime is not instrumented, so what only it touches is left out; races of this library are found."""
    folder = built("tsan", *QUICK, "-DVPRM_SANITIZE=thread")
    environment = {**ENVIRONMENT, "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1"}
    done = subprocess.run(
        [folder / "tests/vprm_threads", demo_bundle], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_scoring_under_address_and_undefined_behaviour_sanitizers(
    demo_bundle: Path, as_image: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = built("asan", *QUICK, "-DVPRM_SANITIZE=address,undefined")
    runner = Runner(folder / "tests/vprm_runner", UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")
    runner("open", bundle=str(demo_bundle), prefix_cache_bytes=8 << 20, max_block_tokens=100)
    image = as_image(pixels(300, 200), 3)
    for _ in range(2):
        runner("score", question="How many?", images=[image], responses=RESPONSES)
    runner("session", action="open", name="a", question="How many?", images=[image])
    for number in range(6):
        runner("session", action="append", name="a", step=f"Step {number}.")
        runner("session", action="fork", name="a", **{"as": f"{number}"})
        runner("session", action="rewind", name="a", steps=number % 2)
        runner("session", action="score_next", name=f"{number}", responses=["A", "B " * 120, ""])
    for number in (3, 0, 5):
        runner("session", action="close", name=f"{number}")
    runner("session", action="append", name="a", step="Last.")
    (tmp_path / "tokenizer.json").write_text(load_tokenizer(checkpoint_dir()).json_text, "utf-8")
    runner("encode", tokenizer=str(tmp_path / "tokenizer.json"), texts=list(texts(2000, 5)))
    given = {"file": image["file"], "size": 56, "thumbnail": True}
    for shape in ([1, 1], [200, 1], [1, 200], [300, 200, 3], [57, 113]):
        runner("tiles", shapes=[shape], max_tiles=12, **given)
    assert runner.close() == 0


@pytest.mark.parametrize("target", ["manifest", "tokenizer", "text", "pixels"])
def test_fuzzing_finds_nothing(target: str, demo_bundle: Path, tmp_path: Path) -> None:
    clang = shutil.which("clang-19")
    if clang is None or not FUZZ_SECONDS:
        pytest.skip("needs clang-19 and libclang-rt-19-dev, and VPRM_FUZZ_SECONDS for each target")
    options = (f"-DCMAKE_C_COMPILER={clang}", "-DCMAKE_CXX_COMPILER=clang++-19", "-DVPRM_FUZZERS=ON")
    folder = built("fuzz", *QUICK, *options, "-DVPRM_SANITIZE=address,undefined")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    tokenizer = demo_bundle / "tokenizer.json"
    if target == "text":
        for number, text in enumerate(texts(300)):
            (corpus / str(number)).write_text(text, "utf-8")
    elif target != "pixels":
        shutil.copy(demo_bundle / f"{target}.json", corpus)
    arguments = [f"-max_total_time={FUZZ_SECONDS}", "-max_len=20000", "-timeout=20", "-verbosity=0", str(corpus)]
    environment = {**os.environ, "VPRM_FUZZ_TOKENIZER": str(tokenizer), "UBSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(
        [folder / f"tests/fuzz_{target}", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
