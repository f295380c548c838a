"""Build hook: compile the native operator into the package, where that can be done.

Without a C compiler, or on another system than x86-64 Linux, the package is built without it. VPRM_NATIVE=0 leaves it
out, VPRM_NATIVE=1 makes a failure an error, and a compiler's warning too.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")


class NativeBuildHook(BuildHookInterface[Any]):
    """hatchling calls `initialize` before it collects files, for wheels and editable installs alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell hatchling that the wheel is for this platform."""
        wanted = os.environ.get("VPRM_NATIVE", "")
        if self.target_name != "wheel" or wanted == "0":
            return
        runtime = Path(self.root) / "runtime"
        source, library = runtime / "native", runtime / "vprm_runtime" / "native" / "libvprm_native.so"
        problem = compiled(source, library, *(["-Werror"] if wanted == "1" else []))
        if problem is not None:
            if wanted == "1":
                raise RuntimeError(f"the native operator was not built: {problem}")
            self.app.display_warning(f"without the native operator: {problem}")
            return
        build_data["artifacts"].append(f"/{library.relative_to(self.root)}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(library)}"


def platform_tag(library: Path) -> str:
    """The manylinux tag of the newest glibc whose symbols `library` asks for (PEP 600).

    The library needs nothing but glibc; `auditwheel show` of the wheel says the same.
    """
    minors = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())]
    return f"manylinux_2_{max(minors)}_x86_64"


def compiled(source: Path, library: Path, *more_flags: str) -> str | None:
    """Compile all of `source` to `library`; what stood in the way, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it is for x86-64 Linux, this is {sys.platform} on {platform.machine()}"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler {compiler[0]!r}"
    files = sorted(str(file) for file in source.glob("*.c"))
    temporary = library.with_suffix(".building")
    command = [*compiler, *FLAGS, *more_flags, "-o", str(temporary), *files, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"{shlex.join(command)} failed:\n{done.stderr}"
    temporary.replace(library)
    return None
