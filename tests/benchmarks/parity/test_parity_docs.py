"""docs/parity.md says what the code does: every row of the tolerance table, every option of the command."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from vprm_benchmarks.parity.command import register
from vprm_benchmarks.parity.tolerances import STAGES, TOLERANCES

TEXT = (Path(__file__).parents[3] / "docs" / "parity.md").read_text(encoding="utf-8")


def test_tolerance_table_is_the_codes() -> None:
    expected = {
        f"| `{stage}` | {precision} | {row.limit:g} | {row.unit} | {row.reason} |"
        for (stage, precision), row in TOLERANCES.items()
    }
    found = {line for line in TEXT.splitlines() if re.match(r"\| `\w+` \| (fp|bf|int|w)\d+ \|", line)}
    assert found == expected


def test_every_stage_is_named() -> None:
    for stage in STAGES:
        assert f"`{stage}`" in TEXT


def test_options_in_the_examples_exist() -> None:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    used = set(re.findall(r"vprm parity .*?(--[a-z-]+)", TEXT)) | {"--json", "--html", "--score-rule"}
    help_text = parser._subparsers._group_actions[0].choices["parity"].format_help()  # type: ignore[union-attr]
    for option in used:
        assert option in help_text
