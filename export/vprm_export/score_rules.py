"""Score rules by model kind, or from a file, with their tokens looked up in a checkpoint's tokenizer.

A rule file is JSON with the keys of `_FILE_KEYS`; what they mean: vprm_runtime.prompt.score_rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vprm_export.tokenizer_files import BundleTokenizer
from vprm_runtime.errors import InputError
from vprm_runtime.files import read_small
from vprm_runtime.prompt.score_rule import CandidateToken, ScoreRule
from vprm_runtime.strict_json import loads

_FILE_KEYS = {"name", "first_turn", "step_joiner", "candidates"}
_OPTIONAL_FILE_KEYS = {"reply", "marker"}


@dataclass(frozen=True)
class RuleText:
    """A score rule before its tokens have ids. `default_system_message`: the template's, whatever config.json has."""

    name: str
    first_turn: str
    step_joiner: str
    candidates: tuple[tuple[str, float], ...]  # (text, weight)
    reply: str = ""
    marker: str | None = None
    default_system_message: bool = False

    def with_ids(self, tokenizer: BundleTokenizer) -> ScoreRule:
        """The rule for one tokenizer. Raises CheckpointError if a candidate or the marker is not one token."""
        candidates = tuple(CandidateToken(text, tokenizer.single_token(text), w) for text, w in self.candidates)
        marker_id = None if self.marker is None else tokenizer.token(self.marker)
        return ScoreRule(self.name, self.first_turn, self.step_joiner, self.reply, candidates, self.marker, marker_id)


# '+' against '-', read before the '+' that every assistant turn holds.
# Source: InternVLRewardModel, published with VisualPRM-8B (generate_steps_with_soft_score).
VISUALPRM = RuleText(
    name="visualprm",
    first_turn="### Question:\n{images}{question}\n\n### Solution Process:\n{step}",
    step_joiner="\n\n",
    candidates=(("+", 1.0), ("-", 0.0)),
    reply="+",
)
# Yes against No, read at the token <prm> that closes every step.
# Source: ModalMinds/MM-PRM @3b52c1e, InternVLChatModel.prm and data_pipeline/traverse.py.
MM_PRM = RuleText(
    name="mm-prm",
    first_turn="{images}Question: {question}\nProcess: {step}",
    step_joiner="\n\n",
    candidates=(("Yes", 1.0), ("No", 0.0)),
    marker="<prm>",
    default_system_message=True,
)
SCORE_RULES: Mapping[str, RuleText] = MappingProxyType({rule.name: rule for rule in (VISUALPRM, MM_PRM)})


def find_score_rule(name_or_file: str) -> RuleText:
    """A rule by name, or from a JSON file. Raises InputError naming the key that is wrong."""
    if name_or_file in SCORE_RULES:
        return SCORE_RULES[name_or_file]
    path = Path(name_or_file)
    if not path.is_file():
        raise InputError(f"no score rule {name_or_file!r}: use {', '.join(SCORE_RULES)} or the path of a JSON file")
    try:
        document = loads(read_small(path))
    except ValueError as error:
        raise InputError(f"score rule {path} is not JSON ({error})") from error
    return _checked(document, f"score rule {path}")


def _checked(document: Any, where: str) -> RuleText:
    if not isinstance(document, Mapping):
        raise InputError(f"{where} should be a JSON object")
    unknown = set(document) - _FILE_KEYS - _OPTIONAL_FILE_KEYS
    missing = _FILE_KEYS - set(document)
    if unknown or missing:
        allowed = sorted(_FILE_KEYS | _OPTIONAL_FILE_KEYS)
        raise InputError(f"{where} has unknown keys {sorted(unknown)}, lacks {sorted(missing)}; allowed: {allowed}")
    name, first_turn, joiner = (_text(document, key, where) for key in ("name", "first_turn", "step_joiner"))
    if first_turn.count("{question}") != 1 or not first_turn.endswith("{step}") or first_turn.count("{step}") != 1:
        raise InputError(f"{where}: first_turn must have {{question}} once and end with its only {{step}}")
    if "{images}" in first_turn.split("{question}")[1] or first_turn.count("{images}") > 1:
        raise InputError(f"{where}: first_turn may have {{images}} once, in front of {{question}}")
    if "<image>" in first_turn:
        raise InputError(f"{where}: first_turn has <image>, which questions use for their images: write {{images}}")
    if not joiner:
        raise InputError(f"{where}: step_joiner is empty: responses could not be split into steps")
    marker = document.get("marker")
    if marker is not None and (not isinstance(marker, str) or not marker or document.get("reply")):
        raise InputError(f"{where}: marker must be the text of a token, and there is no reply if there is a marker")
    reply = "" if marker is not None else _text(document, "reply", where)
    if marker is None and not reply:
        raise InputError(f"{where}: give reply, the text of every assistant turn, or marker")
    return RuleText(name, first_turn, joiner, _candidates(document["candidates"], where), reply, marker)


def _candidates(value: Any, where: str) -> tuple[tuple[str, float], ...]:
    usage = f"{where}: candidates must be a list of at least two {{text, weight}}, with weights from 0 to 1"
    if not isinstance(value, list) or len(value) < 2:
        raise InputError(usage)
    candidates = []
    for entry in value:
        if not isinstance(entry, Mapping) or set(entry) != {"text", "weight"} or not isinstance(entry["text"], str):
            raise InputError(usage)
        weight = entry["weight"]
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight <= 1:
            raise InputError(usage)
        candidates.append((entry["text"], float(weight)))
    return tuple(candidates)


def _text(document: Mapping[str, Any], key: str, where: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a text, got {value!r}")
    return value
