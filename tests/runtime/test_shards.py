"""Files of rows cut into shards, scored by several processes, merged: the same bytes as one undisturbed process."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tests.support.shards import SITE, sample_rows, write_lines

from vprm_runtime import InputError, StepScorer
from vprm_runtime.cli.main import main
from vprm_runtime.datasets import open_rows, score_file
from vprm_runtime.datasets.attempts import Attempts
from vprm_runtime.datasets.shard_merge import merge_scores
from vprm_runtime.datasets.shards import ShardSet, write_shards


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a process whose workers keep a list of the rows that they begin."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "VPRM_TEST_BEGUN": str(tmp_path / "begun")}


def vprm(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vprm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def in_input_order(path: Path) -> list[str]:
    """Lines of an output, by row."""
    return sorted(path.read_text("utf-8").splitlines(), key=lambda line: int(json.loads(line)["row"]))


def test_every_row_is_in_one_shard_with_its_group(tmp_path: Path) -> None:
    rows = sample_rows(tmp_path, 60)
    random.Random(1).shuffle(rows)
    shards = write_shards([write_lines(tmp_path / "rows.jsonl", rows)], tmp_path / "shards", 4)
    found: list[int] = []
    homes: dict[bytes, set[str]] = {}
    for shard in shards.shards:
        source = open_rows(shards.directory / shard.name)
        assert source.total == shard.rows
        for row in source:
            assert row.id == rows[row.number]["id"]
            found.append(row.number)
            homes.setdefault(row.group_key, set()).add(shard.name)  # type: ignore[union-attr]
    assert sorted(found) == list(range(60))
    assert len(homes) == 20
    assert all(len(names) == 1 for names in homes.values())
    assert len(shards.shards) > 1
    assert ShardSet.open(tmp_path / "shards") == shards


def odd_lines(root: Path) -> bytes:
    """A file with everything that a row can have wrong, ids that are missing or repeat, blank lines."""
    rows = sample_rows(root, 9)
    del rows[1]["id"]
    rows[2]["id"] = rows[3]["id"] = 7
    rows[4]["image"] = "none.png"
    rows[5]["question"] = 5
    lines = [json.dumps(row).encode() for row in rows]
    lines.insert(2, b"")
    lines.insert(5, b"{not json")
    lines.insert(6, b'{"question": "\\ud800", "responses": ["a"]}')
    return b"\n".join([*lines, b"", b"[1]"])  # no line break at the end


@pytest.mark.parametrize("form", ["jsonl", "gzip", "array", "parquet", "two files"])
def test_merged_shards_equal_an_unsharded_run(form: str, demo_scorer: StepScorer, tmp_path: Path) -> None:
    """Byte for byte, errors with their line numbers included."""
    content = odd_lines(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    inputs = [path]
    if form == "gzip":
        path.write_bytes(gzip.compress(content))
    elif form == "array":
        path.write_text(json.dumps(sample_rows(tmp_path, 9)), "utf-8")
    elif form == "parquet":
        rows = sample_rows(tmp_path, 9)
        for row in rows:
            row["image"] = {"bytes": (tmp_path / row["image"]).read_bytes(), "path": None}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif form == "two files":
        path.write_text("".join(json.dumps(row) + "\n" for row in sample_rows(tmp_path, 4)), "utf-8")
        (tmp_path / "b.jsonl").write_bytes(b"{not json\n")
        inputs.append(tmp_path / "b.jsonl")
    shards = write_shards(inputs, tmp_path / "shards", 3)
    for shard in shards.shards:
        score_file(demo_scorer, shards.directory / shard.name, tmp_path / shard.output_name)
    found = merge_scores(shards, tmp_path, tmp_path / "merged.jsonl")
    if form == "two files":
        lines = (tmp_path / "merged.jsonl").read_text().splitlines()
        assert [json.loads(line)["row"] for line in lines] == [0, 1, 2, 3, 4]
        assert "line 1 of b.jsonl is not JSON" in json.loads(lines[4])["error"]
        return
    score_file(demo_scorer, path, tmp_path / "plain.jsonl")
    assert (tmp_path / "merged.jsonl").read_text("utf-8").splitlines() == in_input_order(tmp_path / "plain.jsonl")
    again = score_file(demo_scorer, path, tmp_path / "merged.jsonl")
    assert (again.resumed + again.retried, again.retried, again.errors) == (found.rows, again.scored, found.errors)


def test_merging_wants_every_row_once(demo_scorer: StepScorer, tmp_path: Path) -> None:
    rows = [{**row, "question": f"{row['question']} {number}"} for number, row in enumerate(sample_rows(tmp_path, 12))]
    path = write_lines(tmp_path / "rows.jsonl", rows)  # twelve prefixes: no shard of two stays empty
    shards = write_shards([path], tmp_path / "shards", 2)
    outputs = [tmp_path / shard.output_name for shard in shards.shards]
    score_file(demo_scorer, shards.directory / shards.shards[0].name, outputs[0])
    with pytest.raises(InputError, match="score its shard first"):
        merge_scores(shards, tmp_path, tmp_path / "merged.jsonl")
    score_file(demo_scorer, shards.directory / shards.shards[1].name, outputs[1])
    whole = outputs[1].read_bytes()
    first, rest = whole.split(b"\n", 1)
    outputs[1].write_bytes(rest)
    with pytest.raises(InputError, match="1 of 12 rows have no line yet"):
        merge_scores(shards, tmp_path, tmp_path / "merged.jsonl")
    outputs[1].write_bytes(whole + first + b"\n")
    with pytest.raises(InputError, match="1 lines are there twice"):
        merge_scores(shards, tmp_path, tmp_path / "merged.jsonl")
    outputs[1].write_bytes(whole)
    run = json.loads((tmp_path / f"{outputs[1].name}.run.json").read_text())
    (tmp_path / f"{outputs[1].name}.run.json").write_text(json.dumps(run | {"engine": "another"}))
    with pytest.raises(InputError, match="different engine"):
        merge_scores(shards, tmp_path, tmp_path / "merged.jsonl")
    assert not (tmp_path / "merged.jsonl").exists()


def test_damaged_shards_are_refused_by_name(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 12))
    with pytest.raises(InputError, match="holds no shards"):
        ShardSet.open(tmp_path)
    shards = write_shards([path], tmp_path / "shards", 2)
    with pytest.raises(InputError, match="exists already"):
        write_shards([path], tmp_path / "shards", 2)
    with pytest.raises(InputError, match="between 1 and"):
        write_shards([path], tmp_path / "other", 0)
    shard = shards.directory / shards.shards[0].name
    shard.write_bytes(shard.read_bytes() + b'{"question": "q", "responses": ["r"]}\n')
    with pytest.raises(InputError, match="were cut: cut them again"):
        open_rows(shard)
    shard.unlink()
    with pytest.raises(InputError, match="is missing"):
        ShardSet.open(shards.directory)
    bad = write_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(InputError, match="no rows"):
        write_shards([path, bad], tmp_path / "other", 2)
    for text in ("", "\n  \n"):
        bad.write_text(text)
        with pytest.raises(InputError, match="no rows"):
            write_shards([bad], tmp_path / "other.shards" / "rows", 2)
    assert not [entry for entry in tmp_path.iterdir() if "other" in entry.name]  # nothing half-made is left


def test_a_row_is_set_aside_after_three_deaths_and_only_then(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    for _ in range(3):
        died = Attempts(output)
        assert died.begin(5)  # and the process ends here
    after = Attempts(output)
    assert [after.may_run_ahead() for _ in range(3)] == [False, False, True]
    assert not after.begin(5)
    assert after.begin(6)
    after.forget()
    for _ in range(4):
        with Attempts(output) as orderly:
            assert orderly.begin(5)
    assert not list(tmp_path.glob("*.attempt"))


def test_rows_that_kill_their_process_are_named_and_all_others_scored(
    demo_bundle: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    rows = sample_rows(tmp_path, 30)
    rows[7]["responses"] = ["POISON"]
    rows[20]["question"] = "BOMB"  # dies in the thread that decodes ahead, while the row before is scored
    path, output = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "scores.jsonl"
    done = vprm("score", demo_bundle, "--input", path, "--output", output, "--processes", 2, "--json", env=environment)
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["errors"], summary["crashed_rows"]) == (30, 2, 2)
    assert "set aside, because they killed the process: row 7 (id row-7), row 20 (id row-20)" in done.stderr
    documents = [json.loads(line) for line in output.read_text().splitlines()]
    assert [document["row"] for document in documents] == list(range(30))
    failed = [document["row"] for document in documents if "error" in document]
    assert failed == [7, 20]
    assert documents[7]["code"] == "crashed"
    begun = Counter((tmp_path / "begun").read_text().split())
    assert begun.pop("7") == begun.pop("20") == 3
    assert max(begun.values()) <= 2
    again = vprm("score", demo_bundle, "--input", path, "--output", output, "--processes", 2)
    assert again.returncode == 1
    assert "row 7 (id row-7)" in again.stderr


def test_killed_workers_and_drivers_cost_a_row_each(
    demo_bundle: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    path, output = write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 200)), tmp_path / "scores.jsonl"
    command = [sys.executable, "-m", "vprm", "score", demo_bundle, "--input", path, "--output", output]
    chance = random.Random(3)
    deaths = 0
    for round_ in range(3):
        driver = subprocess.Popen([*command, "--processes", "2"], env=environment, stderr=subprocess.DEVNULL)
        wait_for_rows(tmp_path, 12 * (round_ + 1), driver)
        workers = children(driver.pid)
        assert len(workers) == 2
        if round_ % 2:
            os.kill(chance.choice(workers), signal.SIGKILL)
            deaths += 1
            wait_for_rows(tmp_path, 12 * (round_ + 1) + 8, driver)
            workers = children(driver.pid)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        deaths += 2
        wait_until_gone(workers)
    assert not output.exists()
    assert vprm(*command[3:], "--processes", 2, env=environment).returncode == 0
    plain = tmp_path / "plain.jsonl"
    assert vprm("score", demo_bundle, "--input", path, "--output", plain, "--threads", 1).returncode == 0
    assert output.read_bytes() == plain.read_bytes()
    begun = (tmp_path / "begun").read_text().split()
    assert len(set(begun)) == 200
    assert len(begun) <= 200 + deaths
    left = {entry.name for entry in tmp_path.glob("scores.jsonl*")}
    assert left == {"scores.jsonl", "scores.jsonl.run.json"}


def wait_for_rows(directory: Path, rows: int, driver: subprocess.Popen[bytes]) -> None:
    """Until so many rows were begun."""
    begun = directory / "begun"
    while not begun.exists() or len(begun.read_text().split()) < rows:
        assert driver.poll() is None, "it ended by itself"
        time.sleep(0.02)


def children(process: int) -> list[int]:
    """Its child processes."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True).stdout
    return [int(word) for word in found.split()]


