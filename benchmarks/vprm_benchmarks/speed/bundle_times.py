"""How fast bundles are on this machine: one best-of-N request, all bundles in turns.

vprm bench bundles BUNDLE...
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vprm_benchmarks.speed.workload import Workload, WorkloadSize, workload
from vprm_runtime.bundle.manifest import TOKENIZER_NAME
from vprm_runtime.cli.common import phase_progress, print_json, stdout_console
from vprm_runtime.prompt.tokenizer import TextTokenizer
from vprm_runtime.scorer import StepScorer

TILES, STEPS, STEP_TOKENS = 7, 8, 40  # as `vprm bench best-of-n`
ENOUGH_S = 6.0  # of each bundle's requests
MOST_ROUNDS = 9


def run(args: argparse.Namespace) -> int:
    """Time the bundles that are named. Returns the exit code."""
    with phase_progress("timing") as say:
        bundles = {str(path): (path, args.device) for path in args.bundles}
        found = time_bundles(bundles, args.threads, args.responses, say)
    if args.json:
        print_json(found)
        return 0
    table = Table("bundle", "prefill s", "best of N s", "one step s", "open s", "rounds", show_edge=False)
    for name, times in found.items():
        seconds = (f"{times[key]:.3g}" for key in ("prefill_s", "best_of_n_s", "step_s", "open_s"))
        table.add_row(Text(name), *seconds, str(times["rounds"]))
    stdout_console().print(table)
    return 0


def time_bundles(
    bundles: Mapping[str, tuple[Path, str]],
    threads: int | None,
    responses: int,
    say: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, dict[str, Any]]:
    """Time one request on every bundle, in rounds of all of them.

    Args:
        bundles: (path, device) by name; all are open at the same time.
        threads: CPU threads (None: all cores).
        responses: of the request.
        say: called with what is done, how much of it, and how much there is.

    Returns:
        By name: `open_s`, `engine`, medians `prefill_s` (image and question), `best_of_n_s` (the whole request) and
        `step_s` (one more step after the prefix), and `rounds`.
    """
    found: dict[str, dict[str, Any]] = {}
    scorers: dict[str, StepScorer] = {}
    for name, (path, device) in bundles.items():
        started = time.perf_counter()
        scorers[name] = StepScorer.open(path, device, threads=threads)
        found[name] = {"open_s": time.perf_counter() - started, "engine": scorers[name].engine.description}
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in scorers}
    work: Workload | None = None
    for number in range(-1, MOST_ROUNDS):  # the first one warms up
        for name in scorers if number % 2 else reversed(scorers):
            work = work or _request(bundles[name][0], scorers[name], responses)
            times[name].append(_request_s(scorers[name], work))
        say("timing", number + 2, MOST_ROUNDS + 1)
        if min(sum(whole for _, whole, _ in one) for one in times.values()) >= ENOUGH_S:
            break
    for one in times.values():
        if len(one) > 1:  # else the warm-up took long enough to count: it changes little of such a request
            one.pop(0)
    for name, one in times.items():
        prefill, whole, step = (statistics.median(values) for values in zip(*one, strict=True))
        found[name] |= {"prefill_s": prefill, "best_of_n_s": whole, "step_s": step, "rounds": len(one)}
    return found


def _request(path: Path, scorer: StepScorer, responses: int) -> Workload:
    manifest = scorer.manifest
    tiling = manifest.tiling
    tiles = TILES if tiling.max_tiles >= TILES - 1 and tiling.use_thumbnail else 1
    tokenizer = TextTokenizer(path / TOKENIZER_NAME, manifest.tokens, manifest.score_rule.marker_id)
    size = WorkloadSize(tiles, responses, STEPS, STEP_TOKENS)
    return workload(size, tiling.tile_size_px, lambda text: len(tokenizer.encode(text)))


def _request_s(scorer: StepScorer, work: Workload) -> tuple[float, float, float]:
    """Seconds of the prefix, of the whole request, and of one more step."""
    started = time.perf_counter()
    with scorer.session(work.image, work.question, max_tiles=work.max_tiles) as session:
        prefilled = time.perf_counter()
        session.score(work.candidates)
        scored = time.perf_counter()
        session.score([work.candidates[0][:1]])
        return prefilled - started, scored - started, time.perf_counter() - scored
