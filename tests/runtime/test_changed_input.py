"""What changes while it is scored, or between two runs of one output, ends the run: nothing is mixed."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vprm_runtime import InputError, StepScorer
from vprm_runtime.datasets import open_rows, score_file, score_stream
from vprm_runtime.datasets.unchanged import ChangedInputError


def rows(number: int = 12, word: str = "Then", **more: Any) -> bytes:
    """A jsonl file's content."""
    lines = [{"id": n, "question": f"How many {n}?", "responses": [f"{word} {n}."], **more} for n in range(number)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def noise(path: Path, seed: int, size: tuple[int, int] = (80, 60)) -> None:
    """An image of noise."""
    import numpy as np

    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def documents(path: Path) -> list[dict[str, Any]]:
    """All rows of an output."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def rewrite(path: Path, content: bytes) -> None:
    """Change a file in place."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate(len(content))


def swap(path: Path, content: bytes) -> None:
    """Put another file in its place."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "rewritten": lambda path: rewrite(path, rows(12, "Else")),
    "same length, one letter": lambda path: rewrite(path, rows().replace(b"Then 9", b"Than 9")),
    "cut": lambda path: os.truncate(path, 300),
    "emptied": lambda path: os.truncate(path, 0),
    "cut in the last line": lambda path: os.truncate(path, len(rows()) - 3),
    "shifted by a byte": lambda path: rewrite(path, b" " + rows()),
    "rows in another order": lambda path: rewrite(path, b"".join(reversed(rows().splitlines(keepends=True)))),
    "replaced": lambda path: swap(path, rows(12, "Else")),
    "appended": lambda path: rewrite(path, rows(13)),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_change_while_they_are_scored(change: str, scorer: StepScorer, tmp_path: Path) -> None:
    """The run ends with an error; what it wrote are scores of the rows as they were when it began."""
    path, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(rows())
    score_file(scorer, path, tmp_path / "undisturbed.jsonl")

    def progress(done: int, total: int | None, errors: int) -> None:
        if done == 3:
            CHANGES[change](path)

    with pytest.raises(ChangedInputError, match=r"rows\.jsonl changed while its rows were scored"):
        score_file(scorer, path, output, progress=progress)
    undisturbed = (tmp_path / "undisturbed.jsonl").read_bytes()
    assert undisturbed.startswith(output.read_bytes()) and output.stat().st_size > 0
    path.write_bytes(rows())  # mended: the same run goes on
    score_file(scorer, path, output)
    assert output.read_bytes() == undisturbed


@pytest.mark.parametrize("kind", ["jsonl.gz", "array.json"])
def test_rows_that_were_copied_need_their_file_no_more(kind: str, scorer: StepScorer, tmp_path: Path) -> None:
    """Compressed files and arrays are scored from a copy of what they were when the run began."""
    import gzip

    lines = rows(5)
    content = gzip.compress(lines) if kind.endswith("gz") else json.dumps([*map(json.loads, lines.splitlines())])
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    score_file(scorer, path, tmp_path / "out.jsonl", progress=lambda done, total, errors: path.unlink(missing_ok=True))
    assert len(documents(tmp_path / "out.jsonl")) == 5


def test_parquet_that_changes(scorer: StepScorer, tmp_path: Path) -> None:
    """While it is scored, and between runs in one character, which leaves size and footer as they were."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.Table.from_pylist([json.loads(line) for line in rows(80).splitlines()])
    path, output = tmp_path / "rows.parquet", tmp_path / "out.jsonl"
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "row_group_size": 20}
    parquet.write_table(table, path, **options)
    whole = path.read_bytes()

    def progress(done: int, total: int | None, errors: int) -> None:
        if done == 5:
            rewrite(path, whole)

    with pytest.raises(ChangedInputError, match=r"rows\.parquet changed"):
        score_file(scorer, path, output, progress=progress)
    assert 5 <= len(documents(output)) < 80
    changed = whole.replace(b"How many 70?", b"How many 71?")
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    assert len(changed) == len(whole) and changed[-footer:] == whole[-footer:] and changed != whole
    path.write_bytes(changed)
    with pytest.raises(InputError, match="begun with different input"):
        score_file(scorer, path, output)


