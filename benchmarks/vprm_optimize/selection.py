"""Which rows calibrate and which judge. Rows are split by question: no question is on both sides."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vprm_runtime.datasets import BadRow, RowSource, open_rows
from vprm_runtime.datasets.row import Row
from vprm_runtime.datasets.row_images import RowImage
from vprm_runtime.errors import InputError
from vprm_runtime.files import open_regular
from vprm_runtime.images.load import NamedImage

MAX_CALIBRATION_ROWS = 32
MAX_SCANNED_ROWS = 5000
DEMO_HELD_OUT_ROWS = 150
DEMO_BEST_OF_N_ROWS = 200


@dataclass(frozen=True)
class RowSet:
    """Rows of one file (an absolute path), by their numbers in it (from 0), in scoring order."""

    file: str
    image_root: str | None
    numbers: tuple[int, ...]

    def rows(self) -> Iterator[Row | BadRow]:
        """The rows."""
        wanted = set(self.numbers)
        return (row for row in self.opened() if row.number in wanted)

    def opened(self) -> RowSource:
        """The whole file."""
        return open_rows(Path(self.file), None if self.image_root is None else Path(self.image_root))


@dataclass(frozen=True)
class Selection:
    """Rows on both sides, of `files` (absolute). `is_demo`: the demo PRM's rows stand in for the user's."""

    files: tuple[str, ...]
    calibration: tuple[RowSet, ...]
    judging: tuple[RowSet, ...]
    fingerprint: str
    is_demo: bool

    @staticmethod
    def from_dict(document: dict[str, Any]) -> "Selection":
        """As `to_dict` made it."""

        def sets(name: str) -> tuple[RowSet, ...]:
            return tuple(RowSet(one["file"], one["image_root"], tuple(one["numbers"])) for one in document[name])

        files = tuple(document["files"])
        return Selection(files, sets("calibration"), sets("judging"), document["fingerprint"], document["is_demo"])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def moved(self, data: Sequence[Path], image_root: Path | None) -> "Selection":
        """The same rows of the same files, where they are now: an interrupted run goes on from another folder.

        Raises LookupError or ValueError if these are not as many files, or others.
        """
        files = tuple(files_of(data))
        names = dict(zip(self.files, files, strict=True))
        root = None if image_root is None or self.is_demo else os.path.abspath(image_root)

        def moved(sets: tuple[RowSet, ...]) -> tuple[RowSet, ...]:
            return tuple(RowSet(names[one.file], root, one.numbers) for one in sets)

        return replace(self, files=files, calibration=moved(self.calibration), judging=moved(self.judging))


class ChosenRows:
    """Rows of several sets as one source."""

    def __init__(self, sets: Sequence[RowSet]) -> None:
        self._sets = sets
        self.total = sum(len(one.numbers) for one in sets)
        numbers = hashlib.sha256(repr([one.numbers for one in sets]).encode()).hexdigest()
        self.fingerprint = ",".join([*(one.opened().fingerprint for one in sets), f"rows:{numbers}"])

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows, file by file."""
        for one in self._sets:
            yield from one.rows()


def files_of(data: Sequence[Path]) -> list[str]:
    """The files that rows are selected from, absolute: the user's, or without any the demo's."""
    return [os.path.abspath(file) for file in (data or _demo_files())]


def _demo_files() -> tuple[Path, ...]:
    """Rows in the looks of training to calibrate on; held-out ones and best-of-8 questions to judge."""
    from vprm_demo import best_of_n_rows, calibration_rows, held_out_rows

    return (
        calibration_rows(MAX_CALIBRATION_ROWS),
        held_out_rows(DEMO_HELD_OUT_ROWS),
        best_of_n_rows(DEMO_BEST_OF_N_ROWS),
    )


def demo_selection() -> Selection:
    """The demo's rows."""
    files = tuple(files_of(()))
    calibration, *judging = map(_whole, files)
    fingerprint = ChosenRows((calibration, *judging)).fingerprint
    return Selection(files, (calibration,), tuple(judging), fingerprint, True)


def _whole(file: str) -> RowSet:
    return RowSet(file, None, tuple(range(open_rows(Path(file)).total)))


def split_by_question(files: Sequence[Path], image_root: Path | None) -> Selection:
    """Split rows by question and images: up to 32 rows, and at most a quarter, calibrate; the others judge.

    Which side a question goes to depends on a hash of its text and images, not on its place. Rows that cannot be read
    are left out here; scoring lists them.

    Raises:
        InputError: a file cannot be read, or its rows have fewer than two questions.
    """
    places: dict[bytes, list[tuple[int, int]]] = {}  # of each question: (file, number)
    sources = [open_rows(file, image_root) for file in files]
    for index, source in enumerate(sources):
        for row in islice(source, MAX_SCANNED_ROWS):
            if isinstance(row, Row):
                places.setdefault(_question_key(row), []).append((index, row.number))
    if len(places) < 2:
        raise InputError(
            f"the rows have {len(places)} question{'s' if len(places) != 1 else ''} that can be read: calibrating and "
            "judging need different ones; give rows of at least two questions with --data"
        )
    questions = [places[key] for key in sorted(places)]
    limit = min(MAX_CALIBRATION_ROWS, max(1, sum(map(len, questions)) // 4))
    calibrating: list[tuple[int, int]] = []
    used = 0
    while len(calibrating) < limit and used < len(questions) - 1:
        calibrating += questions[used][: limit - len(calibrating)]
        used += 1
    judging = [place for question in questions[used:] for place in question]

    def sets(chosen: list[tuple[int, int]]) -> tuple[RowSet, ...]:
        found = []
        root = None if image_root is None else os.path.abspath(image_root)
        for index, file in enumerate(files_of(files)):
            numbers = tuple(sorted(number for place, number in chosen if place == index))
            if numbers:
                found.append(RowSet(file, root, numbers))
        return tuple(found)

    fingerprint = ",".join(source.fingerprint for source in sources)
    return Selection(tuple(files_of(files)), sets(calibrating), sets(judging), fingerprint, False)


def limited(selection: Selection, max_rows: int) -> Selection:
    """The same with at most `max_rows` rows to judge on, taken from each file in proportion, at even distances."""
    total = sum(len(one.numbers) for one in selection.judging)
    if total <= max_rows:
        return selection
    kept = []
    for one in selection.judging:
        count = max(1, round(len(one.numbers) * max_rows / total))
        step = len(one.numbers) / count
        kept.append(RowSet(one.file, one.image_root, tuple(one.numbers[int(i * step)] for i in range(count))))
    return replace(selection, judging=tuple(kept))


def _question_key(row: Row) -> bytes:
    """Of the question's text and the images' bytes: copies of an image under other names are the same image."""
    digest = hashlib.blake2b(row.question.encode(), digest_size=16)
    for image in row.images:
        try:
            content = image_bytes(image)
        except OSError:
            content = str(image).encode()  # scoring will say what is wrong with it
        digest.update(hashlib.sha256(content).digest())
    return digest.digest()


def image_bytes(image: RowImage) -> bytes:
    """The content of a row's image file. Raises OSError if it cannot be read."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, NamedImage):
        return image.content
    with open_regular(image) as file:
        return file.read()
