"""Labels that are kept beside the scores: checked, and made into values that JSON has. Scoring needs none of them."""

import datetime
import decimal
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vprm_runtime.datasets.row_keys import LABELS
from vprm_runtime.errors import InputError, quoted


def checked_labels(record: Mapping[str, Any], own: Mapping[str, Any], responses: Sequence[object]) -> dict[str, Any]:
    """Labels of a record: `own`, which its kind made, before the general ones. Values as JSON has them.

    Raises InputError naming the label that is wrong: the row can be scored, but not evaluated.
    """
    labels = {**own, **{key: record[key] for key in LABELS if record.get(key) is not None and key not in own}}
    if "process_correctness" in labels and "process_correctness" not in own:
        labels["process_correctness"] = _of_steps(labels["process_correctness"], responses)
    if "correct" in labels:
        labels["correct"] = _of_responses(labels["correct"], len(responses))
    return {key: value for key, value in ((k, _json_value(k, v)) for k, v in labels.items()) if value is not None}


def verdicts(value: object, steps: int | None) -> list[int]:
    """Labels of one response's steps, checked; `steps` is their number, None if it is not known yet."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not all(_is_verdict(v) for v in value):
        raise InputError("process_correctness must be a list of 1 (right), 0 (neutral) and -1 (wrong)")
    if steps is not None and len(value) != steps:
        raise InputError(f"process_correctness has {len(value)} labels for {steps} steps: give one for each step")
    return [int(v) for v in value]


def _is_verdict(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value in (1, 0, -1)


def step_labels(scores: Sequence[object]) -> dict[str, Any]:
    """Labels of one response from the scores of its steps: right if above 0. Raises InputError on other values."""
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise InputError("steps_with_score has an entry without a numeric score: give each step one")
    numbers = [float(score) for score in scores if isinstance(score, int | float)]
    return {"process_correctness": [[1 if number > 0 else -1 for number in numbers]], "step_labels": [numbers]}


def _of_steps(value: object, responses: Sequence[object]) -> list[list[int] | None]:
    """Labels of the steps of each response; null for one without. A flat list belongs to the only response.

    How many steps a text has is known when it is split: then its labels are counted.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InputError("process_correctness must be a list for each response, of 1 (right), 0 (neutral), -1 (wrong)")
    lists = [item for item in value if isinstance(item, Sequence) and not isinstance(item, str | bytes)]
    given = [value] if not lists and len(responses) == 1 and any(item is not None for item in value) else value
    if len(given) != len(responses):
        raise InputError(
            f"process_correctness has {len(given)} entries for {len(responses)} responses: give each a list of labels, "
            "or null"
        )
    return [
        None if labels is None else _numbered(index, labels, response)
        for index, (labels, response) in enumerate(zip(given, responses, strict=True))
    ]


def _numbered(index: int, labels: object, response: object) -> list[int]:
    steps = len(response) if isinstance(response, list | tuple) else None
    try:
        return verdicts(labels, steps)
    except InputError as error:
        raise InputError(f"response {index}: {error}") from error


def _of_responses(value: object, responses: int) -> list[bool | int | None]:
    """Whether each response is right, null if that is not known; a single value belongs to the only response."""
    if responses == 1 and not isinstance(value, Sequence):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != responses:
        found = f"{len(value)} entries" if isinstance(value, Sequence) and not isinstance(value, str) else _shown(value)
        raise InputError(f"correct must be a list with true or false for each of {responses} responses, got {found}")
    known: list[bool | int | None] = []
    for item in value:
        is_missing = item is None or (isinstance(item, float) and math.isnan(item))
        if not is_missing and (not isinstance(item, bool | int | float) or item not in (0, 1)):
            raise InputError(f"correct must have true or false for each response, got {_shown(item)}")
        known.append(None if is_missing else bool(item) if isinstance(item, float) else item)
    return known


def _shown(value: object) -> str:
    """A number or a truth value, else the type."""
    return quoted(value, 60) if isinstance(value, bool | int | float) else type(value).__name__


def _json_value(key: str, value: object) -> Any:
    """The value as JSON has it: missing numbers are None, dates are ISO texts, decimals are numbers."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            return _json_value(key, math.nan if value.is_nan() else math.inf)
        value = float(value) if value != value.to_integral_value() else int(value)
        return _json_value(key, value)
    if isinstance(value, float):
        if math.isinf(value):
            raise InputError(f"{key} is infinite, which JSON cannot hold: give a finite number, text or null")
        return None if math.isnan(value) else value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(name): _json_value(key, part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_json_value(key, part) for part in value]
    raise InputError(f"{key} is {type(value).__name__}, which JSON cannot hold: give text, numbers or null")
