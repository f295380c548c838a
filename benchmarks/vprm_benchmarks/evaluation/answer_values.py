"""Answers that are several values, and numbers that are written as words, in English or Chinese."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SEPARATOR = re.compile(r"\s*(?:[,，、;；]\s*(?:(?:and|or)\b|和|或)?|\b(?:and|or)\b|&|和|以及|或者?)\s*")
_CONJUNCTION = re.compile(r"\b(?:and|or)\b|&|和|以及|或")
_PLUS_MINUS = re.compile(r"((?:[a-z]\s*=\s*)?)\\pm\s*(\S+)")
_CHAIN = re.compile(r"([-+]?[\d./]+)\s*(<=?|\\leq?\b)\s*[a-z]\s*(<=?|\\leq?\b)\s*([-+]?[\d./]+)")
_THOUSANDS = re.compile(r"[-+]?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_VALUE = re.compile(
    r"(?:[a-z]\s*=\s*)?[-+]?(?:\d+(?:[./]\d+)?|\\frac\{[^{}]*\}\{[^{}]*\}|[a-z]{2,}|\d*\\sqrt\{[^{}]*\})%?"
)
_BRACES = re.compile(r"\\?\{(.*?)\\?\}")
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: number for number, word in enumerate(_UNITS)} | {word: 20 + 10 * n for n, word in enumerate(_TENS)}
_SCALES = {"hundred": 100, "thousand": 1000}
_CHINESE = {sign: number for number, sign in enumerate("零一二三四五六七八九")} | {"两": 2}
_CHINESE_SCALES = {"十": 10, "百": 100}


@dataclass(frozen=True)
class AnswerList:
    """Several values. `is_unordered` if the text says so: by "and", or by the braces of a set."""

    values: tuple[str, ...]
    is_unordered: bool


def list_in(text: str) -> AnswerList | None:
    """The values of a normalised answer that is a bare list or a set of numbers or words; None if it is neither."""
    braces = _BRACES.fullmatch(text)
    inner = braces[1] if braces else text
    if _THOUSANDS.fullmatch(inner):
        return None
    if both := _PLUS_MINUS.fullmatch(inner):
        return AnswerList((f"{both[1]}{both[2]}", f"{both[1]}-{both[2]}"), True)
    values = tuple(_SEPARATOR.split(inner))
    if len(values) < 2 or not all(_VALUE.fullmatch(value) for value in values):
        return None
    return AnswerList(values, braces is not None or _CONJUNCTION.search(inner) is not None)


def interval_of(text: str) -> str | None:
    """The interval that a normalised chain such as "1<x<=2" stands for, "(1,2]"; None if it is none."""
    chain = _CHAIN.fullmatch(text)
    if chain is None:
        return None
    low, high = ("(" if chain[2] == "<" else "["), (")" if chain[3] == "<" else "]")
    return f"{low}{chain[1]},{chain[4]}{high}"


def number_in_words(text: str) -> str | None:
    """The digits of a normalised text that is a number in words, "twenty-five" or "十二"; None if it is none."""
    if text and all(sign in _CHINESE or sign in _CHINESE_SCALES for sign in text):
        return str(_chinese(text))
    words = [word for word in re.split(r"[\s-]+", text) if word != "and"]
    if not words or not all(word in _WORDS or word in _SCALES for word in words) or words[0] in _SCALES:
        return None
    total = part = 0
    for word in words:
        if word == "thousand":
            total, part = total + part * 1000, 0
        elif word == "hundred":
            part *= 100
        elif part % 100 and not (part % 10 == 0 and part % 100 >= 20 and _WORDS[word] < 10):
            return None  # "five seven" is no number
        else:
            part += _WORDS[word]
    return str(total + part)


def _chinese(text: str) -> int:
    total = digit = 0
    for sign in text:
        if sign in _CHINESE_SCALES:
            total, digit = total + (digit or 1) * _CHINESE_SCALES[sign], 0
        else:
            digit = _CHINESE[sign]
    return total + digit
