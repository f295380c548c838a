"""A bundle for commands that take a bundle or a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vprm_export.exporter import ExportOptions, export_bundle
from vprm_runtime.bundle.manifest import MANIFEST_NAME


@contextmanager
def as_bundle(path: Path) -> Iterator[Path]:
    """A bundle as it is; a checkpoint exported as fp32 for as long as it is needed."""
    if (path / MANIFEST_NAME).is_file() or not (path / "config.json").is_file():
        yield path
        return
    with TemporaryDirectory(prefix="vprm-bundle-") as directory:
        export_bundle(path, Path(directory) / "bundle", ExportOptions("fp32"))
        yield Path(directory) / "bundle"
