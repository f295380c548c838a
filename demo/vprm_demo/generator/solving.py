"""Writes step-by-step solutions, right and wrong, for problems made of readings and a calculation.

Where a solution goes wrong is chosen first (a misreading, a wrong method, a slip of arithmetic); the steps after it
carry the wrong value on, correctly. Wrong values come from the distribution of right ones, so that a text by itself
gives nothing away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from .types import Claim, FactMaker, Problem, Segment, Solution, Step

FILLERS = (
    "Let us look at the picture.",
    "We go step by step.",
    "First we read the picture.",
    "Now we use the picture.",
)

Templates = Sequence[tuple[str | int, ...]]
"""Wordings: strings, and indices into a list of segments."""


def fill(rng: Random, templates: Templates, parts: Sequence[Segment], kind: str) -> Step:
    """A step from a random wording, with `parts` put in where it holds an index."""
    wording = rng.choice(templates)
    return Step(tuple(parts[piece] if isinstance(piece, int) else piece for piece in wording), kind)


def misread(rng: Random, true: int, low: int, high: int) -> int:
    """A wrong value in low..high (both included): one digit off in a third of the cases, else any other value."""
    if rng.random() < 0.35:
        if rng.random() < 0.5:
            near = [10 * (true // 10) + digit for digit in range(10)]
        else:
            near = [10 * tens + true % 10 for tens in range(10)]
        near = [value for value in near if low <= value <= high and value != true]
        if near:
            return rng.choice(near)
    value = rng.randint(low, high - 1)
    return value + (value >= true)


@dataclass(frozen=True)
class Reading:
    """A value to be read from the image: how it is said (with a stated value), what is true, and how it is
    misread."""

    say: Callable[[Random, int], Step]
    true: int
    misread: Callable[[Random], int]


@dataclass(frozen=True)
class Recipe:
    """How a question is answered.

    `combine` maps the values read to calculation lines `(template parts, result)`; `method` states the way to go,
    wrongly when asked to (None: it goes without saying); `accept` refuses misreadings that would look odd; `swap` is
    the calculation that a wrong method leads to.
    """

    question: str
    readings: tuple[Reading, ...]
    combine: Callable[[Sequence[int]], list[tuple[str, int]]]
    conclude: Callable[[Random, Claim], Step]
    unit: str = ""
    method: Callable[[Random, bool], Step] | None = None
    swap: Callable[[Sequence[int]], list[tuple[str, int]]] | None = None
    accept: Callable[[Sequence[int]], bool] = lambda values: True
    always_method: bool = False
    extras: tuple[FactMaker, ...] = ()


COMPUTE_WORDINGS: Templates = (
    (0, " = ", 1, "."),
    ("So ", 0, " = ", 1, "."),
    ("We get ", 0, " = ", 1, "."),
    ("This gives ", 0, " = ", 1, "."),
)


def slip(rng: Random, true: int) -> int:
    """A result of wrong arithmetic: off by one, two or ten."""
    near = [value for value in (true - 10, true - 2, true - 1, true + 1, true + 2, true + 10) if value >= 0]
    return rng.choice(near) if near else true  # below zero only in an attempt that is thrown away


def problem(recipe: Recipe) -> Problem:
    """The problem of a recipe."""
    answer = recipe.combine([reading.true for reading in recipe.readings])[-1][1]

    def solve(rng: Random, n_errors: int) -> Solution:
        for _ in range(60):
            solution = _attempt(recipe, answer, rng, n_errors)
            if solution is not None:
                return solution
        raise RuntimeError(f"no solution with {n_errors} errors found for {recipe.question!r}")

    return Problem(recipe.question, str(answer), solve)


def _attempt(recipe: Recipe, answer: int, rng: Random, n_errors: int) -> Solution | None:
    """One try at a solution; None if the errors cancel out or lead to an odd text."""
    with_method = recipe.method is not None and (recipe.always_method or rng.random() < 0.25)
    sites = [f"read{index}" for index in range(len(recipe.readings))] * 3 + ["compute"] * 2
    if with_method and recipe.swap is not None:
        sites += ["method"] * (3 if recipe.always_method else 1)
    wrong: set[str] = set()
    while len(wrong) < min(n_errors, len(set(sites))):
        wrong.add(rng.choice(sites))

    values = [
        reading.misread(rng) if f"read{i}" in wrong else reading.true for i, reading in enumerate(recipe.readings)
    ]
    if not recipe.accept(values):
        return None
    observations = [reading.say(rng, value) for reading, value in zip(recipe.readings, values, strict=True)]
    if recipe.method is not None and with_method:
        observations.append(recipe.method(rng, "method" in wrong))
    for _ in range(rng.choice((0, 0, 1, 1, 2)) if recipe.extras else 0):
        observations.append(rng.choice(recipe.extras)(rng, rng.random() < (0.4 if n_errors else 0.15)))
    rng.shuffle(observations)
    if rng.random() < 0.2:
        observations.insert(0, Step((rng.choice(FILLERS),), "filler"))

    calculation, reached = _calculate(recipe, values, "method" in wrong, "compute" in wrong, rng)
    if (reached == answer) != (n_errors == 0) or reached < 0:
        return None
    steps = [*observations, *calculation, recipe.conclude(rng, Claim(str(reached), str(answer)))]
    if not 3 <= len(steps) <= 8:
        return None
    return Solution(tuple(steps), str(reached), reached == answer)


def _calculate(
    recipe: Recipe, values: Sequence[int], swapped: bool, slipped: bool, rng: Random
) -> tuple[list[Step], int]:
    """The calculation's steps and what they arrive at; a slip happens in one line and is carried on."""
    combine = recipe.swap if swapped and recipe.swap is not None else recipe.combine
    lines = combine(values)
    slip_at = rng.randrange(len(lines)) if slipped else -1
    steps: list[Step] = []
    reached = 0
    carried: dict[int, int] = {}
    for index, (expression, true) in enumerate(lines):
        for before, after in carried.items():
            if f" {before}" in expression:
                expression = expression.replace(f" {before}", f" {after}")
                true += before - after  # the carried value is subtracted in every chain used here
        reached = slip(rng, true) if index == slip_at else true
        if index == slip_at:
            carried[true] = reached
        parts = (f"{expression}", Claim(str(reached), str(true)))
        steps.append(fill(rng, COMPUTE_WORDINGS, parts, "compute"))
    return steps, reached


