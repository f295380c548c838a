"""From two paths to a report: open the bundle, load the reference, run the cases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vprm_benchmarks.parity.bundle_side import BundleObserver
from vprm_benchmarks.parity.cases import NotComparable, ParityCase, built_in_cases, cases_from_rows
from vprm_benchmarks.parity.driver import compare_sides
from vprm_benchmarks.parity.reference_side import ReferenceObserver
from vprm_benchmarks.parity.report import ParityReport
from vprm_benchmarks.parity.tolerances import Precisions
from vprm_benchmarks.reference import ReferenceScorer, load_rule
from vprm_export.checkpoint import read_safetensors_header
from vprm_runtime import Bundle, CheckpointError, InputError, StepScorer
from vprm_runtime.bundle.names import hub_id
from vprm_runtime.room import check_room

Progress = Callable[[str, int, int | None], None]


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
    progress: Progress = lambda doing, done, total: None,
) -> ParityReport:
    """Compare ``bundle`` with the float32 reference on ``checkpoint``.

    ``progress`` gets what is done next, cases done, and cases in all (None while both sides are loaded).
    Raises BundleError, CheckpointError or InputError if a side or the rows cannot be used at all, EngineError if memory
    does not suffice for the reference.
    """
    progress("loading both sides", 0, None)
    scorer = StepScorer.open(bundle, options.device, threads=options.threads)
    reference = _load_reference(checkpoint, options, scorer.manifest.score_rule.name)
    vision, llm = scorer.engine.precisions
    cases, left_out = _comparable(_cases(options, reference.tile_px), scorer, _control_texts(bundle))
    if not cases:
        raise InputError(
            f"not one of {len(left_out)} rows can be compared, the first because: {left_out[0].reason}",
            code="nothing_scored",
        )
    comparison = compare_sides(
        ReferenceObserver(reference),
        BundleObserver(scorer),
        cases,
        Precisions(vision, llm),
        lambda case, number: progress(f"case {case.name}", number, len(cases)),
    )
    return ParityReport(
        bundle=str(bundle),
        checkpoint=hub_id(checkpoint) or str(checkpoint),
        precision=f"vision {vision}, LLM {llm}",
        engine=scorer.engine.description,
        cases=comparison.cases,
        candidates=comparison.candidates,
        steps=len(comparison.scores),
        stages=comparison.stages,
        scores=comparison.scores,
        seconds=comparison.seconds,
        not_comparable=tuple(left_out),
    )


def _comparable(
    cases: Iterable[ParityCase | NotComparable], scorer: StepScorer, control: Sequence[str]
) -> tuple[list[ParityCase], list[NotComparable]]:
    """The cases that both sides can score, and the others with their reasons."""
    kept: list[ParityCase] = []
    left_out: list[NotComparable] = []
    for case in cases:
        reason = case.reason if isinstance(case, NotComparable) else _why_not(case, scorer, control)
        if isinstance(case, ParityCase) and reason is None:
            kept.append(case)
        else:
            left_out.append(NotComparable(case.name, reason or ""))
    return kept, left_out


def _why_not(case: ParityCase, scorer: StepScorer, control: Sequence[str]) -> str | None:
    """Why a case cannot be compared: its text means something else to the original, or the bundle refuses it."""
    texts = [case.question]
    for response in case.responses:
        texts += [response] if isinstance(response, str) else response
    if "<image>" in "".join(texts[1:]):
        return "a response holds <image>, which is text here and takes an image's place in the original"
    for text in control:
        if any(text in part for part in texts):
            return f"a text holds {text}, which is text here and a control token in the original"
    try:
        counts = [len(image) for image in scorer.tiles(list(case.images), case.max_tiles)]
        for response in case.responses:
            scorer.prepare(case.question, counts, response, case.max_steps)
    except InputError as error:
        return str(error)
    return None


def _control_texts(bundle: Path) -> list[str]:
    """Texts that the checkpoint's own tokenizer makes control tokens of."""
    document = json.loads(Bundle.open(bundle).tokenizer_path.read_text("utf-8"))
    return [*(token["content"] for token in document["added_tokens"] if token["special"]), "[UNUSED_TOKEN_"]


def _load_reference(checkpoint: Path, options: ParityOptions, rule_name: str) -> ReferenceScorer:
    if checkpoint.is_dir():
        check_room("the float32 reference", memory_bytes=_float32_bytes(checkpoint))
    try:
        return ReferenceScorer.load(
            checkpoint,
            device=options.reference_device,
            system_message=options.system_message,
            rule=load_rule(options.score_rule or rule_name),
        )
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:  # json's, safetensors' and torch's
        raise CheckpointError(f"the reference cannot load {checkpoint}: {error}") from error


def _float32_bytes(checkpoint: Path) -> int:
    """Bytes of a checkpoint's weights in float32."""
    tensors = [entry for file in checkpoint.glob("*.safetensors") for entry in read_safetensors_header(file).values()]
    return 4 * sum(math.prod(entry.shape) for entry in tensors)


def _cases(options: ParityOptions, tile_px: int) -> list[ParityCase | NotComparable]:
    if options.data is None:
        return list(built_in_cases(tile_px)[: options.limit])
    return list(islice(cases_from_rows(options.data, options.image_root), options.limit))
