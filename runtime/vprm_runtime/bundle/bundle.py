"""A bundle directory: manifest, tokenizer, two graphs with external data. Opening checks the manifest and sizes."""

import hashlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vprm_runtime.bundle.limits import MAX_MANIFEST_BYTES, check_limits
from vprm_runtime.bundle.manifest import MANIFEST_NAME, TOKENIZER_NAME, FileInfo, Manifest, check_text
from vprm_runtime.bundle.names import HUB_ID, model_name
from vprm_runtime.errors import BundleError, quoted
from vprm_runtime.files import open_regular

_HASH_CHUNK_BYTES = 1 << 22
_NOTE = re.compile(r"\..*|report\.(json|html)|(README|LICENSE|NOTICE)(\.(md|txt))?", re.IGNORECASE)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: where it is and what its manifest says."""

    path: Path
    manifest: Manifest

    def __repr__(self) -> str:
        graphs, name = self.manifest.graphs, self.manifest.model.name
        return f"<Bundle {str(self.path)!r}: {name}, vision {graphs.vision.precision}, LLM {graphs.llm.precision}>"

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
                f"{directory} is a file: a bundle is a directory; make one:  vprm optimize CHECKPOINT BUNDLE"
            )
        if not directory.is_dir():
            raise BundleError(_why_no_directory(str(path), directory))
        if not manifest_path.is_file():
            raise BundleError(_why_no_manifest(directory))
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

    def verify(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Check every byte: the manifest against its own hash, every file against the manifest.

        Args:
            progress: gets the bytes done and in all.

        Raises:
            BundleError: files differ from the manifest, or are not listed there; it names them.
        """
        try:
            check_text(_read_manifest(self.path / MANIFEST_NAME))
        except BundleError as error:
            error.add_note(f"(bundle {self.path})")
            raise
        total, before, damaged = sum(info.size_bytes for info in self.manifest.files.values()), 0, []
        for name, info in self.manifest.files.items():
            if file_info(self.path / name, partial(_advance, progress, before, total)) != info:
                damaged.append(name)
            before += info.size_bytes
        if damaged:
            raise BundleError(
                f"sha256 differs from the manifest for {', '.join(damaged)}: the bundle at {self.path} is damaged; "
                "copy or export it again"
            )
        if strange := self._strange_files():
            raise BundleError(
                f"the bundle at {self.path} has files that its manifest does not list: "
                f"{', '.join(map(quoted, strange[:5]))}{' ...' if len(strange) > 5 else ''}; remove them, or copy the "
                "bundle again"
            )

    def _strange_files(self) -> list[str]:
        """Files in the folder itself that no hash stands for, but for reports and notes, which nothing reads."""
        known = {MANIFEST_NAME, *self.manifest.files}
        names = sorted(entry.name for entry in self.path.iterdir() if not entry.is_dir())
        return [name for name in names if name not in known and not _NOTE.fullmatch(name)]


def _advance(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _read_manifest(path: Path) -> bytes:
    with open_regular(path) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} has more than {MAX_MANIFEST_BYTES:,} bytes: it is not a bundle's")
    return text


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is a model's checkpoint and no bundle."""
    return (directory / "config.json").is_file() and not (directory / MANIFEST_NAME).is_file()


def _why_no_directory(text: str, directory: Path) -> str:
    if HUB_ID.fullmatch(text):
        name = text.split("/")[1].split("@")[0]
        return (
            f"no bundle directory at {text}. If it is a model on the hub, one command downloads it and makes its best "
            f"bundle for this machine:  vprm optimize {text} {name}-bundle"
        )
    return f"no bundle directory at {directory}: make one with  vprm optimize CHECKPOINT {shlex.quote(text)}"


def _why_no_manifest(directory: Path) -> str:
    if is_checkpoint(directory):
        name = model_name(directory).split("/")[-1]
        return (
            f"{directory} is a checkpoint, not a bundle: make its best bundle for this machine with  "
            f"vprm optimize {shlex.quote(str(directory))} {shlex.quote(f'{name}-bundle')}"
        )
    return f"{directory} has no {MANIFEST_NAME}: it is not a bundle; make one:  vprm optimize CHECKPOINT BUNDLE"


def file_info(path: Path, progress: Callable[[int], None] = lambda done: None) -> FileInfo:
    """Size and sha256 of a file, read in chunks; `progress` gets the bytes done."""
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            progress(size)
    return FileInfo(size, digest.hexdigest())
