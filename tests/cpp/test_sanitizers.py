"""The library under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cpp.conftest import ENVIRONMENT, QUICK, Runner, built
from tests.cpp.test_scores import RESPONSES, pixels
from tests.cpp.test_units import run_units
from tests.cpp.texts import texts

from vprm_demo import checkpoint_dir
from vprm_export.tokenizer_files import load_tokenizer


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


def test_units_under_address_and_undefined_behaviour_sanitizers(demo_bundle: Path) -> None:
    folder = built("asan", *QUICK, "-DVPRM_SANITIZE=address,undefined")
    run_units(folder, demo_bundle, UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")
