"""The answer that a response ends with, taken from its text, in English or Chinese."""

from __future__ import annotations

import re

from vprm_runtime.prompt.builder import Response

_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.IGNORECASE | re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'*(])|(?<=[。！？])|\n")
_MARKER = re.compile(
    r"(?:\b(?:answer|correct (?:option|choice)|right (?:option|choice))\**\s*"
    r"(?:(?:would|should|must|will)\s+be|(?:is|are)\b|[:：=])+|"
    r"(?:答案|正确选项)\s*(?:应该是|应为|应是|[是为:：=])+)\s*[:：]?\s*",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    r"(?:(?i:\b(?:must be|should be|is|choose|select|pick)\s+(?:the\s+)?(?:option|choice|answer)\s*|"
    r"\b(?:choose|select|pick)\s+)|(?:故|应|因此|所以|答案)?选(?:择|项)?\s*[:：]?\s*)[(（]?([A-J])(?![A-Za-z])"
)
_LAST_IS = re.compile(r".*(?:\bis\b|\bare\b|\bequals\b|=)\s*(.+)", re.IGNORECASE | re.DOTALL)
_OPTION_START = re.compile(r"(?:option|choice|选项)?\s*[(（]?([A-J])[)）]?\**(?![A-Za-z0-9'’])")
_REASON = re.compile(
    r"[,，;；]?\s*(?:\b(?:because|since|which|as (?:it|we|the|shown|this)|due to|given that|so that)\b|因为|由于)",
    re.IGNORECASE,
)
_AFTER_OPTION = re.compile(
    r"\s*(?:$|[,，;；—–-]|(?:and|but|as|which|because|since|where|with|for|due|is|given)\b|因为|由于)"
)
_YES_OR_NO = re.compile(r"(yes|no)\b\s*[,.;:]", re.IGNORECASE)
_AROUND = '*_`$"“” \t'
_NEGATED = re.compile(r"(?:not\b|不是)(?:[^,;，；]*?[,;，；]?\s*(?:\bbut\b|而是)\s*(.+))?", re.IGNORECASE)


def final_answer(response: Response) -> str | None:
    r"""The answer that a response ends with, or None if it has no text.

    Looked for in this order: the last \boxed{...}; the last <answer>; what follows "answer is", "answer:" or "答案"
    in the last sentence that has it; the option in "choose B" or "故选B"; what follows the last "is" or "=" of the last
    line; the last line. Reasons that follow an answer ("B because ...") are cut off.
    """
    text = response if isinstance(response, str) else "\n".join(str(step) for step in response)
    boxed = _last_boxed(text)
    if boxed is not None:
        return cleaned(boxed)
    if tagged := [match for match in _TAGGED.findall(text) if cleaned(match)]:
        return _without_reason(cleaned(tagged[-1]))
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    for sentence in reversed(sentences):
        if answer := _marked(sentence):
            return answer
    for sentence in reversed(sentences):
        if choice := _CHOICE.search(sentence):
            return choice[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    after = _LAST_IS.match(lines[-1])
    return _without_reason(cleaned(after[1] if after and cleaned(after[1]) else lines[-1])) or None


def _marked(sentence: str) -> str | None:
    """What follows the first marker of a sentence that anything follows, unless it says what the answer is not."""
    for marker in _MARKER.finditer(sentence):
        answer = cleaned(sentence[marker.end() :])
        if negated := _NEGATED.match(answer):  # "not A" says nothing, "not A but B" says B
            answer = cleaned(negated[1] or "")
        if answer:
            return _without_reason(answer)
    return None


def _without_reason(answer: str) -> str:
    """ "B" for "B because A is wrong", "5" for "5 since 2 + 3 = 5", "No" for "No, it is not"."""
    option = _OPTION_START.match(answer)
    if option and _AFTER_OPTION.match(answer[option.end() :]) and not _is_list(answer):
        return option[1]
    if said := _YES_OR_NO.match(answer):
        return said[1]
    return cleaned(_REASON.split(answer, maxsplit=1)[0]) or answer


def _is_list(answer: str) -> bool:
    """Whether an answer is several options, such as "A, C" or "A and C"."""
    return re.fullmatch(r"[(（]?[A-J][)）]?(?:\s*(?:,|，|、|and|&)\s*[(（]?[A-J][)）]?)+", answer) is not None


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


def cleaned(text: str) -> str:
    """Without the marks around an answer: Markdown, dollar signs, LaTeX's inline brackets, a closing full stop."""
    plain = text.strip().removeprefix("\\(").removesuffix("\\)")
    return plain.strip(_AROUND).rstrip(".。").strip(_AROUND)
