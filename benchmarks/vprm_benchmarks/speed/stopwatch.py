"""Timing: medians of repeated calls, and rounds in which every contender takes its turn."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from vprm_runtime.cli.progress import Say, say_nothing

Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


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
    contenders: Mapping[Name, Call],
    rounds: int,
    warmups: int = 1,
    say: Say = say_nothing,
    before: Callable[[Call], None] = lambda call: None,
    after: Callable[[], None] = lambda: None,
    synchronize: Callable[[], None] = lambda: None,
    failed: Callable[[Name, Exception], bool] = lambda name, error: False,
    enough: Callable[[], bool] = lambda: False,
) -> dict[Name, list[float]]:
    """Seconds of every contender in every round, by name; each round runs all of them, in an order of its own.

    Rounds let a slow minute of a shared machine fall on all alike, and shuffled turns (the same ones in every run) what
    a contender leaves behind: caches, and threads that spin for a while. `warmups` rounds come first and do not count;
    `before` prepares every call and `after` clears up after it, off the clock. A contender that raises is handed to
    `failed`, which says whether the others go on without it; otherwise the error is raised. `enough` may leave out
    rounds after the first.
    """
    times: dict[Name, list[float]] = {name: [] for name in contenders}
    taking_part = list(contenders)
    shuffled = random.Random(0)
    done, total = 0, (warmups + rounds) * len(contenders)
    for number in range(-warmups, rounds):
        if number > 0 and enough():
            break
        shuffled.shuffle(taking_part)
        for name in list(taking_part):
            say(f"{'warm-up' if number < 0 else f'round {number + 1} of {rounds}'}: {name}", done, total)
            try:
                before(contenders[name])
                taken = seconds(contenders[name], synchronize)
            except Exception as error:
                if not failed(name, error):
                    raise
                taking_part.remove(name)
                total -= rounds - number
                continue
            after()
            done += 1
            if number >= 0:
                times[name].append(taken)
    return times
