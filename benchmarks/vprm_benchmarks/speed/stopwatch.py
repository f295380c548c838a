"""Timing: medians of repeated calls, and rounds in which every contender takes its turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]


def seconds(call: Call, synchronize: Callable[[], None] = lambda: None) -> float:
    """Seconds of one call; `synchronize` waits for a device's queued work before the clock starts and stops."""
    synchronize()
    started = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - started


def median_s(call: Call, repeats: int, warmups: int = 1, synchronize: Callable[[], None] = lambda: None) -> float:
    """Median seconds of `repeats` calls, after `warmups` that do not count."""
    for _ in range(warmups):
        call()
    return statistics.median(seconds(call, synchronize) for _ in range(repeats))


def interleaved(
    contenders: Mapping[str, Call],
    rounds: int,
    warmups: int = 1,
    say: Callable[[str], None] = lambda text: None,
    after: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every contender in every round, by name; each round runs all of them, in turns of order.

    Rounds let a slow minute of a shared machine fall on all alike. `warmups` rounds come first and do not count;
    `after` clears up after every call, off the clock.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-warmups, rounds):
        names = list(contenders)
        for name in names if number % 2 == 0 else reversed(names):
            say(f"{'warm-up' if number < 0 else f'round {number + 1} of {rounds}'}: {name}")
            taken = seconds(contenders[name])
            after()
            if number >= 0:
                times[name].append(taken)
    return times
