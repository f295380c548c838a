"""The project's goals on a data-centre GPU beside what was measured, and in a sentence what that was measured with."""

from __future__ import annotations

from typing import Any

from vprm_benchmarks.speed.report import Goal

_KINDS = ("tensorrt", "tensorrt-rtx", "cuda")  # whose figures count first


def own_name(kind: str, precision: str) -> str:
    """Name of this package's contender."""
    return f"vprm, {kind}, {precision}"


GOALS = {  # of 8b, 13 tiles
    "fp16_prefill_fraction_of_bf16_peak": Goal(0.65, better="higher"),
    "eight_bit_prefill_over_fp16": Goal(1.6, better="higher"),
    "best_of_8_ms": Goal(250),
    "torch_one_pass_over_fp16_best_of_8": Goal(4.0, better="higher"),
}


def goals(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each goal by name, as all benchmarks report them: `value` is None if it was not measured; `by` says by what."""
    results = {entry["name"]: entry for entry in report["results"] if entry.get("ms")}
    kind = next((kind for kind in _KINDS if own_name(kind, "fp16") in results), None)
    fp16 = results.get(own_name(kind, "fp16"), {}) if kind else {}
    eight_bit = [results.get(own_name(kind, precision), {}) for precision in ("fp8", "int8")] if kind else []
    first: dict[str, Any] = next((entry for name, entry in results.items() if "one pass a candidate" in name), {})
    best_of, torch_ms = (entry.get("ms", {}).get("best of 8") for entry in (fp16, first))
    base, fastest = _fastest(fp16), max((_fastest(entry) for entry in eight_bit), default=0.0)
    fraction = max((one["fraction_of_peak"] for one in fp16.get("prefill", {}).values()), default=None)
    values = (
        fraction,
        fastest / base if base and fastest else None,
        best_of,
        torch_ms / best_of if torch_ms and best_of else None,
    )
    by = fp16.get("name")
    return {name: {**goal.to_json(value), "by": by} for (name, goal), value in zip(GOALS.items(), values, strict=True)}


def what_was_measured(report: dict[str, Any]) -> str:
    """Whether an engine that this package deploys took part, plainly."""
    results = {entry["name"]: entry for entry in report["results"]}
    deployed = [name for name, entry in results.items() if entry.get("ms") and name.startswith("vprm, ")]
    if deployed:
        return f"Engines of this package that were measured: {'; '.join(deployed)}."
    reasons = [f"{kind}: {entry['skipped']}" for kind, entry in results.items() if kind in _KINDS and entry["skipped"]]
    return (
        f"No engine that this package deploys was measured on this device ({'; '.join(reasons) or 'none was tried'})."
    )


def _fastest(entry: dict[str, Any]) -> float:
    return max((float(one["tokens_per_s"]) for one in entry.get("prefill", {}).values()), default=0.0)
