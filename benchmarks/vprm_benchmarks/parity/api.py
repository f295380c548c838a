"""From two paths to a report: open the bundle, load the reference, run the cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vprm_benchmarks.parity.bundle_side import BundleObserver
from vprm_benchmarks.parity.cases import ParityCase, built_in_cases, cases_from_rows
from vprm_benchmarks.parity.driver import compare_sides
from vprm_benchmarks.parity.reference_side import ReferenceObserver
from vprm_benchmarks.parity.report import ParityReport
from vprm_benchmarks.parity.tolerances import Precisions
from vprm_benchmarks.reference import ReferenceScorer, load_rule
from vprm_runtime import CheckpointError, StepScorer


@dataclass(frozen=True)
class ParityOptions:
    """What to compare on. ``score_rule`` None takes the built-in rule of the name that the bundle's manifest has."""

    data: Path | None = None
    image_root: Path | None = None
    limit: int | None = None
    system_message: str | None = None
    score_rule: str | None = None
    reference_device: str = "cpu"
    device: str = "auto"
    threads: int | None = None


def run_parity(
    bundle: Path,
    checkpoint: Path,
    options: ParityOptions = ParityOptions(),
    on_case: Callable[[str], None] = lambda name: None,
) -> ParityReport:
    """Compare ``bundle`` with the float32 reference on ``checkpoint``; ``on_case`` gets each case's name beforehand.

    Raises BundleError, CheckpointError or InputError where a side or the rows cannot be used at all.
    """
    scorer = StepScorer.open(bundle, options.device, threads=options.threads)
    reference = _load_reference(checkpoint, options, scorer.manifest.score_rule.name)
    vision, llm = scorer.engine.precisions
    comparison = compare_sides(
        ReferenceObserver(reference),
        BundleObserver(scorer),
        _cases(options, reference.tile_px),
        Precisions(vision, llm),
        lambda case: on_case(case.name),
    )
    return ParityReport(
        bundle=str(bundle),
        checkpoint=str(checkpoint),
        precision=f"vision {vision}, LLM {llm}",
        engine=scorer.engine.description,
        cases=comparison.cases,
        candidates=comparison.candidates,
        steps=len(comparison.scores),
        stages=comparison.stages,
        scores=comparison.scores,
        seconds=comparison.seconds,
    )


def _load_reference(checkpoint: Path, options: ParityOptions, rule_name: str) -> ReferenceScorer:
    try:
        return ReferenceScorer.load(
            checkpoint,
            device=options.reference_device,
            system_message=options.system_message,
            rule=load_rule(options.score_rule or rule_name),
        )
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:  # json's, safetensors' and torch's
        raise CheckpointError(f"the reference cannot load {checkpoint}: {error}") from error


def _cases(options: ParityOptions, tile_px: int) -> list[ParityCase]:
    if options.data is None:
        return built_in_cases(tile_px)[: options.limit]
    return list(islice(cases_from_rows(options.data, options.image_root), options.limit))
