"""A bundle directory: manifest, tokenizer, two graphs with external data. Opening checks the manifest and sizes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vprm_runtime.bundle.manifest import MANIFEST_NAME, TOKENIZER_NAME, FileInfo, Manifest
from vprm_runtime.errors import BundleError

_HASH_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: where it is and what its manifest says."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path) -> "Bundle":
        """Open a bundle directory.

        Args:
            path: the directory.

        Returns:
            The bundle, its manifest read and the sizes of its files checked.

        Raises:
            BundleError: it is no bundle, of another version, or a file is missing or of another size.
        """
        directory = Path(path)
        manifest_path = directory / MANIFEST_NAME
        if directory.is_file():
            raise BundleError(
                f"{directory} is a file: a bundle is a directory; make one:  vprm export CHECKPOINT BUNDLE"
            )
        if not directory.is_dir():
            raise BundleError(f"no bundle directory at {directory}: make one with  vprm export CHECKPOINT {directory}")
        if not manifest_path.is_file():
            hint = (
                "a checkpoint; export it first:" if (directory / "config.json").is_file() else "not a bundle; make one:"
            )
            raise BundleError(f"{directory} has no {MANIFEST_NAME}: it is {hint}  vprm export CHECKPOINT BUNDLE")
        try:
            text = manifest_path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{manifest_path} is not UTF-8 text ({error}): export the bundle again") from error
        try:
            bundle = Bundle(directory, Manifest.from_json(text))
        except BundleError as error:
            error.add_note(f"(bundle {directory})")
            raise
        bundle._check_sizes()
        return bundle

    @property
    def tokenizer_path(self) -> Path:
        """The `tokenizers` library's file."""
        return self.path / TOKENIZER_NAME

    @property
    def vision_path(self) -> Path:
        """The vision graph."""
        return self.path / self.manifest.graphs.vision.file

    @property
    def llm_path(self) -> Path:
        """The LLM graph."""
        return self.path / self.manifest.graphs.llm.file

    def _check_sizes(self) -> None:
        for name, info in self.manifest.files.items():
            file = self.path / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise BundleError(f"{MANIFEST_NAME} names a file outside the bundle: {name!r}; do not use this bundle")
            if not file.is_file():
                raise BundleError(f"bundle file {file} is missing: copy the whole directory, or export it again")
            size = file.stat().st_size
            if size != info.size_bytes:
                raise BundleError(
                    f"bundle file {file} has {size} bytes, its manifest says {info.size_bytes}: "
                    "the copy is incomplete or damaged; copy or export it again"
                )

    def verify(self) -> None:
        """Check every file's sha256.

        Raises:
            BundleError: files differ from the manifest; it names them.
        """
        damaged = [name for name, info in self.manifest.files.items() if file_info(self.path / name) != info]
        if damaged:
            raise BundleError(
                f"sha256 differs from the manifest for {', '.join(damaged)}: the bundle at {self.path} is damaged; "
                "copy or export it again"
            )


def file_info(path: Path) -> FileInfo:
    """Size and sha256 of a file, read in chunks."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileInfo(size, digest.hexdigest())
