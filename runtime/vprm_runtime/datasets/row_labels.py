"""Labels that are kept beside the scores: checked, and made into values that JSON has. Scoring needs none of them."""

import datetime
import decimal
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vprm_runtime.datasets.row_keys import LABELS
from vprm_runtime.errors import InputError


def checked_labels(record: Mapping[str, Any], own: Mapping[str, Any], responses: int) -> dict[str, Any]:
    """Labels of a record: `own`, which its kind made, before the general ones. Values as JSON has them.

    Raises InputError naming the label that is wrong: the row can be scored, but not evaluated.
    """
    labels = {**own, **{key: record[key] for key in LABELS if record.get(key) is not None and key not in own}}
    if "process_correctness" in labels and "process_correctness" not in own:
        labels["process_correctness"] = _per_response(labels["process_correctness"], responses)
    return {key: value for key, value in ((k, _json_value(k, v)) for k, v in labels.items()) if value is not None}


def verdicts(value: object, steps: int) -> list[int]:
    """Labels of one response's steps, checked."""
    if not isinstance(value, Sequence) or any(isinstance(v, bool) or v not in (1, 0, -1) for v in value):
        raise InputError("process_correctness must be a list of 1 (right), 0 (neutral) and -1 (wrong)")
    if len(value) != steps:
        raise InputError(f"process_correctness has {len(value)} labels for {steps} steps: give one for each step")
    return [int(v) for v in value]


def step_labels(scores: Sequence[object]) -> dict[str, Any]:
    """Labels of one response from the scores of its steps: right if above 0. Raises InputError on other values."""
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise InputError("steps_with_score has an entry without a numeric score: give each step one")
    numbers = [float(score) for score in scores if isinstance(score, int | float)]
    return {"process_correctness": [[1 if number > 0 else -1 for number in numbers]], "step_labels": [numbers]}


def _per_response(value: object, responses: int) -> object:
    """Labels as a list for each response; a flat list belongs to the only one."""
    flat = isinstance(value, Sequence) and not any(isinstance(item, Sequence) for item in value)
    return [value] if flat and responses == 1 else value


def _json_value(key: str, value: object) -> Any:
    """The value as JSON has it: missing numbers are None, dates are ISO texts, decimals are numbers."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, decimal.Decimal):
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
