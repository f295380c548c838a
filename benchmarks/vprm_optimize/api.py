"""`optimize`: what `vprm optimize` does, for Python."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vprm_export.checkpoint import Checkpoint
from vprm_optimize.child import Say, say_nothing
from vprm_optimize.decide import NoneHeldError
from vprm_optimize.plan import Plan, Request, make_plan
from vprm_optimize.report import PAGE_NAME, REPORT_NAME, report_of, with_summary
from vprm_optimize.run import opened_run
from vprm_optimize.taking_up import check_request
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.errors import BundleError, EngineError
from vprm_runtime.files import parts_folder


def planned(request: Request) -> Plan:
    """The plan alone, with estimates; nothing is kept."""
    check_request(request)
    return make_plan(request)


def optimize(
    request: Request,
    say: Say = say_nothing,
    show_plan: Callable[[Plan], None] = lambda plan: None,
    html: bool = False,
) -> dict[str, Any]:
    """Make the best bundle of a checkpoint.

    Args:
        request: what to make of what.
        say: called with a stage, how much of it is done, how much there is, and what that is counted in.
        show_plan: called with the plan before anything starts.
        html: write report.html too.

    Returns:
        The report, as in the bundle's report.json.

    Raises:
        NoneHeldError: no recipe held the budget; it has the report.
        InputError, CheckpointError, BundleError, EngineError: as the stages raise them.
        OSError: the disk is full, say.
    """
    try:
        return _optimized(request, say, show_plan, html)
    except (OSError, BundleError, EngineError) as error:
        if os.path.lexists(kept := parts_folder(request.output)):
            error.add_note(f"(what is done so far is kept in {kept}: mend this, and the same command goes on)")
        raise


def _optimized(request: Request, say: Say, show_plan: Callable[[Plan], None], html: bool) -> dict[str, Any]:
    with opened_run(request, say) as run:
        show_plan(run.plan)
        if run.has_finished():  # a run that was ended while it cleared up
            report: dict[str, Any] = json.loads((request.output / REPORT_NAME).read_text("utf-8"))
            run.clear()
            return report
        name = _model_name(request.checkpoint)
        try:
            best = run.run()
        except NoneHeldError as error:
            error.report = report_of(request, run.plan, run.outcomes, None, name, run.journal.stages())
            raise
        report = report_of(request, run.plan, run.outcomes, best, name, run.journal.stages(), run.engine)
        files = {REPORT_NAME: json.dumps(report, indent=2, ensure_ascii=False) + "\n"}
        if html:
            from vprm_optimize.page import html_of

            files[PAGE_NAME] = html_of(report)
        manifest = with_summary(Bundle.open(run.bundle(best.recipe)).manifest, request, run.plan, best)
        run.finish(manifest.to_json(), files, best)
    return report


def _model_name(checkpoint: Path) -> str:
    return Checkpoint.open(checkpoint).name
