"""`vprm inspect`: what a bundle is, and whether its files are whole."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from vprm_runtime import native
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.cli.arguments import add_bundle, add_json
from vprm_runtime.cli.common import Subparsers, opened_bundle, print_json, stdout_console
from vprm_runtime.engines.cuda.tensorrt.describe import engine_lines, inspect_engines
from vprm_runtime.engines.cuda.tensorrt.engine_file import EngineInfo, engine_directories


def register(subparsers: Subparsers) -> None:
    """Add the `inspect` parser."""
    parser = subparsers.add_parser(
        "inspect", help="show what a bundle is", description="Show what a bundle is and check its files."
    )
    add_bundle(parser)
    parser.add_argument("--verify", action="store_true", help="check every file's sha256")
    add_json(parser)
    parser.set_defaults(run=run, extra="cpu")


def run(args: argparse.Namespace) -> int:
    """Print the manifest; a damaged bundle is a BundleError (exit code 2).

    With --verify, returns 1 if an engine in the bundle cannot be used.
    """
    bundle = opened_bundle(args.bundle, args.verify)
    engines = inspect_engines(bundle, args.verify)
    if args.json:
        document = {"path": str(bundle.path), "verified": args.verify, "manifest": asdict(bundle.manifest)}
        print_json({**document, "engines": engines})
    else:
        _print_bundle(bundle, args.verify, engines)
    return int(args.verify and any(entry["error"] for entry in engines))


def _optimised(bundle: Bundle) -> list[tuple[str, str]]:
    """What `vprm optimize` found out; speeds and the reason from its report, if that is still there."""
    found = bundle.manifest.optimisation
    if found is None:
        return []
    figures = ", ".join(f"{name} {value:.4f} of {found.budget[name]:g}" for name, value in found.figures.items())
    facts = [
        ("optimised for", f"{found.made_for}, goal {found.goal}: {found.recipe}"),
        ("judged", f"on {found.rows_judged} rows: {figures}" if figures else "not judged: floating point"),
    ]
    if found.device not in ("cpu", "auto"):
        facts.append(("meant for", f"--device {found.device}"))
    try:
        report = json.loads((bundle.path / "report.json").read_text("utf-8"))
        facts.append(("chosen as", str(report["reason"])))
        speed = next(one["speed"] for one in report["recipes"] if one["state"] == "chosen")
        if speed is not None:
            request = report["request_timed"]
            facts.append(("took", f"{speed['best_of_n_s']:.3g} s for {request['responses']} responses there"))
    except (OSError, ValueError, KeyError, StopIteration):
        pass  # the bundle is whole without its report
    return facts


def reading_lines(manifest: Manifest) -> list[str]:
    """A line for each thing that decides scores: what, its value, and where it was read or why it was assumed."""
    readings = manifest.provenance.readings
    width = max((len(reading.what) for reading in readings), default=0)
    sources = (f"ASSUMED, {reading.source}" if reading.assumed else reading.source for reading in readings)
    return [f"{r.what:{width}}  {r.value}  ({source})" for r, source in zip(readings, sources, strict=True)]


def _print_bundle(bundle: Bundle, verified: bool, engines: list[dict[str, Any]]) -> None:
    manifest = bundle.manifest
    model, tiling, graphs = manifest.model, manifest.tiling, manifest.graphs
    facts = {
        "bundle": str(bundle.path),
        "model": f"{model.name} ({model.llm_family}, {model.layers} layers, hidden {model.hidden_size})",
        "precision": f"LLM {graphs.llm.precision}, vision {graphs.vision.precision}",
        **({"native operators": native.summary()} if graphs.llm.is_native or graphs.vision.is_native else {}),
        "tiling": f"{tiling.min_tiles} to {tiling.max_tiles} tiles of {tiling.tile_size_px} px"
        + (" and a thumbnail" if tiling.use_thumbnail else ""),
        "image tokens": f"{model.tokens_per_tile} a tile",
        "prompt limit": f"{model.max_positions_tokens} tokens",
        "score rule": manifest.score_rule.name
        + ": "
        + ", ".join(f"{c.text!r} (id {c.id}) = {c.weight:g}" for c in manifest.score_rule.candidates),
        "system message": manifest.prompt.system_message,
        "made from": f"{manifest.provenance.checkpoint}, config sha256 {manifest.provenance.config_sha256[:12]}",
        "made with": ", ".join(f"{tool} {version}" for tool, version in manifest.provenance.tools.items()),
    }
    console = stdout_console(highlight=False)
    table = Table(show_header=False, show_edge=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        table.add_row(name, Text(fact))
    for name, fact in _optimised(bundle):
        table.add_row(name, Text(fact))
    console.print(table)
    console.print("read from the checkpoint, or assumed:")
    for line in reading_lines(manifest):
        console.print(Text(f"  {line}"), soft_wrap=True)
    files = Table("file", "bytes", "sha256", show_edge=False)
    for name, info in manifest.files.items():
        files.add_row(Text(name), f"{info.size_bytes:,}", info.sha256[:12])
    console.print(files)
    console.print("all hashes agree" if verified else "sizes agree; check hashes with --verify")
    for directory, entry in zip(engine_directories(bundle), engines, strict=True):
        unusable = [f"{entry['name']}: cannot be used: {entry['error']}"]
        for line in unusable if entry["error"] else engine_lines(EngineInfo.read(directory)):
            console.print(Text(line))
