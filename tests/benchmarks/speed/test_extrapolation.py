"""Lines through two depths: exact on lines, an error bar from the rounds, errors in place of nonsense."""

from __future__ import annotations

import pytest

from vprm_benchmarks.speed.extrapolation import Depths, extrapolated

DEPTHS = Depths(half=2, full=4, wanted=32)


def test_a_line_is_followed() -> None:
    found = extrapolated(DEPTHS, [3.0] * 3, [5.0] * 3)
    assert (found.seconds, found.low_s, found.high_s) == (33.0, 33.0, 33.0)


def test_one_bad_round_moves_the_error_bar_and_not_the_figure() -> None:
    found = extrapolated(DEPTHS, [3.0, 3.0, 3.0], [5.0, 5.0, 9.0])
    assert found.seconds == 33.0
    assert found.low_s == 33.0 and found.high_s > 60


def test_vision_and_language_add_up() -> None:
    both = extrapolated(DEPTHS, [3.0] * 3, [5.0] * 3) + extrapolated(Depths(1, 2, 24), [1.0] * 3, [1.5] * 3)
    assert both.seconds == 33.0 + 12.5


@pytest.mark.parametrize(
    ("half", "full", "message"),
    [
        ([5.0, 5.0, 5.0], [4.0, 4.0, 4.0], "4 layers took 4 s and 2 took 5 s"),
        ([5.0, 5.0, 5.0], [5.0, 5.0, 5.0], "the machine was too busy"),
        ([3.0], [5.0], "1 rounds are too few"),
    ],
)
def test_noise_is_an_error_and_no_figure(half: list[float], full: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extrapolated(DEPTHS, half, full)
