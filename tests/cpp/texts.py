"""Texts that tokenizers stumble over, without end: words, code, numbers, marks, every script, broken markup."""

from __future__ import annotations

import random
from collections.abc import Iterator

WORDS = (
    "the angle is",
    "So 90 - 39 = 51.",
    "don't WE'LL they'Re I'M 'S",
    "x^2+y^2",
    "\\frac{1}{2}",
    "答案：",
    "Straße",
    "naïve",
)
SPACES = (" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "\x1f", "\u180e", "\u200b")
MARKUP = (
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"),
    *(
        "<s>",
        "</s>",
        "<unk>",
        "[UNUSED_TOKEN_146]",
        "<|endoftext|>",
        "<prm>",
        "<|im_",
        "<im",
        "<0x0A>",
        "<image>",
        "▁",
        "Ġ",
    ),
)
ODD = (
    "ſ",
    "K",
    "'ſ",
    "ﬁ",
    "ﬆ",
    "e\u0301",
    "\u0301",
    "\u1dce\u0328",  # the only mark of its class
    "\u0344",
    "각",
    "\u1100\u1161\u11a8",
    "\ufeff",
    "\0",
    "🙂👩‍👧",
    "½",
    "Ⅷ",
    "٣",
)


def any_character(random: random.Random) -> str:
    """A character of any plane, often a mark or a small letter of the Latin scripts."""
    kind = random.random()
    if kind < 0.3:
        return chr(random.randrange(0x300, 0x370))
    if kind < 0.6:
        return chr(random.randrange(0x20, 0x250))
    code = random.randrange(0x110000 if kind < 0.7 else 0x3000)
    return chr(code) if not 0xD800 <= code < 0xE000 else "?"


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """That many texts; the same for a seed."""
    source = random.Random(seed)
    for _ in range(count):
        parts = []
        for _ in range(source.randrange(1, 9)):
            kind = source.randrange(8)
            if kind < 5:
                parts.append(source.choice((WORDS, SPACES, MARKUP, ODD, WORDS)[kind]))
            elif kind == 5:
                parts.append(str(source.randrange(10 ** source.randrange(1, 12))))
            else:
                parts.append("".join(any_character(source) for _ in range(source.randrange(1, 7))))
        yield "".join(parts)
