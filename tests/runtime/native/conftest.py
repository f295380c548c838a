"""What tests of the native library share: a process that calls it, and the library at every level."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.native_child import NativeChild
from tests.support.native_library import LIBRARY, SOURCE, Compiled, LibraryAt, build_hook

from vprm_runtime.native import Level, level


@pytest.fixture(scope="module")
def child() -> Iterator[NativeChild]:
    """A process in which the library may crash."""
    started = NativeChild()
    yield started
    started.close()


@pytest.fixture(scope="session")
def library_at(tmp_path_factory: pytest.TempPathFactory) -> LibraryAt:
    """The library and its level, by name: a level of this CPU, one "without BF16", or AMX's tiles in plain C.

    Skips the test if the CPU has not that level.
    """
    built = {"": LIBRARY}

    def compiled(flag: str) -> Path:
        if flag not in built:
            built[flag] = tmp_path_factory.mktemp("built") / "libvprm_native.so"
            problem = build_hook().compiled(SOURCE, built[flag], "-Werror", flag)
            assert problem is None, problem
        return built[flag]

    def get(name: str) -> Compiled:
        if name == "emulated AMX":
            if not level():
                pytest.skip("around emulated tiles there is AVX-512, which this CPU has not")
            return compiled("-DVPRM_EMULATE_AMX"), Level.AMX
        wanted = Level[name.split()[0]]
        if (level() or Level.PLAIN) < wanted:
            pytest.skip(f"this CPU has no {wanted.name}")
        return compiled("-DVPRM_WITHOUT_BF16" if name.endswith("without BF16") else ""), wanted

    return get
