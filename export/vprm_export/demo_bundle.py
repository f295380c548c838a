"""The demo PRM's bundle, exported once into the user's cache directory."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import SCHEMA_VERSION
from vprm_runtime.errors import BundleError
from vprm_runtime.machine import cache_directory

if TYPE_CHECKING:
    from vprm_export.exporter import ExportOptions


def demo_bundle(options: "ExportOptions | None" = None) -> Path:
    """Path of the demo PRM's bundle. Exported when it is not there; its name changes with whatever goes into it."""
    from vprm_demo import checkpoint_dir
    from vprm_export.exporter import ExportOptions, export_bundle

    options = options or ExportOptions()
    digest = hashlib.sha256(f"{version('vprm')} {SCHEMA_VERSION} {options}".encode())
    sources = [*sorted(checkpoint_dir().iterdir()), *sorted(Path(__file__).parent.rglob("*.py"))]
    for file in sources:
        digest.update(file.name.encode() + file.read_bytes())
    bundle = cache_directory() / f"demo-{options.precision}-{digest.hexdigest()[:16]}"
    if not bundle.exists():
        try:
            export_bundle(checkpoint_dir(), bundle, options)
        except BundleError:
            if not bundle.exists():  # else another process was faster: its bundle is the same
                raise
    try:
        Bundle.open(bundle)
    except BundleError as error:
        error.add_note(f"This is the demo's: remove {bundle}, and the next run makes it again.")
        raise
    return bundle
