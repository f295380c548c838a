"""Final answers compared. How they are taken from a response's text: final_answers.py.

Mathematical answers are compared by math-verify (SymPy underneath: 1/2 equals 0.5), option letters as letters, and
everything else as normalised text.
"""

from __future__ import annotations

import logging
import re
import threading
from functools import lru_cache
from typing import Any

from vprm_benchmarks.evaluation.answer_values import AnswerList, interval_of, list_in, number_in_words
from vprm_benchmarks.evaluation.final_answers import cleaned, final_answer, labelled_answer
from vprm_runtime.extras import import_optional

__all__ = ["AnswerJudge", "final_answer", "labelled_answer"]

PARSE_SECONDS = 3
"""Limit for one expression: math-verify stops itself by a signal, which only a main thread may use."""

_LABELLED = re.compile(r"(?:option|choice)?\s*\(?([a-j])(?:\)|[.:,)]|\))\s*(.*)", re.DOTALL)
_OPTION = re.compile(r"(?:(?:the\s+)?(?:option|choice|figure|选项)\s*)?\(?([a-j])\)?")
_OPTIONS = re.compile(r"\(?[a-j]\)?(?:\s*(?:,|，|、|and|&)\s*\(?[a-j]\)?)+")
_ARTICLE = re.compile(r"(?:a|an|the)\s+(?=[a-z]{2})")
_UNITS = re.compile(r"\s*(?:(?:square|cubic)?\s*units?|(?<=\d)\s*(?:[mck]?m|in|ft|yd))(?:\s*\^?\{?[23]\}?)?$")
_UNIT = re.compile(r"(?<=[\d.)}])\s*(k|c|d|m|μ)?(m|g|l|s)(?:\s*\^?\{?([23])\}?)?$")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-zA-Z]))")
_SIGNS = {
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "π": "\\pi ", "∞": "\\infty ", "²": "^2", "³": "^3",
    "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}",
    "，": ",", "：": ":", "（": "(", "）": ")", "≤": "\\le ", "±": "\\pm ", "≥": "\\ge ", "°": "",
}  # fmt: skip
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B)}  # digits and letters of Chinese texts
_WRAPPED = re.compile(r"\[\s*['\"]([^'\"]+)['\"]\s*\]|\[([a-j])\]|\{([a-j])\}", re.IGNORECASE)  # MMMU: ['B']
_CALLED_ROOT = re.compile(r"(?<!\\)\bsqrt\s*\(([^()]*)\)", re.IGNORECASE)
_MIXED = re.compile(r"(-?)(\d+)\s*(?:(?<=\s)(\d+)/(\d+)|\\frac\s*\{(\d+)\}\s*\{(\d+)\})")
_POWER_OF_TEN = re.compile(r"(-?\d+(?:\.\d+)?)e\+?(-?\d+)", re.IGNORECASE)
_SHAPE = re.compile(r"(?:\\angle|∠|\\triangle|△|\b(?:angle|triangle)\b)\s*(?=[a-z]{1,4}$)", re.IGNORECASE)
_SUM = re.compile(r"(?=.*[a-z])(?:\d+(?:\.\d+)?[a-z]?|[a-z])(?:\s*[-+*/]\s*(?:\d+(?:\.\d+)?[a-z]?|[a-z]))+")
_MEMBER = re.compile(r"^[a-z]\s*(?:\\in\b|∈)\s*(?=[(\[{\\])")  # x in an interval or a set: the interval or the set
_WORD = re.compile(r"(?<![\\a-z])[a-z]{2,}")  # no LaTeX command
_NUMBER = re.compile(r"(?<![\d.^{_])\d+(?:\.\d+)?")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°|\s+degrees?\b", re.IGNORECASE)


