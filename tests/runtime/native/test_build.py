"""The native library as compiled: warnings, and what compilers make of AMX's instructions."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tests.support.native_child import NativeChild, NativeCrashError
from tests.support.native_library import LIBRARY, SOURCE, build_hook, crash

COMPILERS = ("cc", "gcc", "clang", "gcc-13", "gcc-14", "gcc-15", "clang-19", "clang-22")


@pytest.fixture(params=COMPILERS)
def compiled(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library by each compiler that is here, warnings as errors."""
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no compiler {request.param!r}")
    library = tmp_path / "library.so"
    monkeypatch.setenv("CC", request.param)
    assert build_hook().compiled(SOURCE, library, "-Werror") is None
    return library


def test_the_configuration_of_tiles_is_in_memory_whole(compiled: Path) -> None:
    """Compilers have dropped stores of what ldtilecfg reads, so its operand is constant data: all 64 bytes of it."""
    expected = struct.pack("<2B14x16H16B", 1, 0, *[64] * 8, *[0] * 8, *[16] * 8, *[0] * 8)
    configured = [line for line in disassembled(compiled) if "ldtilecfg" in line]
    assert configured
    for line in configured:
        operand = re.search(r"\(%rip\)\s+# ([0-9a-f]+)", line)
        assert operand is not None, f"ldtilecfg reads memory that code has to fill first: {line}"
        assert read_only(compiled, int(operand[1], 16), 64) == expected


def test_tiles_are_products_of_tiles_4_to_7_into_0_to_3(compiled: Path) -> None:
    products = [line for line in disassembled(compiled) if re.search(r"\stdp\w+", line)]
    assert products
    for line in products:
        b, a, sums = (int(tile) for tile in re.findall(r"%tmm(\d)", line))
        assert a in (4, 5) and b in (6, 7) and sums in range(4), line


def test_a_crash_in_native_code_is_named() -> None:
    child = NativeChild()
    with pytest.raises(NativeCrashError, match="crash died in native code: SIGSEGV"):
        child.call(crash)
    assert child.call(len, "alive again") == 11
    child.close()


def test_a_failed_compilation_says_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library.so"
    problem = build_hook().compiled(SOURCE, library, "-DVPRM_LEVEL_OF_NOTHING(=")
    assert problem is not None and "failed" in problem
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build_hook().compiled(SOURCE, library) == "there is no C compiler 'no-such-compiler'"
    assert not library.exists()


@pytest.mark.skipif(not LIBRARY.exists(), reason="the native library was not built")
def test_the_installed_library_is_the_one_that_these_sources_make(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    assert build_hook().compiled(SOURCE, library) is None
    code = [[re.sub(r"^\s*[0-9a-f]+:", "", line) for line in disassembled(path)[3:]] for path in (LIBRARY, library)]
    assert code[0] == code[1], "build it again: pip install --no-deps --no-build-isolation -e ."


def disassembled(library: Path) -> list[str]:
    if shutil.which("objdump") is None:
        pytest.skip("there is no objdump")
    done = subprocess.run(["objdump", "-d", "-w", str(library)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def read_only(library: Path, address: int, size: int) -> bytes:
    """Bytes at a virtual address, which must be in a segment that is mapped without the right to write."""
    data = library.read_bytes()
    (headers,) = struct.unpack_from("<Q", data, 32)
    entry, count = struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, flags, offset, start, _, stored = struct.unpack_from("<IIQQQQ", data, headers + number * entry)
        if kind == 1 and start <= address and address + size <= start + stored:
            assert not flags & 2, "the configuration can be written to"
            return data[offset + address - start : offset + address - start + size]
    raise AssertionError(f"no segment has address {address:#x}")
