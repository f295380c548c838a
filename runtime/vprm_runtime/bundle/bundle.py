"""A bundle directory: manifest, tokenizer, two graphs with external data. Opening checks the manifest and sizes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vprm_runtime.bundle.limits import MAX_MANIFEST_BYTES, check_limits
from vprm_runtime.bundle.manifest import MANIFEST_NAME, TOKENIZER_NAME, FileInfo, Manifest, check_text
from vprm_runtime.errors import BundleError
from vprm_runtime.files import open_regular

_HASH_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: where it is and what its manifest says."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path, verify: bool = False) -> "Bundle":
        """Open a bundle directory.

        Args:
            path: the directory.
            verify: check every file's sha256, too (reads all of it).

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
            manifest = Manifest.from_json(_read_manifest(manifest_path))
            check_limits(manifest)
        except BundleError as error:
            error.add_note(f"(bundle {directory})")
            raise
        bundle = Bundle(directory, manifest)
        bundle._check_sizes()
        if verify:
            bundle.verify()
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
            if not file.is_file():
                raise BundleError(f"bundle file {file} is missing: copy the whole directory, or export it again")
            size = file.stat().st_size
            if size != info.size_bytes:
                raise BundleError(
                    f"bundle file {file} has {size} bytes, its manifest says {info.size_bytes}: "
                    "the copy is incomplete or damaged; copy or export it again"
                )

    def verify(self) -> None:
        """Check every byte: the manifest against its own hash, every file against the manifest.

        Raises BundleError naming the files that differ.
        """
        try:
            check_text(_read_manifest(self.path / MANIFEST_NAME))
        except BundleError as error:
            error.add_note(f"(bundle {self.path})")
            raise
        damaged = [name for name, info in self.manifest.files.items() if file_info(self.path / name) != info]
        if damaged:
            raise BundleError(
                f"sha256 differs from the manifest for {', '.join(damaged)}: the bundle at {self.path} is damaged; "
                "copy or export it again"
            )


def _read_manifest(path: Path) -> bytes:
    with open_regular(path) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} has more than {MAX_MANIFEST_BYTES:,} bytes: it is not a bundle's")
    return text


def file_info(path: Path) -> FileInfo:
    """Size and sha256 of a file, read in chunks."""
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileInfo(size, digest.hexdigest())
