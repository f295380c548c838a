"""A response's steps: where a text is split, which steps are dropped, and when splitting probably went wrong."""

import re
from collections.abc import Iterable

from vprm_runtime.errors import InputError
from vprm_runtime.inputs import response_of
from vprm_runtime.prompt.builder import Response
from vprm_runtime.prompt.score_rule import ScoreRule

_WRITTEN_LIST = re.compile(r"\[\s*[\"'](?!\])")


def split_steps(
    response: Response,
    score_rule: ScoreRule,
    max_steps: int | None = None,
    separator: str | None = None,
    drop_empty: bool = False,
) -> list[str]:
    """Steps of a response: a list is taken as it is, a string splits on a separator.

    Args:
        response: a string, or a list of strings.
        score_rule: its joiner is the default separator, and joins steps again under `max_steps`.
        max_steps: with n > max_steps steps, groups of ceil(n / max_steps) consecutive steps are joined again.
        separator: split here instead. If it has line breaks, "\\r\\n" in the response counts as "\\n".
        drop_empty: leave out steps without text, which the original scores.

    Returns:
        At least one step.

    Raises:
        InputError: no steps are left, a step is no string, or an argument is out of range.
    """
    given = response_of(response)
    if not isinstance(given, str | list):
        raise InputError(f"a response is a string or a list of strings, got {type(given).__name__}")
    steps = _split(given, score_rule, separator) if isinstance(given, str) else given
    for step in steps:
        if not isinstance(step, str):
            raise InputError(f"a response is a string or a list of strings, got a step of {type(step).__name__}")
    if drop_empty:
        steps = [step for step in steps if step.strip()]
    if not steps:
        empty = " with text" if drop_empty else ""
        raise InputError(f"the response has no steps{empty}: give a string or a list with at least one step")
    if max_steps is None:
        return steps
    if max_steps < 1:
        raise InputError(f"max_steps must be at least 1, got {max_steps}")
    size = -(-len(steps) // int(max_steps))
    return [score_rule.step_joiner.join(steps[i : i + size]) for i in range(0, len(steps), size)]


def _split(text: str, score_rule: ScoreRule, separator: str | None) -> list[str]:
    if separator is None:
        return text.split(score_rule.step_joiner)
    if not separator:
        raise InputError("step_separator is empty: give the text between two steps")
    if "\n" not in separator:
        return text.split(separator)
    return text.replace("\r\n", "\n").split(separator.replace("\r\n", "\n"))


def _is_written_list(text: str) -> bool:
    """Whether a text is a list of texts as JSON or Python writes it: a column of lists that went through a CSV file."""
    return _WRITTEN_LIST.match(text) is not None and text.endswith(('"]', "']"))


class SplittingWatch:
    """Notices that every response is one step although it has line breaks: then a score is of the whole response."""

    def __init__(self) -> None:
        self._responses = self._with_breaks = self._with_escapes = self._as_json = 0
        self._is_split = False

    def add(self, responses: Iterable[object], step_counts: Iterable[int]) -> None:
        """Take note of responses and of how many steps they were split into; 0 for one without scores."""
        for response, steps in zip(responses, step_counts, strict=True):
            given = response_of(response)
            if not isinstance(given, str) or steps == 0:
                self._is_split = self._is_split or steps > 1
                continue
            text = given.strip()
            self._responses += 1
            self._is_split = self._is_split or steps > 1
            self._with_breaks += "\n" in text
            self._with_escapes += "\\n\\n" in text
            self._as_json += _is_written_list(text)

    @property
    def warning(self) -> str | None:
        """What to tell a user; None if nothing is odd."""
        if self._as_json:
            return (
                f"{self._as_json} responses look like lists written as text and are scored as they are: give lists, or "
                "the texts inside (in a table, read the column with json.loads)"
            )
        if self._is_split or not self._responses:
            return None
        if self._with_breaks:
            return (
                "every response is one step although it has line breaks: steps are split at blank lines ('\\n\\n'). If "
                "steps are lines, set step_separator (--step-separator '\\n') and drop_empty_steps (--drop-empty-steps)"
            )
        if self._with_escapes:
            return (
                "every response is one step and has a backslash with an n instead of a line break: in a shell, write "
                "$'First.\\n\\nSecond.' for two steps"
            )
        return None
