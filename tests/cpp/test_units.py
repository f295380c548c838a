"""Units of libvprm in C++, the golden vectors among them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cpp.conftest import ENVIRONMENT


def run_units(build: Path, bundle: Path, **environment: str) -> None:
    """Run the unit tests of a build; shows what failed."""
    done = subprocess.run(
        [build / "tests/vprm_units", "--no-colors"],
        env={**ENVIRONMENT, **environment, "VPRM_TEST_BUNDLE": str(bundle)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "0 failed" in done.stdout and "0 skipped" in done.stdout


def test_units(build: Path, demo_bundle: Path) -> None:
    run_units(build, demo_bundle)
