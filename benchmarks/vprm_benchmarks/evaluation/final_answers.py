"""The answer that a response ends with, taken from its text, in English or Chinese."""

from __future__ import annotations

import json
import re

from vprm_runtime.prompt.builder import Response

_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.IGNORECASE | re.DOTALL)
_KEYED = re.compile(  # of JSON, or of Python's way to write it
    r"""["'](?:(?P<final>final|correct|right)[_ ]?)?(?:answer|(?P<choice>option|choice))["']\s*[:：]\s*"""
    r"""(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\[[^\]]*\]|[^\s,}\]][^,}\]\n]*)""",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'*(])|(?<=[。！？])|\n")
_MARKER = re.compile(
    r"(?:\b(?:answer|correct (?:option|choice)|right (?:option|choice))\**\s*"
    r"(?:(?:would|should|must|will)\s+be|(?=(?:is|are)n['’]t\b)|(?:is|are)\b(?!n['’]t)|[:：=])+"
    r"(?:[\s,]*\b(?:therefore|thus|hence|then|clearly|indeed|simply|just|exactly|actually|definitely|obviously|probably|"
    r"(?:most )?likely)\b,?)*|"
    r"(?:答案|正确选项)\s*(?:(?:应该是|应为|应是|[是为:：=])+|(?=并?不是)))\s*[:：]?\s*",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    r"(?:(?i:\b(?:must be|should be|is|choose|select|pick)\s+(?:the\s+)?(?:option|choice|answer)\s*|"
    r"\b(?:choose|select|pick|go(?:ing)? with|(?:final|my) choice\s*(?:is|:)|"
    r"it(?:['’]s| is)(?=\s+\(?[A-J]\)?\s*(?:[.,;!]|$)))\s*)|"
    r"应该?是\s*(?=[A-J](?:[。，,.]|$))|(?:故|应|因此|所以|答案)?选(?:择|项)?\s*[:：]?\s*)[(（]?([A-J])(?![A-Za-z])"
)
_IS_RIGHT = re.compile(
    r"(?:\b(?i:option|choice|answer)\s*)?[(（]?(?<![A-Za-z])([A-J])[)）]?\s*(?:"
    r"\b(?:is|must be|has to be|should be)\s+(?:(?:the|indeed|actually)\s+)*(?:correct|right)\b(?!\s+(?:only\s+)?if\b)|"
    r"才?是?(?:正确|对的)(?!吗))"
)
_EITHER = re.compile(
    r"either\b.*\bor\b.*|[(（]?[A-J][)）]?\s*(?:/|\bor\b|或者?)\s*(?:option\s+)?[(（]?[A-J][)）]?", re.IGNORECASE
)
_TURN = re.compile(
    r"\b(?:actually|wait|instead|correction|sorry|rather|however|on (?:second thought|reflection)|mistake)\b|"
    r"其实|不对|更正|等等",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:that(?:['’]s| is| was)|this is|I was) (?:wrong|incorrect|not (?:right|correct)|mistaken|a mistake)\b|"
    r"\bI(?:['’]ve| have)? (?:made (?:a|an) (?:\w+ )?(?:mistake|error)|miscalculated|misread|miscounted)\b|"
    r"\bcorrection\s*:|这是错的|我错了|我算错了",
    re.IGNORECASE,
)
_LAST_IS = re.compile(r".*(?:\bis\b|\bare\b|\bequals\b|=)\s*(.+)", re.IGNORECASE | re.DOTALL)
_OPTION_START = re.compile(r"(?:option|choice|选项)?\s*[(（]?([A-J])[)）]?\**(?![A-Za-z0-9'’])")
_REASON = re.compile(
    r"[,，;；]?\s*(?:\b(?:because|since|which|as (?:it|we|the|shown|this)|due to|given that|so that)\b|因为|由于)|"
    r"[,，;；]\s*(?:\b(?:not|rather than|instead of)\b|而?不是)",
    re.IGNORECASE,
)
_REJECTED = re.compile(  # "5 and not 6", "5 (not 6)", "5 rather than 6"
    r"\s*[(（,，;；]?\s*(?:(?:\b(?:and|but)\s+)?(?<!\\)\b(?:not|rather than|instead of)\b|而?不是|而非)",
    re.IGNORECASE,
)
_VALUE_START = re.compile(r"[(（]?(?:[A-J](?![A-Za-z])|(?:[A-Za-z]\s*=\s*)?[-+±−]?\s*[$\\√π\d])")
_CLAUSE = re.compile(
    r"\b(?:is|are|was|were|do|does|did|has|have|can|could|will|would|may|might|must)\b|\bor\s*$", re.IGNORECASE
)
_ONLY_SUPPOSED = re.compile(  # before "answer is": it says that of no answer
    r"\b(?:if|unless|suppose|supposing|assum(?:e|ing)|whether|doubt|unlikely|cannot (?:be sure|say|tell|conclude)|"
    r"(?:do|does|did)(?:n['’]t| not) (?:think|believe|know|say|mean)|"
    r"(?:is|was|am|['’]m)(?:n['’]t| not) (?:true|sure|certain|clear|likely|the case)|"
    r"(?:is|was) (?:false|wrong|incorrect))"
    r"(?:\s+(?:to (?:say|think|claim)|that|if|whether|the|this|our|my|your|final|correct|right))*\s*$|"
    r"(?:如果|若|假设|假如|是否|不认为|不确定)\s*(?:最终|正确|这个|你的)?\s*$",
    re.IGNORECASE,
)
_AFTER_OPTION = re.compile(
    r"\s*(?:$|[,，;；—–-]|(?:and|but|as|which|because|since|where|with|for|due|is|given)\b|因为|由于)"
)
_IS_THE_ANSWER = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b[, ]*)?(?:.{0,60}\bthat\s+)?(\S.{0,60}?)\s+is\s+(?:the|my|our)\s+"
    r"(?:final |correct )?answer\W*(?:\b(?:and |but )?(?:not|because|since)\b.*)?",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(r"(yes|no)\b\s*[,.;:]", re.IGNORECASE)
_AROUND = '*_`$"“” \t'
_EXCLAIMED = re.compile(r"(?:(?<=[A-Z])|(?<=[A-Za-z]{2}))!+$")  # not 5! and n!, which may be factorials
_TWO_BOXES = re.compile(r"\\f?boxed\{[^{}]*\}[^\w\\]*\b(?:or|或)\b[^\w\\]*\\f?boxed\{")
_NEGATED = re.compile(
    r"(?:not\b|(?:is|are)n['’]t\b|neither\b(?=.*\bnor\b)|并?不是)"
    r"(?:[^,;，；]*?[,;，；]?\s*(?:\bbut\b|\bit(?:['’]s| is)\b|而是)\s*(.+))?",
    re.IGNORECASE,
)
_SO_YES_OR_NO = re.compile(
    r".*[,;]\s*(?:so|thus|hence|therefore)\s*,?\s*(?:the answer is\s+)?(yes|no)\W*", re.IGNORECASE
)


def final_answer(response: Response) -> str | None:
    r"""The answer that a response ends with, or None if that cannot be told.

    Looked for in this order: the last \boxed{...}; the last <answer>; the value of "answer" in JSON, of "final_answer"
    before others; what follows "answer is", "answer:" or "答案"
    in the last sentence that has it, and the option in "B is correct", "choose B" or "故选B" in the last one that has
    that; a leading yes or no, or what follows the last "is" or "=", of the last line; the last line. Reasons that
    follow an answer ("B because ...") and what it is not ("5 and not 6") are cut off. What cannot be told: no text,
    "A or B", an answer that is asked about or only supposed ("if the answer is 5"), two values of "answer" in JSON, an
    answer that was taken back, or one that a later sentence contradicts without a word that turns to it ("actually").
    """
    text = response if isinstance(response, str) else "\n".join(str(step) for step in response)
    boxed = _last_boxed(text)
    if _TWO_BOXES.search(text):
        return None
    if boxed is not None:
        after = text[text.rfind(f"{{{boxed}") + len(boxed) + 1 :]
        return _option(after) if _option(after) and _TURN.search(after) else cleaned(boxed)
    if tagged := [match for match in _TAGGED.findall(text) if cleaned(match)]:
        return _without_reason(cleaned(tagged[-1]))
    is_json = text.lstrip().startswith(("{", "[", "```"))
    if keyed := [found for found in _KEYED.finditer(text) if is_json or found["final"] or not found["choice"]]:
        return _keyed(keyed)
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    if not sentences:
        return None
    marked = [(place, answer) for place, sentence in enumerate(sentences) if (answer := _marked(sentence))]
    options = [(place, option) for place, sentence in enumerate(sentences) if (option := _option(sentence))]
    if not marked and not options:
        return _of_last_line([line.strip() for line in text.splitlines() if line.strip()][-1])
    place, answer = marked[-1] if marked else options[-1]
    if options and options[-1][0] > place and options[-1][1] != answer:
        turns = any(_TURN.search(sentence) for sentence in sentences[place + 1 : options[-1][0] + 1])
        place, answer = options[-1] if turns else (place, "")
    taken_back = any(_TAKEN_BACK.search(sentence) for sentence in sentences[place + 1 :])
    return None if taken_back or _EITHER.fullmatch(answer) else answer or None


def labelled_answer(label: str) -> str:
    r"""The answer in a row's label: of one that is a whole response, \boxed{...} or JSON, what that answers."""
    is_response = any(found.search(label) for found in (_MARKER, _TAGGED, _KEYED)) or _last_boxed(label) is not None
    return (final_answer(label) if is_response else None) or label


def _option(sentence: str) -> str | None:
    """The option that a sentence names as right or chosen, the last one."""
    found = [*_IS_RIGHT.finditer(sentence), *_CHOICE.finditer(sentence)]
    return max(found, key=lambda match: match.start())[1] if found else None


def _keyed(found: list[re.Match[str]]) -> str | None:
    """The answer under a key: of a final one before others; None if values differ."""
    finals = [match for match in found if match["final"]] or found
    values = {cleaned(_unquoted(match["value"].strip())) for match in finals}
    return _without_reason(values.pop()) or None if len(values) == 1 else None


def _unquoted(value: str) -> str:
    """A value of JSON as text; backslashes stay if they are LaTeX's, which models forget to double."""
    if value[0] == "[":
        return ", ".join(cleaned(part) for part in value[1:-1].split(","))
    if value[0] not in "\"'" or value[-1] != value[0] or len(value) < 2:
        return "" if value in ("null", "None") else value
    inner = value[1:-1]
    try:
        plain = json.loads(f'"{inner}"')
    except ValueError:
        return inner
    return inner if any(ord(sign) < 32 and sign != "\n" for sign in plain) else str(plain)


def _is_supposed(sentence: str, marker: re.Match[str]) -> bool:
    """Whether a sentence asks about its answer, supposes or doubts it."""
    is_asked = sentence.rstrip('"”*) ').endswith(("?", "？"))
    return is_asked or _ONLY_SUPPOSED.search(sentence[: marker.start()]) is not None


def _of_last_line(line: str) -> str | None:
    """The answer of a response that says nowhere that it is one."""
    after = _LAST_IS.match(line)
    said = cleaned(after[1]) if after else ""
    if concluded := _SO_YES_OR_NO.fullmatch(line):
        return concluded[1]
    if leading := _YES_OR_NO.match(line):  # "No, the angle is 30" may answer either question
        return None if any(sign.isdigit() for sign in said) else leading[1]
    if (marker := _MARKER.search(line)) and (
        _NEGATED.match(said or line[marker.end() :]) or _is_supposed(line, marker)
    ):
        return None  # it says what the answer is not, or may be
    return _without_reason(said or cleaned(line)) or None


def _marked(sentence: str) -> str | None:
    """What follows the first marker of a sentence that anything follows, unless it says what the answer is not."""
    for marker in _MARKER.finditer(sentence):
        if _is_supposed(sentence, marker):
            continue
        answer = cleaned(sentence[marker.end() :])
        if negated := _NEGATED.match(answer):  # "not A" says nothing, "not A but B" says B
            answer = cleaned(negated[1] or "")
        if answer:
            return _without_reason(answer)
    named = _IS_THE_ANSWER.fullmatch(sentence)  # "Hence 12 is the answer"
    return cleaned(named[1]) if named else None


def _without_reason(answer: str) -> str:
    """ "B" for "B because A is wrong", "5" for "5 since 2 + 3 = 5" and "5 and not 6", "No" for "No, it is not"."""
    if (rejected := _REJECTED.search(answer)) and _VALUE_START.match(answer):
        kept = answer[: rejected.start()]
        answer = answer if _CLAUSE.search(kept) else cleaned(kept)
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
    return _EXCLAIMED.sub("", plain.strip(_AROUND).rstrip(".。").strip(_AROUND))
