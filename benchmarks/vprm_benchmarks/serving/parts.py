"""The parts of `vprm bench serve`: each measures one thing and returns its figures."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vprm_benchmarks.serving import rows
from vprm_benchmarks.serving.load import Connection, Reply, Request, burst, closed_loop, open_loop, percentile, run
from vprm_benchmarks.serving.servers import ServerProcess, baseline_server, vprm_server
from vprm_runtime import StepScorer
from vprm_runtime.datasets.row import row_from_record

CLIENTS = 8
Figures = dict[str, Any]


@dataclass
class Bench:
    """What parts share: the bundle, a scorer in this process, how long to measure, a way to say what is going on."""

    bundle: Path
    scorer: StepScorer
    seconds: float
    rounds: int
    say: Callable[[str], None]
    largest_difference: float = 0.0
    compared: int = 0

    @property
    def images(self) -> int:
        """How many different images are more than a measurement can use of a cache of 64 MiB."""
        return max(12, round(40 * self.seconds))

    def check(self, replies: Sequence[Reply]) -> None:
        """Compare some answers with scoring their responses one by one in this process."""
        most = max(4, round(4 * self.seconds))
        good = [reply for reply in replies if reply.status == 200]
        for reply in good[:: max(1, len(good) // most)][:most]:
            row = row_from_record(reply.request.row, 0, Path())
            with self.scorer.session(list(row.images), row.question) as session:
                for response, result in zip(row.responses, json.loads(reply.body)["results"], strict=True):
                    wanted = session.score([response])[0].step_scores
                    found = np.array([step["score"] for step in result["steps"]])
                    self.largest_difference = max(self.largest_difference, float(np.abs(found - wanted).max()))
                    self.compared += 1


def throughput(bench: Bench) -> Figures:
    """Closed loop of 8 clients, the server and the baseline in turns: requests per second and their ratio."""
    shared = rows.smooth_image(1)
    cases: dict[str, list[Request]] = {
        "one_response_one_image": rows.requests(shared, 4000, 1),
        "best_of_8_one_image": rows.requests(shared, 1000, 8),
        "distinct_images": rows.distinct(bench.images, 1, 1000),
    }
    figures: Figures = {}
    with vprm_server(bench.bundle, "--cache-bytes", "64M") as own, baseline_server(bench.bundle) as baseline:
        for name, requests in cases.items():
            rates: dict[str, list[float]] = {"vprm": [], "baseline": []}
            for number in range(bench.rounds):
                for server, label in ((own, "vprm"), (baseline, "baseline")):
                    bench.say(f"{name}: {label}, round {number + 1} of {bench.rounds}")
                    started = time.monotonic()
                    replies = run(closed_loop(server.port, CLIENTS, requests, bench.seconds))
                    rates[label].append(len(replies) / (time.monotonic() - started))
                    _all_answered(replies)
                    if label == "vprm" and number == 0:
                        bench.check(replies)
            medians = {label: statistics.median(values) for label, values in rates.items()}
            figures[name] = {
                "requests_per_s": medians,
                "rounds": rates,
                "ratio": medians["vprm"] / medians["baseline"],
            }
    return figures


def idle_latency(bench: Bench) -> Figures:
    """One client, one request at a time, beside the same rows scored in this process; both keep prefixes."""
    kept = StepScorer.open(bench.bundle, "cpu", max_block_tokens=128, prefix_cache_bytes=1 << 30)
    image = rows.smooth_image(2)
    cases = {"hot": rows.requests(image, 60, 1), "best_of_8": rows.requests(image, 20, 8)}
    cases["cold"] = rows.distinct(40, 1, 2000)
    figures: Figures = {}
    with vprm_server(bench.bundle) as server:
        for name, requests in cases.items():
            bench.say(f"idle latency: {name}")
            pairs = run(_alternate(server.port, requests, kept))[2:]
            served, inside = (statistics.median(times) for times in zip(*pairs, strict=True))
            figures[name] = {
                "served_s": served,
                "in_process_s": inside,
                "ratio": served / inside,
                "more_s": served - inside,
            }
    return figures


async def _alternate(port: int, requests: Sequence[Request], scorer: StepScorer) -> list[tuple[float, float]]:
    """Seconds of each request, on the server and in this process."""
    connection = Connection(port)
    pairs = []
    for request in requests:
        reply = await connection.send(request)
        _all_answered([reply])
        started = time.monotonic()
        row = row_from_record(json.loads(request.body), 0, Path())
        scorer.score(list(row.images), row.question, row.responses)
        pairs.append((reply.latency_s, time.monotonic() - started))
    connection.close()
    return pairs


def connections(bench: Bench) -> Figures:
    """Many connections at the same moment, each with a request of its own."""
    figures: Figures = {}
    image = rows.smooth_image(3)
    with vprm_server(bench.bundle) as server:
        for count in (160, 1000):
            bench.say(f"{count} simultaneous connections")
            replies = run(burst(server.port, rows.requests(image, count, 1)))
            statuses = [reply.status for reply in replies]
            figures[str(count)] = {
                "refused_or_reset": statuses.count(0),
                "answered_200": statuses.count(200),
                "answered_429": statuses.count(429),
                "longest_s": max(reply.latency_s for reply in replies),
            }
            bench.check(replies)
    return figures


def overload(bench: Bench, queue_tokens: int = 16_384, seconds: float = 60.0) -> Figures:
    """Open loop at three times the capacity: what is still answered, how late, and how the rest is refused.

    Capacity is the mean of a closed loop before and one after, since a machine's speed may change within a minute.
    """
    requests = rows.distinct(max(40, bench.images), 1, 5000)
    with vprm_server(bench.bundle, "--cache-bytes", "64M", "--max-queue-tokens", str(queue_tokens)) as server:
        first = _capacity(bench, server, requests)
        bench.say(f"three times {first[0]:.1f} requests/s, {seconds:.0f} s")
        replies = run(open_loop(server.port, 3 * first[0], requests, seconds))
        last = _capacity(bench, server, requests)
    capacity, tokens_per_s = (statistics.mean(pair) for pair in zip(first, last, strict=True))
    bench.check(replies)
    good = [reply.latency_s for reply in replies if reply.status == 200]
    refused = [reply.latency_s - reply.late_s for reply in replies if reply.status == 429]  # from being sent
    bound_s = queue_tokens / tokens_per_s
    goodput = len(good) / seconds
    return {
        "capacity_per_s": capacity,
        "sent": len(replies),
        "answered": len(good),
        "refused_429": len(refused),
        "other": len(replies) - len(good) - len(refused),
        "goodput_over_capacity": goodput / capacity,
        "queue_bound_s": bound_s,
        "accepted_p50_s": percentile(good, 50),
        "accepted_p99_s": percentile(good, 99),
        "accepted_p99_over_queue_bound": (percentile(good, 99) or 0.0) / bound_s,
        "service_time_s": 1 / capacity,
        "refused_p50_s": percentile(refused, 50),
        "refused_p99_s": percentile(refused, 99),
        "refused_p99_over_service_time": (percentile(refused, 99) or 0.0) * capacity,
        "sent_late_p99_s": percentile([reply.late_s for reply in replies], 99),
        "retry_after_sent": all("retry-after" in reply.headers for reply in replies if reply.status == 429),
    }


def _capacity(bench: Bench, server: ServerProcess, requests: Sequence[Request]) -> tuple[float, float]:
    """Requests per second of a closed loop, and tokens per second of the engine's busy time."""
    bench.say("capacity")
    before, started = server.metrics(), time.monotonic()
    replies = run(closed_loop(server.port, CLIENTS, requests, bench.seconds * 2))
    seconds, after = time.monotonic() - started, server.metrics()
    _all_answered(replies)
    ran, busy_s = (after[k] - before[k] for k in ("vprm_prompt_tokens_total", "vprm_engine_busy_seconds_total"))
    return len(replies) / seconds, ran / busy_s


