"""Write `src/text/unicode_tables.inc`: what the `tokenizers` library takes for letters, numbers, white space and NFC.

Every code point is put through the library itself, so the C++ tokenizer has its Unicode, whichever version that is.
Run as  python runtime/cpp/tools/unicode_tables.py > runtime/cpp/src/text/unicode_tables.inc
"""

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Regex, normalizers, pre_tokenizers

CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # composed by rule, not by table
_NFC, _NFD = normalizers.NFC(), normalizers.NFD()
_BETWEEN = "\n"  # a starter that composes with nothing


def class_of(pattern: str) -> list[int]:
    """Code points that match a pattern of one character."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    found = []
    for first in range(0, len(CHARACTERS), 4096):
        # A separator of the other class on both sides keeps matches apart.
        for character in CHARACTERS[first : first + 4096]:
            pieces = split.pre_tokenize_str(character + character)
            if len(pieces) == 2:
                found.append(ord(character))
    return found


def mapped(texts: Iterable[str], normalise: Callable[[str], str]) -> list[str]:
    """Normalised texts, many in one call."""
    given = list(texts)
    results: list[str] = []
    for first in range(0, len(given), 4096):
        part = given[first : first + 4096]
        results += normalise(_BETWEEN.join(part)).split(_BETWEEN)
    return results


def decompositions() -> dict[int, str]:
    """Full canonical decompositions other than those of Hangul syllables."""
    characters = [c for c in CHARACTERS if c != _BETWEEN and ord(c) not in HANGUL]
    return {ord(c): d for c, d in zip(characters, mapped(characters, _NFD.normalize_str), strict=True) if c != d}


def compositions(decomposed: dict[int, str]) -> Iterator[tuple[int, int, int]]:
    """(first, second, composite) of all pairs that NFC joins, other than Hangul."""
    for code, text in decomposed.items():
        if len(text) < 2:
            continue
        head, tail = _NFC.normalize_str(text[:-1]), text[-1]
        if len(head) == 1 and _NFC.normalize_str(head + tail) == chr(code):
            yield ord(head), ord(tail), code


def combining_classes() -> dict[int, int]:
    """Marks that are put in order, with a number that orders them as the library does."""
    references: dict[int, str] = {}
    for character in CHARACTERS:
        order = unicodedata.combining(character)
        if order and not unicodedata.decomposition(character) and unicodedata.ucd_3_2_0.combining(character) == order:
            references.setdefault(order, character)
    orders = sorted(references)
    low, high = references[orders[0]], references[orders[-1]]

    def swaps(first: Iterable[str], second: Iterable[str]) -> list[bool]:
        pairs = [a + b for a, b in zip(first, second, strict=True)]
        return [a != b for a, b in zip(pairs, mapped(pairs, _NFD.normalize_str), strict=True)]

    plain = [c for c in CHARACTERS if c != _BETWEEN and ord(c) not in HANGUL and _NFD.normalize_str(c) == c]
    after = swaps([high] * len(plain), plain)
    before = swaps(plain, [low] * len(plain))
    marks = [c for c, a, b in zip(plain, after, before, strict=True) if a or b]
    for mark in marks:  # classes that Unicode 3.2 had no mark of
        references.setdefault(unicodedata.combining(mark) or orders[0], mark)
    orders = sorted(references)
    classes = dict.fromkeys(map(ord, marks), 0)
    for order in orders:  # the highest reference that a mark does not come before
        for mark, is_before in zip(marks, swaps([references[order]] * len(marks), marks), strict=True):
            if not is_before:
                classes[ord(mark)] = order
    return classes


def ranges(codes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run."""
    start = last = -2
    for code in sorted(codes):
        if code != last + 1:
            if start >= 0:
                yield start, last
            start = code
        last = code
    if start >= 0:
        yield start, last


def _table(name: str, kind: str, rows: Iterable[str]) -> Iterator[str]:
    yield f"constexpr {kind} {name}[] = {{"
    line = ""
    for row in rows:
        if len(line) + len(row) > 110:
            yield f"    {line.rstrip()}"
            line = ""
        line += f"{row}, "
    yield f"    {line.rstrip()}"
    yield "};"


def lines() -> Iterator[str]:
    """The file."""
    yield "// Made by tools/unicode_tables.py from the `tokenizers` library; do not edit."
    classes = {"kLetters": r"\p{L}", "kNumbers": r"\p{N}", "kSpaces": r"\s"}
    for name, pattern in classes.items():
        yield from _table(name, "Range", (f"{{{a:#x}, {b:#x}}}" for a, b in ranges(class_of(pattern))))
    strip = [ord(c) for c in CHARACTERS if c.isspace()]
    yield "// What Python's str.strip() takes off."
    yield from _table("kPythonSpaces", "Range", (f"{{{a:#x}, {b:#x}}}" for a, b in ranges(strip)))
    decomposed = decompositions()
    texts = "".join(decomposed.values())
    starts, at = [], 0
    for code, text in sorted(decomposed.items()):
        starts.append((code, at, len(text)))
        at += len(text)
    texts = "".join(text for _, text in sorted(decomposed.items()))
    yield from _table("kDecompositions", "Decomposition", (f"{{{c:#x}, {s}, {n}}}" for c, s, n in starts))
    yield from _table("kDecomposed", "char32_t", (f"{ord(c):#x}" for c in texts))
    pairs = sorted(compositions(decomposed))
    yield from _table("kCompositions", "Composition", (f"{{{a:#x}, {b:#x}, {c:#x}}}" for a, b, c in pairs))
    marks = sorted(combining_classes().items())
    yield from _table("kCombiningClasses", "CombiningClass", (f"{{{c:#x}, {k}}}" for c, k in marks))


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lines())
