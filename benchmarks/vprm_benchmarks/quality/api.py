"""The comparison that `vprm quality` makes: open both sides, score the rows, work out figures and verdict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from vprm_benchmarks.quality.budget import Budget, budget_of, check
from vprm_benchmarks.quality.compare import compare, share_vision
from vprm_benchmarks.quality.emulated import emulated_engine
from vprm_benchmarks.quality.figures import figures_of
from vprm_benchmarks.quality.layer_profile import PROFILE_ROWS, layer_profile
from vprm_benchmarks.quality.report import QualityReport
from vprm_export.temporary_bundle import as_bundle
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import GraphsInfo, Manifest
from vprm_runtime.bundle.names import model_name
from vprm_runtime.datasets import open_rows
from vprm_runtime.datasets.missing_images import check_image_paths
from vprm_runtime.errors import InputError
from vprm_runtime.scorer import StepScorer


@dataclass(frozen=True)
class QualityOptions:
    """Rows' files, rows of each at most, a budget instead of the precision's own, CPU threads (None: all cores).

    `image_root`: where relative image paths start (None: beside each file). `device` runs the bundles,
    `against_device` the reference.
    `emulate`: run the reference's LLM graph in NumPy (see `emulated`), to check an engine instead of a precision.
    """

    data: tuple[Path, ...]
    max_rows: int | None = None
    budget: Budget | None = None
    threads: int | None = None
    emulate: bool = False
    image_root: Path | None = None
    device: str = "auto"
    against_device: str = "auto"


def measure_quality(
    bundles: Mapping[str, Path],
    against: Path,
    options: QualityOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, QualityReport]:
    """Compare bundles, by name, with a reference bundle or checkpoint (which is exported as fp32 for that).

    Images are encoded once for all bundles whose vision graphs are the same. Rows that one side cannot score are left
    out and listed. Raises InputError if none is left and on sides that are different models, BundleError or
    CheckpointError if a side cannot be opened.
    """
    sources = [open_rows(path, options.image_root) for path in options.data]
    total = sum(min(source.total, options.max_rows or source.total) for source in sources)
    check_image_paths(chain.from_iterable(islice(source, options.max_rows) for source in sources))
    with as_bundle(against) as reference_path:
        reference_bundle = Bundle.open(reference_path)
        opened = {name: Bundle.open(path) for name, path in bundles.items()}
        for name, bundle in opened.items():
            _check_same_model(name, bundle.manifest, model_name(against), reference_bundle.manifest)
        engine = emulated_engine(reference_bundle, options.threads) if options.emulate else None
        reference = StepScorer.open(reference_bundle, options.against_device, threads=options.threads, engine=engine)
        candidates = {
            name: StepScorer.open(bundle, options.device, threads=options.threads) for name, bundle in opened.items()
        }
        pairs = [(reference_bundle, reference), *((opened[name], candidates[name]) for name in candidates)]
        reference, *sharing = share_vision(pairs)
        candidates = dict(zip(candidates, sharing, strict=True))
        rows = chain.from_iterable(islice(source, options.max_rows) for source in sources)
        compared = compare(reference, candidates, rows, lambda done: progress(done, total))
        profile_rows = list(compared.first[:PROFILE_ROWS])
        reports = {}
        for name, bundle in opened.items():
            graph = bundle.manifest.graphs.llm
            figures = figures_of(compared.rows[name])
            profile = layer_profile(reference, candidates[name], profile_rows)
            reports[name] = QualityReport(
                bundle=name,
                precision=_precision(bundle.manifest.graphs),
                against=model_name(against),
                rows=len(compared.rows[name]),
                left_out=compared.left_out,
                figures=figures,
                checks=check(figures, options.budget or budget_of(bundle.manifest.graphs)),
                profile=None if profile is None else tuple(profile),
                kept_high=() if graph.quantisation is None else graph.quantisation.kept_high,
            )
    return reports


def _check_same_model(name: str, manifest: Manifest, against: str, reference: Manifest) -> None:
    """Raise InputError if two bundles are of different models, or would ask them different things."""
    for part in ("model", "tokens", "prompt", "score_rule", "tiling"):
        one, other = getattr(manifest, part), getattr(reference, part)
        if part == "model":
            one, other = replace(one, name=""), replace(other, name="")
        if one != other:
            raise InputError(
                f"{name} and {against} differ in {part}, not only in precision ({one} and {other}): "
                "compare a bundle with one of the same checkpoint and the same export options"
            )


def _precision(graphs: GraphsInfo) -> str:
    """The LLM's, and the vision graph's if that is quantised too."""
    return graphs.llm.precision + (f", vision {graphs.vision.precision}" if graphs.vision.quantisation else "")
