"""The demo PRM's bundle, exported once into the user's cache directory."""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

from vprm_export.exporter import ExportOptions, export_bundle
from vprm_runtime.bundle import Bundle
from vprm_runtime.errors import BundleError
from vprm_runtime.manifest import SCHEMA_VERSION


def cache_directory() -> Path:
    """$VPRM_CACHE, or ~/.cache/vprm."""
    return Path(os.environ.get("VPRM_CACHE") or Path.home() / ".cache" / "vprm")


def demo_bundle(options: ExportOptions = ExportOptions()) -> Path:  # noqa: B008 - frozen
    """Path of the demo PRM's bundle. Exported when it is not there; its name changes with whatever goes into it."""
    from vprm_demo import checkpoint_dir

    digest = hashlib.sha256(f"{version('vprm')} {SCHEMA_VERSION} {options}".encode())
    sources = [*sorted(checkpoint_dir().iterdir()), *sorted(Path(__file__).parent.rglob("*.py"))]
    for file in sources:
        digest.update(file.name.encode() + file.read_bytes())
    bundle = cache_directory() / f"demo-{options.precision}-{digest.hexdigest()[:16]}"
    try:
        if not bundle.exists():
            export_bundle(checkpoint_dir(), bundle, options)
        Bundle.open(bundle)
    except BundleError as error:
        if "exists already" not in str(error):  # another process was faster: its bundle is the same
            raise
    return bundle
