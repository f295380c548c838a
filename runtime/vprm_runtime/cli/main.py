"""`vprm`: finds subcommands, runs one, turns errors into one line and an exit code.

Exit codes: 0 done, 1 a check failed, 2 usage or input, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version

from vprm_runtime.cli.common import stderr_console
from vprm_runtime.errors import MissingExtraError, VprmError


def build_parser() -> argparse.ArgumentParser:
    """The parser of all installed subcommands (entry point group vprm.commands)."""
    parser = argparse.ArgumentParser(prog="vprm", description="Step scores from visual process reward models.")
    parser.add_argument("--version", action="version", version=f"vprm {version('vprm')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in sorted(entry_points(group="vprm.commands"), key=lambda entry: entry.name):
        command.load()(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vprm` with command-line arguments; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except VprmError as error:
        message = " ".join([str(error), *getattr(error, "__notes__", [])])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0].startswith("vprm_"):
            raise
        message = f"{MissingExtraError(f'this command (missing module: {error.name})', options.extra)}"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        message = f"{error.filename or 'file'}: {error.strerror or error}"
    except KeyboardInterrupt:
        stderr_console().print("interrupted")
        return 130
    stderr_console().print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True, highlight=False)
    return 2


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    sys.exit(main())
