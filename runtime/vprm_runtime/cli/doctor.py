"""`vprm doctor`: what this machine can run, what is missing, and the command that mends it."""

import argparse
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from vprm_runtime.cli.arguments import add_json
from vprm_runtime.cli.common import Subparsers, print_json, stdout_console
from vprm_runtime.diagnosis import Diagnosis, diagnose

_STYLES = {"ok": "green", "note": "default", "missing": "yellow", "broken": "bold red"}


def register(subparsers: Subparsers) -> None:
    """Add the `doctor` parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="show what this machine can run and what is missing",
        description="Show what this machine can run, what is missing, and the command that mends it. "
        "Exit code 1 if nothing can score here.",
    )
    add_json(parser)
    parser.set_defaults(run=run, extra="")


def run(args: argparse.Namespace) -> int:
    """Look and print. Returns 1 if no engine can score here, or something is broken."""
    found = diagnose()
    is_well = bool(found.devices) and all(finding.state != "broken" for finding in found.findings)
    if args.json:
        print_json({**asdict(found), "ok": is_well})
    else:
        _print(found)
    return 0 if is_well else 1


def _print(found: Diagnosis) -> None:
    console = stdout_console(highlight=False)
    table = Table(show_header=False, show_edge=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for finding in found.findings:
        text = Text(finding.text)
        if finding.mend:
            text.append(f"\n→ {finding.mend}", "italic")
        table.add_row(Text(finding.area), Text(finding.state, _STYLES[finding.state]), text)
    console.print(table)
    console.print(Text(_verdict(found)), soft_wrap=True)


def _verdict(found: Diagnosis) -> str:
    if not found.devices:
        return "Nothing can score here yet: install an engine, for a CPU with  pip install 'vprm[cpu]'"
    devices = " or ".join(found.devices)
    lacks = any(finding.area == "extra optimize" and finding.state != "ok" for finding in found.findings)
    first = "pip install 'vprm[optimize]'  and  " if lacks else ""
    return f"Scores with --device {devices}. The best bundle for this machine:  {first}vprm optimize CHECKPOINT BUNDLE"
