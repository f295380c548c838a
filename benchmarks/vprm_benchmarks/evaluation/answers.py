"""Final answers: taken from a response's text, and compared.

Mathematical answers are compared by math-verify (SymPy underneath: 1/2 equals 0.5), option letters as letters, and
everything else as normalised text.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from functools import lru_cache
from typing import Any

from vprm_runtime import MissingExtraError
from vprm_runtime.prompt.builder import Response

PARSE_SECONDS = 3
"""Limit for one expression: math-verify stops itself by a signal, which only a main thread may use."""

_MARKED = re.compile(r"answer\**\s*(?:is|[:：=])+\s*(.+)", re.IGNORECASE)
_BEHIND = re.compile(r".*(?:\bis\b|\bare\b|\bequals\b|=)\s*(.+)", re.IGNORECASE | re.DOTALL)
_OPTION = re.compile(r"(?:option\s*)?\(?([A-Z])\)?(?:[.):,]\s.*)?", re.IGNORECASE | re.DOTALL)
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°|\s+degrees?\b", re.IGNORECASE)


def final_answer(response: Response) -> str | None:
    """The answer that a response ends with, or None where it has no text.

    Looked for in this order: the last \\boxed{...}; the last text behind "answer is" or "answer:"; what stands behind
    the last "is" or "=" of the last line; the last line.
    """
    text = response if isinstance(response, str) else "\n".join(str(step) for step in response)
    boxed = _last_boxed(text)
    if boxed is not None:
        return _cleaned(boxed)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [match[1] for match in map(_MARKED.search, lines) if match and _cleaned(match[1])]
    if marked:
        return _cleaned(marked[-1])
    if not lines:
        return None
    behind = _BEHIND.match(lines[-1])
    return _cleaned(behind[1] if behind and _cleaned(behind[1]) else lines[-1]) or None


class AnswerJudge:
    """Decides whether two answers are the same. Raises MissingExtraError where math-verify is not installed."""

    def __init__(self) -> None:
        try:
            self._math: Any = importlib.import_module("math_verify")
        except ImportError as error:
            raise MissingExtraError("comparing answers", "eval") from error
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._seconds = PARSE_SECONDS if threading.current_thread() is threading.main_thread() else None
        self._parsed = lru_cache(maxsize=4096)(self._parse)
        self._compared = lru_cache(maxsize=65536)(self._compare)

    def same(self, expected: str, given: str) -> bool:
        """Whether the answer `given` is the answer `expected`."""
        return bool(self._compared(_normalised(expected), _normalised(given)))

    def classes(self, answers: list[str | None]) -> list[int | None]:
        """A number for each answer, equal for the same answers, in order of first appearance; None stays None."""
        first: list[str] = []
        result: list[int | None] = []
        for answer in answers:
            if answer is None:
                result.append(None)
                continue
            found = next((n for n, known in enumerate(first) if self.same(known, answer)), None)
            if found is None:
                first.append(answer)
                found = len(first) - 1
            result.append(found)
        return result

    def _compare(self, expected: str, given: str) -> bool:
        if expected == given:
            return True
        if re.fullmatch(r"[a-j]", expected):
            option = _OPTION.fullmatch(given)
            return option is not None and option[1].lower() == expected
        gold, answer = self._parsed(expected), self._parsed(given)
        if not gold or not answer:
            return False
        return bool(self._math.verify(list(gold), list(answer), timeout_seconds=self._seconds))

    def _parse(self, text: str) -> tuple[Any, ...]:
        """SymPy values of an answer; empty where it is not mathematics."""
        expression = f"${text}$" if "\\" in text or "^" in text else text
        return tuple(self._math.parse(expression, parsing_timeout=self._seconds))


def _last_boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return text[begin:position]
    return text[begin:]


def _cleaned(text: str) -> str:
    """Without the marks around an answer: Markdown, dollar signs, a closing full stop."""
    return text.strip().strip("*_`$ \t").rstrip(".。").strip("*_`$ \t")


def _normalised(text: str) -> str:
    """What comparison as text goes by: no LaTeX text commands, degree signs, blanks or capitals."""
    plain = _LATEX_TEXT.sub(r"\1", _cleaned(text)).replace("\\left", "").replace("\\right", "")
    plain = _DEGREES.sub("", plain.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\!", ""))
    plain = " ".join(plain.split())
    option = re.fullmatch(r"\(([A-Ja-j])\)", plain)
    return (option[1] if option else plain).lower()
