"""Files of rows as people have them: encodings, compression, JSON arrays, parquet; and those that are refused."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.rows import png, read_rows, write_rows

from vprm_runtime import InputError, MissingExtraError, StepScorer
from vprm_runtime.datasets import open_rows, score_file


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "cannot be read"),
        ("empty.jsonl", b"\n\n", "has no rows"),
        ("array.jsonl", b'[{"question": "Q"}', "begins as a JSON array but is not whole"),
        ("empty.json", b"[]", "an empty JSON array"),
        ("table.csv", b"question,response\nQ,r\n", "its first line is CSV"),
        ("table.tsv", b"question\tresponse\n", "its first line is tab-separated"),
        ("nothing.jsonl", b"", "has no rows"),
        ("rows.zip", b"PK\x03\x04...", "is a zip archive"),
        ("rows.arrow", b"ARROW1\x00\x00", "is an Arrow IPC file"),
        ("rows.bz2", b"BZh91AY", "is bzip2-compressed"),
        ("half.jsonl.gz", gzip.compress(b'{"question": "Q"}' * 99, mtime=0)[:-30], "cannot be decompressed"),
        ("half.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "cannot be decompressed"),
        ("half.utf16", "{}".encode("utf-16") + b"\x00", "damaged UTF-16"),
        ("image.jsonl", b"\x89PNG\r\n\x1a\n", "neither jsonl nor parquet"),
        ("broken.parquet", b"PAR1 and nothing more", "damaged parquet"),
    ],
)
def test_unusable_input(scorer: StepScorer, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    """An error that says what the file is; no output is begun."""
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        score_file(scorer, tmp_path / name, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def zstandard(content: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow", reason="zst files need pyarrow")
    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("bom.jsonl", lambda text: b"\xef\xbb\xbf" + text.encode()),
        ("utf16.jsonl", lambda text: text.encode("utf-16")),
        ("utf16be.jsonl", lambda text: b"\xfe\xff" + text.encode("utf-16-be")),
        ("windows.jsonl", lambda text: text.replace("\n", "\r\n").encode()),
        ("rows.jsonl.gz", lambda text: gzip.compress(text.encode())),
        ("rows.jsonl.zst", lambda text: zstandard(text.encode())),
        ("of_pzstd.zst", lambda text: b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstandard(text.encode())),
        ("frames.zst", lambda text: zstandard(text[:99].encode()) + zstandard(text[99:].encode())),
        ("array.json", lambda text: json.dumps([json.loads(line) for line in text.splitlines()], indent=1).encode()),
        ("bom.json", lambda text: b"\xef\xbb\xbf[" + ",".join(text.splitlines()).encode() + b"]"),
        ("wrapped.json", lambda text: b'{\n "data": [' + ",".join(text.splitlines()).encode() + b"]}"),
        ("array.json.gz", lambda text: gzip.compress(b"[" + ",".join(text.splitlines()).encode() + b"]")),
        ("utf16.json.gz", lambda text: gzip.compress(text.encode("utf-16"))),
    ],
)
def test_files_as_people_have_them(
    scorer: StepScorer, data: Path, tmp_path: Path, name: str, write: Callable[[str], bytes]
) -> None:
    """Encodings, compression and JSON arrays: the same rows, in the same order, also when a run goes on."""
    (tmp_path / name).write_bytes(write(data.read_text("utf-8")))
    plain, found = list(open_rows(data)), list(open_rows(tmp_path / name, data.parent))
    assert found == plain
    assert len(found) == 40
    score_file(scorer, tmp_path / name, tmp_path / "out.jsonl", image_root=data.parent)
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(b"".join(lines[:7]))
    assert score_file(scorer, tmp_path / name, tmp_path / "out.jsonl", image_root=data.parent).resumed == 7
    assert (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True) == lines


def test_maps_of_parquet_are_objects(tmp_path: Path) -> None:
    """A column of maps comes as pairs: what it holds would be overlooked."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts, images = pyarrow.map_(pyarrow.string(), pyarrow.string()), pyarrow.map_(pyarrow.string(), pyarrow.binary())
    columns = {"question": ["Q?"], "responses": [["a"]]}

    def rows(**more: Any) -> list[Any]:
        parquet.write_table(pyarrow.table({**columns, **more}), tmp_path / "rows.parquet")
        return list(open_rows(tmp_path / "rows.parquet"))

    content = png()
    (row,) = rows(image=pyarrow.array([[("bytes", content)]], images))
    assert row.images == (content,)
    for key in ("image", "img_path"):
        (bad,) = rows(meta=pyarrow.array([[(key, "a/b")]], texts))
        assert "meta looks like an image" in bad.error


def test_keys_that_are_not_read_and_ids_that_repeat_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A typing error is found by its suggestion; a key of every row is one line."""
    row = {"id": -1, "question": "Q", "responses": ["r"], "agregated": "min", "answr": "4", "response": "s"}
    path = write_rows(tmp_path / "rows.jsonl", [row] * 5)
    for _ in range(2):
        assert [found.number for found in open_rows(path)] == [0, 1, 2, 3, 4]
    keys, ids = (record.getMessage() for record in caplog.records)
    assert keys.endswith(
        "keys that are not read: agregated, answr (did you mean answer?), response (another key is read instead)"
    )
    assert ids.endswith("4 rows have an id that an earlier row has: tell them apart by `row`")


def test_parquet_gives_the_same_rows(scorer: StepScorer, data: Path, tmp_path: Path) -> None:
    """Images as bytes in a column, as Hugging Face data sets store them: same documents as from jsonl and paths."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = read_rows(data)
    stored = [{**row, "image": {"bytes": (data.parent / row["image"]).read_bytes()}, "extra": 1} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(stored), tmp_path / "rows.parquet", row_group_size=7)
    score_file(scorer, data, tmp_path / "jsonl.jsonl")
    output = tmp_path / "parquet.jsonl"
    assert score_file(scorer, tmp_path / "rows.parquet", output).scored == 40
    by_id = {document["id"]: document for document in read_rows(tmp_path / "jsonl.jsonl")}
    assert [(document["id"], document) for document in read_rows(output)] == [(r["id"], by_id[r["id"]]) for r in rows]
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:13]) + lines[13][:20])
    assert score_file(scorer, tmp_path / "rows.parquet", output).resumed == 13
    assert output.read_bytes().splitlines(keepends=True) == lines


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lean install says what to install."""
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"vprm\[data\]"):
        open_rows(tmp_path / "rows.parquet")
