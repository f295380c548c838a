"""What stages took: measured from outside and kept over kills."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vprm_optimize.jobs import Journal
from vprm_optimize.meter import Meter, busy_s, own_memory_bytes

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@needs_proc
def test_memory_is_the_processs_own_without_mapped_files(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 << 20))
    gc.collect()  # what other tests left must not go between the two
    with Meter() as mapped:
        values = np.memmap(file, np.uint8, "r")
        assert not values.any()
    with Meter() as own:
        ones = np.ones(256 << 17, np.float64)
        time.sleep(0.3)  # it looks ten times a second
        assert ones.sum() == 256 << 17
    assert mapped.usage.memory_bytes is not None and own.usage.memory_bytes is not None
    assert own.usage.memory_bytes - mapped.usage.memory_bytes > 200 << 20
    before = own_memory_bytes(os.getpid())
    assert before is not None and mapped.usage.memory_bytes - before < 48 << 20


@needs_proc
def test_a_childs_processor_time_and_memory_count() -> None:
    code = "import time; kept = b'1' * (200 << 20); end = time.process_time() + 0.5\nwhile time.process_time() < end: 1"
    with Meter() as meter, subprocess.Popen([sys.executable, "-c", code]) as process:
        meter.watched = process.pid
    assert meter.usage.cpu_s >= 0.5
    assert meter.usage.memory_bytes is not None and meter.usage.memory_bytes > 190 << 20
    assert meter.usage.others_cpu_s is not None and busy_s() is not None


def test_a_stage_that_was_interrupted_has_the_figures_of_its_last_time(tmp_path: Path) -> None:
    file = tmp_path / "stages.jsonl"
    with pytest.raises(KeyboardInterrupt), Journal(file).stage("export", 1.0):
        raise KeyboardInterrupt
    with file.open("a") as lines:
        lines.write('{"name": "exp')  # a kill in the middle of a line
    assert Journal(file).stages() == []
    with Journal(file).stage("export", 2.0):
        pass
    with Journal(file).stage("judge", None):
        pass
    found = {one["name"]: one for one in Journal(file).stages()}
    assert list(found) == ["export", "judge"]
    assert found["export"]["began"] == 2 and found["judge"]["began"] == 1
    assert found["export"]["estimated_s"] == 2.0 and found["judge"]["estimated_s"] is None
    assert all(one["seconds"] >= 0 and one["cpu_s"] >= 0 for one in found.values())