class AnswerJudge:
    """Decides whether two answers are the same. Raises MissingExtraError if math-verify is not installed."""

    def __init__(self) -> None:
        self._math = import_optional("math_verify", "comparing answers", "eval")
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._seconds = PARSE_SECONDS if threading.current_thread() is threading.main_thread() else None
        self._parsed = lru_cache(maxsize=4096)(self._parse)
        self._compared = lru_cache(maxsize=65536)(self._compare)

    def same(self, expected: str, given: str) -> bool:
        """Whether the answer `given` is the answer `expected`; what cannot be told is not the same."""
        return self.verdict(expected, given) is True

    def verdict(self, expected: str, given: str) -> bool | None:
        """The same, with None if it cannot be told: "5, 7" and "7, 5", or words with several numbers in them."""
        units = [match.groups()[:2] for text in (expected, given) if (match := _UNIT.search(_plain(text).lower()))]
        if len(set(units)) > 1:
            return False  # 12 m and 12 cm
        verdict: bool | None = self._compared(_normalised(expected), _normalised(given))
        return verdict

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

    def _compare(self, expected: str, given: str) -> bool | None:
        if _tight(expected) == _tight(given):
            return True
        wanted, found = _letters(expected), _letters(given)
        if wanted and found:
            return wanted == found
        for several, one in ((wanted, given), (found, expected)):  # "a, c" and "ac"
            if len(several) > 1 and several == "".join(sorted(one)):
                return True
        for label, text, other in (*_labelled(expected, given), *_labelled(given, expected)):
            if _letters(other) and not _OPTIONS.fullmatch(other):
                return label == _letters(other)
            if text and self.same(text, other):
                return True
        if wanted and len(wanted) == 1:
            return False
        values, others = list_in(expected), list_in(given)
        if values is not None and others is not None:
            return self._compare_lists(values, others)
        if any(some is not None and some.is_unordered for some in (values, others)):
            return False  # one value is not several
        if expected != given and expected.rstrip("!") == given.rstrip("!"):
            return None  # a factorial, or an exclamation
        if _is_prose(expected) or _is_prose(given):
            return None  # math-verify would take one of the numbers
        gold, answer = self._parsed(expected), self._parsed(given)
        if not gold or not answer:
            return False
        return bool(self._math.verify(list(gold), list(answer), timeout_seconds=self._seconds))

    def _compare_lists(self, wanted: AnswerList, found: AnswerList) -> bool | None:
        if len(wanted.values) != len(found.values):
            return False
        if all(self.same(one, other) for one, other in zip(wanted.values, found.values, strict=True)):
            return True
        left = list(found.values)
        for value in wanted.values:
            match = next((other for other in left if self.same(value, other)), None)
            if match is None:
                return False
            left.remove(match)
        return True if wanted.is_unordered or found.is_unordered else None

    def _parse(self, text: str) -> tuple[Any, ...]:
        """SymPy values of an answer; empty if it is not mathematics."""
        is_formula = any(sign in text for sign in "\\^!") or _SUM.fullmatch(text) is not None
        expression = f"${text}$" if is_formula else text
        return tuple(self._math.parse(expression, parsing_timeout=self._seconds))


def _is_prose(text: str) -> bool:
    """Whether a normalised answer is words with several numbers among them: "between 5 and 6", "1 hour 30 minutes"."""
    return _WORD.search(text) is not None and len(set(_NUMBER.findall(text))) > 1


def _letters(text: str) -> str:
    """The options that a normalised text names: "b" for "(b)", "ac" for "a, c" and "a and c"; else ""."""
    if option := _OPTION.fullmatch(text):
        return option[1]
    if _OPTIONS.fullmatch(text):
        return "".join(sorted(re.findall(r"(?<![a-z])[a-j](?![a-z])", text)))
    return ""


def _labelled(text: str, other: str) -> list[tuple[str, str, str]]:
    """(label, text after it, other) if a text is an option with its label, such as "(c) 14" or "a. 55"."""
    found = _LABELLED.fullmatch(text)
    return [(found[1], found[2].strip(), other)] if found else []


def _tight(text: str) -> str:
    """Without blanks beside brackets, commas, colons and signs: (1, 2) and (1,2) are one answer."""
    return re.sub(r"\s*([()\[\]{},:;=+*/^<>-])\s*", r"\1", _ARTICLE.sub("", text))


def _plain(text: str) -> str:
    """An answer without a box, brackets or quotes around it, LaTeX's text commands and blanks, and full-width signs."""
    plain = cleaned(text).translate(_FULL_WIDTH)
    if plain.startswith("\\boxed{") and plain.endswith("}"):
        plain = cleaned(plain[len("\\boxed{") : -1])
    if wrapped := _WRAPPED.fullmatch(plain):
        plain = next(part for part in wrapped.groups() if part)
    plain = _LATEX_TEXT.sub(r"\1", plain).replace("\\left", "").replace("\\right", "")
    return plain.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\!", "").replace("\\ ", " ")


def _improper(mixed: re.Match[str]) -> str:
    """1 1/2 as a single fraction."""
    sign, whole = mixed[1], int(mixed[2])
    above, below = int(mixed[3] or mixed[5]), int(mixed[4] or mixed[6])
    return f"{sign}\\frac{{{whole * below + above}}}{{{below}}}"


def _normalised(text: str) -> str:
    """What comparison goes by: no degree signs, units, names of shapes or capitals; signs and numbers as LaTeX."""
    plain = _SHAPE.sub("", _DEGREES.sub("", _plain(text)))
    plain = _CALLED_ROOT.sub(r"\\sqrt{\1}", plain)
    plain = _POWER_OF_TEN.sub(r"\1\\times 10^{\2}", plain) if _POWER_OF_TEN.fullmatch(plain) else plain
    plain = _improper(mixed) if (mixed := _MIXED.fullmatch(plain)) else plain
    plain = _ROOT.sub(lambda found: f"\\sqrt{{{found[1] or found[2]}}}", plain)
    for sign, latex in _SIGNS.items():
        plain = plain.replace(sign, latex)
    plain = _MEMBER.sub("", _UNITS.sub("", " ".join(plain.split()).lower()).strip())
    if (interval := interval_of(plain)) is not None:
        return interval
    number, blank, noun = plain.rpartition(" ")
    counted = number_in_words(number) if noun.isalpha() else None  # "twelve apples"
    return number_in_words(plain) or (plain if counted is None else f"{counted}{blank}{noun}")