def wait_until_gone(processes: list[int]) -> None:
    for process in processes:
        while Path(f"/proc/{process}").exists():
            time.sleep(0.02)


def test_another_run_s_output_is_refused(demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, output = write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 6)), tmp_path / "scores.jsonl"
    command = ["score", str(demo_bundle), "--input", str(path), "--output", str(output), "--processes", "1"]
    assert main(command) == 0
    assert main(command) == 0  # done already
    assert main([*command, "--aggregate", "min"]) == 2
    assert "different options" in capfd.readouterr().err
    assert main(["shard", str(path), "-o", str(tmp_path / "shards"), "--shards", "2"]) == 0
    of_shards = [str(tmp_path / "shards") if word == str(path) else word for word in command]
    capfd.readouterr()
    assert main(of_shards) == 0  # the same rows
    assert "6 rows" in capfd.readouterr().err
    write_lines(path, sample_rows(tmp_path, 7))
    assert main(command) == 2
    assert "different input" in capfd.readouterr().err
    output.unlink()
    (tmp_path / "scores.jsonl.shards").mkdir()
    (tmp_path / "scores.jsonl.shards" / "rows").mkdir()
    assert main(command) == 2
    assert "holds no shards" in capfd.readouterr().err


def test_errors_are_tried_again_unless_kept(
    demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = sample_rows(tmp_path, 6)
    rows[3]["image"] = "late.png"
    path = write_lines(tmp_path / "rows.jsonl", rows)
    assert main(["shard", str(path), "-o", str(tmp_path / "shards"), "--shards", "2"]) == 0
    command = ["score", str(demo_bundle), "--input", str(tmp_path / "shards"), "--output", f"{tmp_path}/scores/"]
    assert main([*command, "--strict"]) == 2
    assert "for one process" in capfd.readouterr().err
    assert main(command) == 0
    assert "6 rows, 1 with errors" in capfd.readouterr().err
    (tmp_path / "late.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert main([*command, "--keep-errors"]) == 0
    assert "6 rows, 1 with errors" in capfd.readouterr().err
    assert main(command) == 0
    assert "6 rows, 0 with errors" in capfd.readouterr().err
    write_lines(path, [{"question": "", "responses": ["a"]}])
    assert main(["score", str(demo_bundle), "--input", str(path), "--output", f"{tmp_path}/o", "--processes", "1"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "2"], "need --input"),
        (["--processes", "2", "--input", "-", "--output", "-"], "need --input"),
        (["--processes", "2", "--ray", "local", "--input", "a", "--output", "b"], "give one of them"),
        (["--workers", "2", "--input", "{shards}", "--output", "b/"], "are for --ray"),
        (["--ray", "local", "--threads", "2", "--input", "a", "--output", "b"], "--worker-cpus instead"),
        (["--processes", "2", "--input", "none.jsonl", "--output", "b"], "cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: list[str], message: str, demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(shards=tmp_path) for argument in arguments]
    assert main(["score", str(demo_bundle), *given]) == 2
    assert message in capfd.readouterr().err


def test_a_bundle_that_does_not_open_ends_the_run_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 6))
    (tmp_path / "bundle").mkdir()
    command = ["score", str(tmp_path / "bundle"), "--input", str(path), "--output", str(tmp_path / "out.jsonl")]
    assert main([*command, "--processes", "2"]) == 2
    assert "manifest.json" in capfd.readouterr().err


def test_shards_and_their_merged_scores_on_the_command_line(
    demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The recipe for batch systems: cut, score each shard by itself, merge."""
    path = write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 12))
    assert main(["shard", str(path), "-o", str(tmp_path / "shards"), "--shards", "2", "--json"]) == 0
    shards = json.loads(capfd.readouterr().out)["shards"]
    for shard in shards:
        name = shard["name"].removesuffix(".jsonl")
        rows, scores = tmp_path / "shards" / shard["name"], tmp_path / "scores" / f"{name}.scores.jsonl"
        scores.parent.mkdir(exist_ok=True)
        assert main(["score", str(demo_bundle), "--input", str(rows), "--output", str(scores)]) == 0
    merged, plain = tmp_path / "merged.jsonl", tmp_path / "plain.jsonl"
    merge = ["shard", str(tmp_path / "shards"), "--merge", str(tmp_path / "scores"), "-o", str(merged)]
    assert main(merge) == 0
    assert main(["score", str(demo_bundle), "--input", str(path), "--output", str(plain)]) == 0
    assert merged.read_bytes() == plain.read_bytes()
    directory = tmp_path / "all"
    assert main(["score", str(demo_bundle), "--input", str(tmp_path / "shards"), "--output", f"{directory}/"]) == 0
    assert [json.loads(line)["row"] for line in (directory / "scores.jsonl").read_text().splitlines()] == list(
        range(12)
    )


@pytest.mark.parametrize("count", [500, 513, 5000])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_blank_lines_before_the_rows(count: int, mark: bytes, tmp_path: Path) -> None:
    for name, rows in (
        ("lines", b'{"question": "Q", "responses": ["a"]}\n'),
        ("list", b'{\n "rows": [{"question": "Q"}]}'),
    ):
        path = tmp_path / name
        path.write_bytes(mark + b"\n" * count + rows)
        assert open_rows(path).total == 1
    path.write_bytes(mark + b"\n" * count)
    with pytest.raises(InputError):
        open_rows(path)


def test_several_processes_refuse_what_is_no_file_as_one_does(
    demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, pipe = write_lines(tmp_path / "rows.jsonl", sample_rows(tmp_path, 2)), tmp_path / "pipe"
    os.mkfifo(pipe)
    for source, output in ((path, "/dev/full"), (pipe, tmp_path / "out"), (tmp_path / "none", tmp_path / "out")):
        said = []
        for more in ([], ["--processes", "2"]):
            assert main(["score", str(demo_bundle), "--input", str(source), "--output", str(output), *more]) == 2
            said.append(capfd.readouterr().err)
        assert said[0] == said[1]