def image_rows(folder: Path) -> Path:
    """Six rows about three images."""
    for number in range(3):
        noise(folder / f"{number}.png", number)
    lines = [
        {"id": n, "image": f"{n % 3}.png", "question": f"What {n}?", "responses": ["This.\n\nThat."]} for n in range(6)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def interrupted(scorer: StepScorer, path: Path, output: Path, after: int) -> None:
    """A run that ends after some rows."""

    def progress(done: int, total: int | None, errors: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(scorer, path, output, progress=progress)


def replaced(path: Path) -> None:
    noise(path, 99)


def kept_time(path: Path) -> None:
    """Another image with the file times of the first, and another size."""
    before = path.stat()
    noise(path, 99, (81, 60))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def linked(path: Path) -> None:
    noise(path.with_name("elsewhere.png"), 99)
    path.unlink()
    path.symlink_to("elsewhere.png")


@pytest.mark.parametrize("change", [replaced, kept_time, linked])
def test_an_image_that_is_replaced_between_two_runs(
    change: Callable[[Path], None], scorer: StepScorer, tmp_path: Path
) -> None:
    """Rows that are written were scored with another image: the run does not go on."""
    path, output = image_rows(tmp_path), tmp_path / "out.jsonl"
    interrupted(scorer, path, output, after=2)
    before = output.read_bytes()
    change(tmp_path / "0.png")
    with pytest.raises(ChangedInputError, match=r"0\.png is not the one that rows of this output were scored with"):
        score_file(scorer, path, output)
    assert output.read_bytes() == before
    output.unlink()  # as the message says
    assert score_file(scorer, path, output).errors == 0


def test_an_image_that_no_written_row_has_may_be_replaced(scorer: StepScorer, tmp_path: Path) -> None:
    """Also one that was read ahead; and the file's time alone is no change."""
    path, output = image_rows(tmp_path), tmp_path / "out.jsonl"
    interrupted(scorer, path, output, after=1)
    noise(tmp_path / "1.png", 99)
    noise(tmp_path / "2.png", 98)
    os.utime(tmp_path / "0.png")
    assert score_file(scorer, path, output).errors == 0
    for document in documents(output):
        image = tmp_path / f"{document['id'] % 3}.png"
        alone = scorer.score(image, f"What {document['id']}?", ["This.\n\nThat."]).to_dict(document["id"])
        assert document["results"] == alone["results"]


def test_a_damaged_image_may_be_mended(scorer: StepScorer, tmp_path: Path) -> None:
    path, output = image_rows(tmp_path), tmp_path / "out.jsonl"
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(whole[:2000])
    interrupted(scorer, path, output, after=2)
    assert "damaged" in documents(output)[0]["error"]
    (tmp_path / "0.png").write_bytes(whole)
    score_file(scorer, path, output)
    assert len(documents(output)) >= 6


def test_an_image_that_is_replaced_within_a_run(scorer: StepScorer, tmp_path: Path) -> None:
    path, output = image_rows(tmp_path), tmp_path / "out.jsonl"
    with pytest.raises(ChangedInputError, match=r"0\.png is not the one"):
        score_file(
            scorer, path, output,
            progress=lambda done, total, errors: noise(tmp_path / "0.png", 99) if done == 1 else None,
        )  # fmt: skip
    assert [document["id"] for document in documents(output)] == [0, 1, 2]


def test_a_worker_sees_an_image_that_is_written_anew(scorer: StepScorer, tmp_path: Path) -> None:
    """The same path and question again, another image: scored from the image as it is now."""
    row = {"image": "it.png", "question": "What?", "responses": ["This.\n\nThat."]}
    expected = []
    answers: list[dict[str, Any]] = []

    def lines() -> Iterator[bytes]:
        for seed in (1, 2, 2, 1):
            noise(tmp_path / "it.png", seed)
            expected.append(scorer.score(tmp_path / "it.png", "What?", ["This.\n\nThat."]).to_dict(0)["results"])
            yield json.dumps(row).encode()
        (tmp_path / "it.png").unlink()
        yield json.dumps(row).encode()

    score_stream(scorer, lines(), answers.append, image_root=tmp_path)
    assert [answer.get("results") for answer in answers[:4]] == expected
    assert expected[0] != expected[1]
    assert "no image file" in answers[4]["error"]


@pytest.mark.parametrize(
    "line",
    [b"[]", b'{"image": 5}', b"{", b'{"image": "a", "modified_ns": 1, "hash": "zz"}', b"[" * 5000, b"\xff"],
    ids=lambda line: line[:12].decode("latin-1"),
)
def test_a_damaged_list_of_images(line: bytes, scorer: StepScorer, tmp_path: Path) -> None:
    path, output = image_rows(tmp_path), tmp_path / "out.jsonl"
    interrupted(scorer, path, output, after=2)
    with (tmp_path / "out.jsonl.images").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(InputError, match=r"line 3 of .*\.images is damaged"):
        score_file(scorer, path, output)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX systems")
def test_rows_from_a_pipe_or_device_are_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)
    found: list[str] = []

    def look() -> None:
        for path in (fifo, Path("/dev/zero"), Path("/dev/null")):
            with pytest.raises(InputError) as caught:
                open_rows(path)
            found.append(str(caught.value))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(30)
    assert len(found) == 3 and "is a pipe" in found[0] and "is a device" in found[1] and "is a device" in found[2]


LINES: dict[str, bytes] = {
    "no results": b'{"id": 1}',
    "null results": b'{"id": 1, "results": null}',
    "numbers for results": b'{"id": 1, "results": [1]}',
    "a result without error": b'{"id": 1, "results": [{"score": 1}]}',
    "an error that is a number": b'{"id": 1, "error": 5}',
    "deep": b'{"id": 1, "results": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "an id that is a list": b'{"id": [1], "error": "x"}',
    "an id that is true": b'{"id": true, "error": "x"}',
    "a list": b"[]",
    "a long integer": b'{"id": ' + b"9" * 5000 + b', "error": "x"}',
    "not UTF-8": b'{"id": "\xff", "error": "x"}',
    "NUL": b"\0\0\0",
}


@pytest.mark.parametrize("name", LINES)
def test_damaged_lines_of_an_output(name: str, scorer: StepScorer, tmp_path: Path) -> None:
    """Named with its number; the output stays as it was."""
    path, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(rows(3))
    score_file(scorer, path, output)
    whole = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(whole[0] + LINES[name] + b"\n" + whole[2])
    before = output.read_bytes()
    with pytest.raises(InputError, match=r"line 2 of .*out\.jsonl is damaged: remove the line"):
        score_file(scorer, path, output)
    assert output.read_bytes() == before


@pytest.mark.parametrize("content", [b"[" * 5000, b"5", b"[]", b"\xff", b'{"a": ' + b"9" * 5000 + b"}", b""])
def test_damaged_descriptions_of_a_run(content: bytes, scorer: StepScorer, tmp_path: Path) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(rows(3))
    score_file(scorer, path, output)
    (tmp_path / "out.jsonl.run.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json .*remove it and"):
        score_file(scorer, path, output)


@pytest.mark.skipif(sys.platform == "win32", reason="devices of POSIX systems")
def test_outputs_that_are_no_files(scorer: StepScorer, tmp_path: Path) -> None:
    """Refused by name, and nothing is left beside them."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(3))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    for target, kind in (
        ("/dev/full", "a device"), ("/dev/null", "a device"), (tmp_path / "link", "a device"),
        (tmp_path / "fifo", "a pipe"), (tmp_path, "a directory"), (Path(), "a directory"),
        ("a\0b", "cannot be written"), ("x" * 5000, "cannot be written"),
        (tmp_path / "rows.jsonl" / "x", "cannot be written"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=kind) as caught:
            score_file(scorer, path, target)
        assert len(str(caught.value)) < 500
    assert not list(Path("/dev").glob("*.run.json"))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX systems")
def test_a_full_disk_leaves_whole_lines_and_names_the_file(scorer: StepScorer, tmp_path: Path) -> None:
    import resource

    path, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(rows(12))
    score_file(scorer, path, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limits[1]))
    try:
        with pytest.raises(InputError, match=r"writing .*out\.jsonl failed \(.*\): .* run again, it goes on"):
            score_file(scorer, path, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    written = output.read_bytes()
    assert written.endswith(b"\n") and whole.startswith(written) and len(written) > 100
    score_file(scorer, path, output)
    assert output.read_bytes() == whole