def fairness(bench: Bench, seconds: float = 40.0) -> Figures:
    """A tenth of the requests about new images among those about one: waits beside first come, first served.

    First come, first served is simulated on the very arrivals, with each kind's median time alone on this machine.
    """
    image = rows.smooth_image(4)
    hot, cold = rows.requests(image, 2000, 1, "hot"), rows.distinct(200, 1, 8000, "cold")
    mixed = [cold[n // 10 % len(cold)] if n % 10 == 9 else hot[n % len(hot)] for n in range(2000)]
    with vprm_server(bench.bundle) as server:
        bench.say("service times")
        alone = {
            kind: statistics.median(reply.latency_s for reply in run(closed_loop(server.port, 1, requests, 5.0)))
            for kind, requests in (("hot", hot), ("cold", rows.distinct(100, 1, 9000)))
        }
        rate = 0.8 / (0.9 * alone["hot"] + 0.1 * alone["cold"])
        bench.say(f"hot and cold requests at {rate:.1f}/s")
        replies = run(open_loop(server.port, rate, mixed, seconds))
    _all_answered(replies)
    bench.check(replies)
    free_at = 0.0
    expected: dict[str, list[float]] = {"hot": [], "cold": []}
    for reply in sorted(replies, key=lambda reply: reply.due_s):
        free_at = max(free_at, reply.due_s) + alone[reply.request.kind]
        expected[reply.request.kind].append(free_at - reply.due_s)
    found = {kind: [r.latency_s for r in replies if r.request.kind == kind] for kind in expected}
    figures: Figures = {"service_s": alone, "load": 0.8, "rate_per_s": rate}
    for kind, values in found.items():
        means = {"served_mean_s": statistics.mean(values), "fcfs_mean_s": statistics.mean(expected[kind])}
        tails = {"served_p95_s": percentile(values, 95), "fcfs_p95_s": percentile(expected[kind], 95)}
        figures[kind] = {**means, **tails, "mean_over_fcfs": means["served_mean_s"] / means["fcfs_mean_s"]}
    return figures


def soak(bench: Bench, minutes: float = 30.0) -> Figures:
    """Images that are far more than the cache holds, for a long time: memory and open files."""
    cache = "24M"
    samples: list[dict[str, float]] = []
    requests = rows.distinct(600, 1, 20_000)
    with vprm_server(bench.bundle, "--cache-bytes", cache) as server:
        started = time.monotonic()
        while (passed := time.monotonic() - started) < 60 * minutes:
            bench.say(f"soak: {passed / 60:.1f} of {minutes:g} minutes")
            _all_answered(run(closed_loop(server.port, 4, requests, min(20.0, 60 * minutes - passed))))
            samples.append(_sample(server, time.monotonic() - started))
    early = next(sample for sample in samples if sample["s"] >= min(600.0, 20 * minutes))
    return {
        "minutes": minutes,
        "requests": samples[-1]["requests"],
        "images": len(requests),
        "rss_end_over_10_minutes": samples[-1]["rss_bytes"] / early["rss_bytes"],
        "rss_bytes": [early["rss_bytes"], samples[-1]["rss_bytes"]],
        "open_files": sorted({int(sample["open_files"]) for sample in samples}),
        "most_cache_bytes": max(sample["cache_bytes"] for sample in samples),
        "evictions": samples[-1]["evictions"],
        "samples": samples[:: max(1, len(samples) // 30)],
    }


def _sample(server: ServerProcess, seconds: float) -> dict[str, float]:
    metrics = server.metrics()
    return {
        "s": round(seconds, 1),
        "rss_bytes": server.rss_bytes(),
        "open_files": server.open_files(),
        "cache_bytes": metrics["vprm_kv_cache_bytes"],
        "evictions": metrics["vprm_prefix_cache_evictions_total"],
        "requests": metrics["vprm_request_success_total"],
    }


def _all_answered(replies: Sequence[Reply]) -> None:
    bad = [reply for reply in replies if reply.status != 200]
    if bad:
        raise RuntimeError(
            f"{len(bad)} of {len(replies)} requests failed, the first with {bad[0].status}: {bad[0].body[:200]!r}"
        )


PARTS: dict[str, Callable[[Bench], Figures]] = {
    "throughput": throughput,
    "latency": idle_latency,
    "connections": connections,
    "overload": overload,
    "fairness": fairness,
    "soak": soak,
}
