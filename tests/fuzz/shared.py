"""Threads that share what may be shared, and bundles with one flipped bit. A trial is a seed, as in campaigns.py.

`threads`: eight threads make 80 calls of one scorer, whose prefix cache may be too small; `forks`: eight threads
work on forks of one session. What is scored equals what one thread scores alone, or is refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from vprm_runtime import Bundle, StepScorer

Trial = Callable[[random.Random], None]
THREADS = 8
CALLS = 80  # of a trial of `threads`
TOLERANCE = 1e-5
_STEPS = ["Two bars.", "12 + 3 = 15.", "The answer is 7.", "So it is wrong.", "Count again: 4."]


class DifferenceError(Exception):
    """A score is another than one thread's alone."""


def threads(work: Path, bundle: Path) -> Trial:
    """Calls of one scorer with a prefix cache from eight threads."""
    alone = StepScorer.open(bundle, threads=1)
    questions = [(_image(number), f"How many bars are there in image {number}?") for number in range(6)]
    responses = [["\n\n".join(_STEPS[: number % 4 + 1]), _STEPS[number % 5]] for number in range(5)]

    def scores(scorer: StepScorer, question: int, response: int) -> list[float]:
        image, text = questions[question]
        result = scorer.score(image, text, responses[response])
        return [step.score for candidate in result for step in candidate.steps]

    wanted = {
        (question, response): scores(alone, question, response)
        for question in range(len(questions))
        for response in range(len(responses))
    }  # fmt: skip
    budgets = [1 << 16, 1 << 20, 1 << 22, 1 << 26]

    def trial(generator: random.Random) -> None:
        scorer = alone.with_engine(alone.engine, prefix_cache_bytes=generator.choice(budgets))
        calls = [generator.choice(list(wanted)) for _ in range(CALLS)]

        def call(which: tuple[int, int]) -> list[float]:
            return scores(scorer, *which)

        with ThreadPoolExecutor(THREADS) as pool:
            for which, found in zip(calls, pool.map(call, calls), strict=True):
                _check(found, wanted[which], f"call {which}")

    return trial


def forks(work: Path, bundle: Path) -> Trial:
    """Forks of one session, each in a thread, against scoring whole responses alone."""
    scorer = StepScorer.open(bundle, threads=1)
    image, question = _image(1), "How many bars are there?"
    known: dict[tuple[str, ...], float] = {}

    def last_score(steps: list[str]) -> float:
        key = tuple(steps)
        if key not in known:
            known[key] = scorer.score(image, question, [steps]).candidates[0].steps[-1].score
        return known[key]

    def trial(generator: random.Random) -> None:
        seeds = [generator.random() for _ in range(THREADS)]
        with scorer.session(image, question) as session:
            first = generator.choices(_STEPS, k=generator.randrange(3))
            for step in first:
                session.append(step)

            def branch(seed: float) -> list[tuple[list[str], float]]:
                own, steps, seen = random.Random(seed), list(first), []
                with session.fork() as fork:
                    for _ in range(6):
                        kind = own.randrange(4)
                        if kind == 0 and steps:
                            fork.rewind()
                            steps.pop()
                        elif kind == 1:
                            step = own.choice(_STEPS)
                            seen.append(([*steps, step], fork.append(step).score))
                            steps.append(step)
                        else:
                            options = own.sample(_STEPS, 2)
                            scored = fork.score_next(options)
                            seen += [
                                ([*steps, option], candidate.steps[-1].score)
                                for option, candidate in zip(options, scored, strict=True)
                            ]
                return seen

            with ThreadPoolExecutor(THREADS) as pool:
                found = list(pool.map(branch, seeds))
        for steps, score in (one for branch_found in found for one in branch_found):
            _check([score], [last_score(steps)], f"after {len(steps)} steps")

    return trial


def flips(work: Path, bundle: Path) -> Trial:
    """One flipped bit anywhere in a bundle: never verified. Bytes are equally likely, half of the time files are."""
    files = {file.name: bytearray(file.read_bytes()) for file in sorted(bundle.iterdir()) if file.is_file()}
    for name, content in files.items():
        (work / name).write_bytes(content)
    names, sizes = list(files), [len(content) for content in files.values()]

    def trial(generator: random.Random) -> None:
        weights = sizes if generator.random() < 0.5 else None
        name = generator.choices(names, weights)[0]
        at, bit = generator.randrange(len(files[name])), 1 << generator.randrange(8)
        with (work / name).open("r+b") as file:
            file.seek(at)
            file.write(bytes([files[name][at] ^ bit]))
        try:
            Bundle.open(work, verify=True)
        finally:
            with (work / name).open("r+b") as file:
                file.seek(at)
                file.write(files[name][at : at + 1])
        raise DifferenceError(f"bit {bit} of byte {at} of {name} is flipped, and the bundle was verified")

    return trial


def _image(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (60, 90, 3), np.uint8))


def _check(found: list[float], wanted: list[float], where: str) -> None:
    if len(found) != len(wanted) or max(map(abs, np.subtract(found, wanted)), default=0) > TOLERANCE:
        raise DifferenceError(f"{where}: {found} instead of {wanted}")


SHARED = {"threads": threads, "forks": forks, "flips": flips}
