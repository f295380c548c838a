"""The rows of a run as files, to do its stages by hand: `python -m vprm_optimize.split REPORT.json FOLDER`.

Makes FOLDER with calibrate.jsonl and judge.jsonl: the rows that calibrated and those that judged. They are read as if
they still were in their files: their images are found, and messages name the lines that the user has.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vprm_optimize.selection import RowSet, Selection
from vprm_runtime.datasets.places import ShardInput, packed_place, places_path
from vprm_runtime.datasets.shards import RowsInput, ShardFile, write_manifest
from vprm_runtime.errors import InputError, VprmError, quoted
from vprm_runtime.files import read_small, whole_folder
from vprm_runtime.strict_json import loads

SIDES = ("calibrate", "judge")


def main() -> int:
    """Write the files that the arguments name. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vprm_optimize.split", description="The rows of a run as files.")
    parser.add_argument("report", type=Path, metavar="REPORT", help="report.json of a bundle")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to make; must not exist")
    args = parser.parse_args()
    try:
        for name, rows in write_split(args.report, args.folder).items():
            sys.stderr.write(f"wrote {args.folder / name}.jsonl: {rows} rows\n")
    except (VprmError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def numbers_of(selection: Selection) -> dict[str, list[str]]:
    """For a report: the numbers of each side's rows, such as "0-3,7", for each of its files."""

    def side(sets: tuple[RowSet, ...]) -> list[str]:
        numbers = {one.file: one.numbers for one in sets}
        return [_ranges(numbers.get(file, ())) for file in selection.files]

    return {"calibrate": side(selection.calibration), "judge": side(selection.judging)}


def write_split(report_file: Path, folder: Path) -> dict[str, int]:
    """Write the rows of a report's both sides into a new folder. Returns how many each has.

    Raises InputError if the report or a file of rows cannot be read or is a shard, or the folder exists.
    """
    try:
        rows: dict[str, Any] = loads(read_small(report_file))["rows"]
        files = [Path(file) for file in rows["files"]]
        root = None if rows["image_root"] is None else Path(rows["image_root"])
        wanted = {side: [_numbers(text) for text in rows["numbers"][side]] for side in SIDES}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{report_file} is not the report.json of a bundle that  vprm optimize  made ({quoted(error)})"
        ) from error
    if folder.exists():
        raise InputError(f"{folder} exists already: remove it or choose another name")
    for file in files:
        if places_path(file).is_file():
            raise InputError(f"{file} is a shard: its rows are in the files that it was cut from; optimize with those")
    with whole_folder(folder) as directory:
        sides = {side: ShardFile(directory / f"{side}.jsonl") for side in SIDES}
        inputs: list[ShardInput] = []
        for at, file in enumerate(files):
            source = RowsInput(file, file.parent if root is None else root)
            count = 0
            for number, (position, line, _) in enumerate(source.rows(0)):
                count += 1
                for side, shard in sides.items():
                    if number in wanted[side][at]:
                        shard.append(line, packed_place(number, position, at))
            inputs.append(source.described(count))
        for shard in sides.values():
            shard.flush()
        write_manifest(directory, inputs, list(sides.values()))
    return {side: shard.rows for side, shard in sides.items()}


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: "0-3,7"."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _numbers(text: str) -> set[int]:
    """What `_ranges` made text of."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


if __name__ == "__main__":
    sys.exit(main())