def plus(values: Sequence[int]) -> list[tuple[str, int]]:
    """a + b"""
    return [(f"{values[0]} + {values[1]}", values[0] + values[1])]


def minus(values: Sequence[int]) -> list[tuple[str, int]]:
    """a - b"""
    return [(f"{values[0]} - {values[1]}", values[0] - values[1])]


METHOD_WORDINGS: Templates = (
    ("We ", 0, " the two values."),
    ("Here we have to ", 0, "."),
    ("The question asks us to ", 0, "."),
)


def say_method(true: str, false: str) -> Callable[[Random, bool], Step]:
    """Statements of the operation to use, e.g. `add` where the question asks for a total."""

    def say(rng: Random, wrong: bool) -> Step:
        return fill(rng, METHOD_WORDINGS, (Claim(false if wrong else true, true),), "method")

    return say


CONCLUDE_WORDINGS: Templates = (("The answer is ", 0, "."), ("So the answer is ", 0, "."), ("Final answer: ", 0, "."))


def say_answer(rng: Random, claim: Claim) -> Step:
    """The last step of a solution."""
    return fill(rng, CONCLUDE_WORDINGS, (claim,), "conclude")


def held_out_pair(first: int, second: int) -> bool:
    """Whether a combination of numbers belongs to the held-out set (a fifth of all)."""
    return (3 * first + second) % 5 == 0


def pick_pair(rng: Random, values: Sequence[int], held_out: bool) -> tuple[int, int] | None:
    """Two different positions whose values are a held-out combination, or are not one; None if there are no such
    two."""
    pairs = [
        (i, j)
        for i, first in enumerate(values)
        for j, second in enumerate(values)
        if i != j and held_out_pair(first, second) == held_out
    ]
    return rng.choice(pairs) if pairs else None


def sum_and_difference(
    readings: tuple[Reading, Reading], how_many: str, how_many_more: str, extras: tuple[FactMaker, ...]
) -> list[Problem]:
    """The two questions about two values: their sum, and, where the first is larger, how much larger it is."""
    first, second = (reading.true for reading in readings)
    total = Recipe(
        question=how_many,
        readings=readings,
        combine=plus,
        swap=minus,
        conclude=say_answer,
        method=say_method("add", "subtract"),
        extras=extras,
    )
    if first <= second:
        return [problem(total)]
    difference = Recipe(
        question=how_many_more,
        readings=readings,
        combine=minus,
        swap=plus,
        conclude=say_answer,
        method=say_method("subtract", "add"),
        accept=lambda stated: stated[0] > stated[1],
        extras=extras,
    )
    return [problem(total), problem(difference)]
