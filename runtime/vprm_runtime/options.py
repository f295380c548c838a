"""What a caller may choose, apart from the bundle: what decides tiles and prefix, and what decides the answer."""

from dataclasses import dataclass
from numbers import Integral

from vprm_runtime.errors import InputError, quoted
from vprm_runtime.execution.aggregate import AGGREGATES, Aggregate

MAX_TILES_LIMIT = 256  # far above any trained setting; a guard against typing errors
MODEL_CARD_MAX_STEPS = 12
"""`max_steps` of `select_best_response` and `vprm eval best-of-n`, as VisualPRM's model card has it. Everywhere else
the default is no limit, as in the model's own scoring call."""


def check_max_tiles(max_tiles: int | None) -> int | None:
    """The tiles per image at most; None is the bundle's own limit. Raises InputError if it is out of range."""
    if max_tiles is not None and (not _is_integer(max_tiles) or not 1 <= max_tiles <= MAX_TILES_LIMIT):
        raise InputError(
            f"max_tiles must be between 1 and {MAX_TILES_LIMIT}, an integer, got {quoted(repr(max_tiles))}"
        )
    return max_tiles


def _is_integer(value: object) -> bool:
    """A Python or NumPy integer; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class ResponseOptions:
    """What decides the scores of a response to a prefix that was run already.

    max_steps: join consecutive steps so that a response has at most this many (None: no limit).
    aggregate: how step scores become a response score.
    step_separator: where a response in one string is split (None: where the model's own code does, at blank lines).
    drop_empty_steps: leave out steps without text, which the model's own code scores.
    """

    max_steps: int | None = None
    aggregate: Aggregate = "mean"
    step_separator: str | None = None
    drop_empty_steps: bool = False

    def __post_init__(self) -> None:
        if self.step_separator is not None and (not isinstance(self.step_separator, str) or not self.step_separator):
            raise InputError(f"step_separator must be a text, got {self.step_separator!r}: such as '\\n'")
        if self.max_steps is not None and (not _is_integer(self.max_steps) or self.max_steps < 1):
            raise InputError(f"max_steps must be at least 1, an integer, got {quoted(repr(self.max_steps))}")
        if self.aggregate not in AGGREGATES:
            raise InputError(f"unknown aggregate {quoted(repr(self.aggregate))}: use one of {', '.join(AGGREGATES)}")


@dataclass(frozen=True)
class ScoreOptions:
    """All options of scoring together, for calls that take many rows.

    max_steps: join consecutive steps so that a response has at most this many (None: no limit).
    max_tiles: tiles per image at most, thumbnail not counted (None: the bundle's limit).
    aggregate: how step scores become a response score.
    step_separator, drop_empty_steps: how a response becomes steps, see ResponseOptions.
    """

    max_steps: int | None = None
    max_tiles: int | None = None
    aggregate: Aggregate = "mean"
    step_separator: str | None = None
    drop_empty_steps: bool = False

    def __post_init__(self) -> None:
        check_max_tiles(self.max_tiles)
        self.responses  # noqa: B018  checks the rest

    @property
    def responses(self) -> ResponseOptions:
        """The part that decides the scores of a response."""
        return ResponseOptions(self.max_steps, self.aggregate, self.step_separator, self.drop_empty_steps)


DEFAULT_OPTIONS = ScoreOptions()
