"""What libvprm costs beside ONNX Runtime's own time, and one model for threads against a Python process for each.

    python -m tests.cpp.measure --model 8b-slice [--layers 2] [--workers 4] [--rounds 3]

Prints one JSON document. `overhead_percent` is CPU time outside of the graphs over that within, a call of one thread.
`throughput` is libvprm's calls per second over those of as many Python processes, `memory` its proportional set size
over theirs: medians of rounds that take turns. All calls are equal and their scores are compared. `start` is what
vprm-score takes from its start to its first answer. Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from tests.cpp.conftest import ENVIRONMENT, built

from vprm_benchmarks.speed.bundles import NATIVE_INT8, BundleKind
from vprm_benchmarks.speed.models import Depth, prepared_model
from vprm_benchmarks.speed.workload import Workload, WorkloadSize, workload

_PRECISIONS = {"fp32": BundleKind("fp32"), "int8": BundleKind("int8"), "int8-native": NATIVE_INT8}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=("demo", "8b-slice"), default="8b-slice")
    parser.add_argument("--precision", choices=_PRECISIONS, default="int8")
    for name, default in (("layers", 2), ("vision-layers", 2), ("tiles", 3), ("candidates", 4), ("steps", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("workers", 4), ("calls", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    program = built("release") / "tests/vprm_measure"
    with (
        prepared_model(args.model, Depth(args.layers, args.vision_layers)) as model,
        tempfile.TemporaryDirectory() as at,
    ):
        bundle = model.bundle(_PRECISIONS[args.precision]).path
        work = workload(WorkloadSize(args.tiles, args.candidates, args.steps, 20), model.tile_px, model.count_tokens)
        pixels = np.asarray(work.image.convert("RGB"))
        request = _request(Path(at), pixels, work.max_tiles, work.question, [list(steps) for steps in work.candidates])
        overhead = _run(program, bundle, request, "overhead", str(args.rounds))
        rounds = []
        for _ in range(args.rounds):
            mine = _run(program, bundle, request, "threads", str(args.workers), str(args.calls))
            theirs = _python_processes(bundle, request, args.workers, args.calls)
            assert abs(mine["score"] - theirs["score"]) <= 1e-12, (mine, theirs)
            rounds.append((mine, theirs))
        start = _start(program.parent.parent / "vprm-score", bundle, Path(at), work)
    document = _document(vars(args), overhead, rounds)
    print(json.dumps({**document, "start": start}, indent=2))


def _start(program: Path, bundle: Path, folder: Path, work: Workload) -> dict[str, dict[str, float]]:
    """CPU time and peak memory of the program with one row, with one thread and with two."""
    work.image.convert("RGB").save(folder / "image.ppm")
    row = {
        "image": str(folder / "image.ppm"), "question": work.question, "responses": [list(s) for s in work.candidates],
        "max_tiles": work.max_tiles,
    }  # fmt: skip
    found = {}
    for threads in ("1", "2"):
        usage = []
        for _ in range(7):
            command = [program, bundle, "--input", "-", "--threads", threads]
            process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(row).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["best"] is not None
            usage.append((_cpu_s(process.pid), _kilobytes("status", "VmHWM", process.pid) / 1024))
            process.stdin.close()
            assert process.wait() == 0
        found[f"{threads} threads"] = {
            "cpu_s": statistics.median(cpu for cpu, _ in usage),
            "peak_rss_mib": max(rss for _, rss in usage),
        }
    return found


def _document(arguments: dict[str, Any], overhead: list[dict[str, Any]], rounds: list[Any]) -> dict[str, Any]:
    percents = [100 * (one["cpu_s"] / one["graphs_cpu_s"] - 1) for one in overhead]
    ratios = [(theirs["wall_s"] / mine["wall_s"], mine["pss_kb"] / theirs["pss_kb"]) for mine, theirs in rounds]
    return {
        "arguments": arguments,
        "overhead_percent": statistics.median(percents),
        "throughput": statistics.median(ratio[0] for ratio in ratios),
        "memory": statistics.median(ratio[1] for ratio in ratios),
        "calls": overhead,
        "rounds": [{"libvprm": mine, "python": theirs} for mine, theirs in rounds],
    }


def _request(folder: Path, pixels: Any, max_tiles: int, question: str, responses: list[list[str]]) -> Path:
    (folder / "image.rgb").write_bytes(np.ascontiguousarray(pixels).tobytes())
    height, width, _ = pixels.shape
    image = {"file": str(folder / "image.rgb"), "width": width, "height": height, "stride": 3 * width}
    document = {"question": question, "images": [image], "max_tiles": max_tiles, "responses": responses}
    (folder / "request.json").write_text(json.dumps(document), "utf-8")
    return folder / "request.json"


def _run(program: Path, bundle: Path, request: Path, *arguments: str) -> Any:
    command = [program, bundle, request, *arguments]
    return json.loads(subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True).stdout)


def _python_processes(bundle: Path, request: Path, workers: int, calls: int) -> dict[str, Any]:
    """As many processes, each with a scorer and one thread, that start together and are measured while all live."""
    context = multiprocessing.get_context("spawn")
    started = []
    for _ in range(workers):
        ours, child = context.Pipe()
        process = context.Process(target=_work, args=(child, str(bundle), str(request), calls))
        process.start()
        started.append((process, ours))
    scores = {pipe.recv() for _, pipe in started}  # each has made one call
    start = time.perf_counter()
    for _, pipe in started:
        pipe.send("go")
    scores |= {pipe.recv() for _, pipe in started}
    wall = time.perf_counter() - start
    memory = []
    for _, pipe in started:
        pipe.send("memory")
        memory.append(pipe.recv())
    for process, pipe in started:
        pipe.send("end")
        process.join()
    (score,) = scores
    return {
        "calls": workers * calls,
        "wall_s": wall,
        "score": score,
        "pss_kb": sum(pss for pss, _ in memory),
        "peak_rss_kb": sum(peak for _, peak in memory),
    }


def _work(pipe: Connection, bundle: str, request: str, calls: int) -> None:
    from vprm_runtime import StepScorer

    given = json.loads(Path(request).read_text("utf-8"))
    (image,) = given["images"]
    pixels = np.fromfile(image["file"], np.uint8).reshape(image["height"], image["width"], 3)
    scorer = StepScorer.open(bundle, "cpu", threads=1)

    def score() -> float | None:
        return scorer.score(pixels, given["question"], given["responses"], max_tiles=given["max_tiles"])[0].score

    pipe.send(score())
    pipe.recv()
    found = {score() for _ in range(calls)}
    pipe.send(found.pop() if len(found) == 1 else None)
    pipe.recv()
    pipe.send((_kilobytes("smaps_rollup", "Pss"), _kilobytes("status", "VmHWM")))
    pipe.recv()


def _cpu_s(process: int) -> float:
    """CPU time of all its threads."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text("utf-8").split()[0]) for task in tasks) * 1e-9


def _kilobytes(name: str, key: str, process: int | str = "self") -> int:
    lines = Path(f"/proc/{process}/{name}").read_text("utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


if __name__ == "__main__":
    main()
