"""`vprm`: finds subcommands, runs one, turns errors into one line and an exit code.

Exit codes: 0 done (rows may carry errors: the last line counts them), 1 a check failed, 2 usage or input, 3 rows were
read and not one could be scored, 130 interrupted, 141 nobody reads the output.

Subcommands come from the entry points of the group `vprm.commands`. Only the one that is asked for is loaded; for the
list of all, one that cannot be loaded is named there and takes no other down.
"""

import argparse
import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, NoReturn

from vprm_runtime.cli.common import NOTHING_SCORED
from vprm_runtime.cli.console import show_error, shown, stderr_console, stream_error, usable_streams
from vprm_runtime.cli.signals import INTERRUPTION, handled_signals
from vprm_runtime.errors import MissingExtraError, VprmError, quoted
from vprm_runtime.extras import extras_to_install, missing_extras

_REPORTED = 2  # exit code of what ends with an error message


class _Parser(argparse.ArgumentParser):
    """As argparse's, which hides that nobody reads its help and prints arguments as they are."""

    def error(self, message: str) -> NoReturn:
        super().error(shown(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        try:
            (file or sys.stderr).write(message)
        except BrokenPipeError:
            raise
        except OSError as error:
            message = stream_error(error, "stdout")
            _drop_output()
            show_error(message)
            raise SystemExit(2) from error


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all installed subcommands, or of `only` one of them."""
    parser = _Parser(
        prog="vprm",
        description="Step scores from visual process reward models.",
        epilog="vprm COMMAND --help  says more about one of them.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"vprm {version('vprm')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in _commands():
        if only in (None, command.name):
            _register(command, subparsers)
    _note_missing_extras(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vprm` with command-line arguments; returns the exit code."""
    with usable_streams(), handled_signals() as interruption:
        try:
            return _flushed(_run, list(sys.argv[1:] if arguments is None else arguments))
        except BrokenPipeError:
            _drop_output()
            return 141
        except (Exception, KeyboardInterrupt):
            if not interruption.came and not isinstance(sys.exception(), KeyboardInterrupt):
                raise
            stderr_console().print("interrupted")
            return 130


def _run(words: list[str]) -> int:
    if words[:1] in (["help"], ["version"]):
        words = [*words[1:], f"--{words[0]}"]
    known = {command.name for command in _commands()}
    parser = build_parser(only=words[0] if words and words[0] in known else None)
    options, unknown = parser.parse_known_args(words)
    if options.command is None and not unknown:
        parser.print_help(sys.stderr)
        return 2
    if unknown:
        _refuse(_parser_in_use(parser, options.command, words), unknown)
    extra, code = getattr(options, "extra", ""), _REPORTED
    try:
        return int(options.run(options))
    except VprmError as error:
        message = " ".join([str(error), *getattr(error, "__notes__", [])])
        code = NOTHING_SCORED if error.code == "nothing_scored" else _REPORTED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0].startswith("vprm_"):
            raise
        missing = ",".join(extras_to_install(error.name.split(".")[0], extra)) or extra
        message = f"{MissingExtraError(f'vprm {options.command} (missing module: {error.name})', missing)}"
    except BrokenPipeError:
        raise
    except (MemoryError, OSError) as error:
        message = " ".join([_environment_message(error), *getattr(error, "__notes__", [])])
    if INTERRUPTION.came:
        raise KeyboardInterrupt
    show_error(message)
    return code


def _environment_message(error: MemoryError | OSError) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory: free some, or take fewer tiles, shorter texts or a smaller model"
    if error.filename is None and error.errno == errno.ENOENT and _is_folder_gone():
        return "the working directory is gone: change to one that exists"
    return stream_error(error, quoted(error.filename or "a file or stream"))


def _is_folder_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _flushed(run: Callable[[list[str]], int], words: list[str]) -> int:
    """The exit code; what was written is out, or the error of that is reported, unless one was reported already."""
    code = 0
    try:
        code = run(words)
        return code
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            message = stream_error(error, "stdout")
            _drop_output()
            if code != _REPORTED:
                show_error(message)
            raise SystemExit(_REPORTED) from error


def _drop_output() -> None:
    """Let what is still to be written go nowhere, so that the interpreter's end does not fail on it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _commands() -> list[EntryPoint]:
    return sorted(entry_points(group="vprm.commands"), key=lambda entry: entry.name)


def _register(command: EntryPoint, subparsers: Any) -> None:
    """Add a command's parser; if its module cannot be loaded, a parser that says why."""
    try:
        command.load()(subparsers)
    except Exception as error:  # noqa: BLE001  a package beside ours may raise anything while it is imported
        reason = f"cannot be loaded: {type(error).__name__}: {error}"
        broken = subparsers.add_parser(command.name, help=reason, description=reason)
        broken.set_defaults(run=_refuse_broken, reason=f"vprm {command.name} {reason}", extra="")


def _note_missing_extras(subparsers: Any) -> None:
    """Say in the list of commands which extras a command still needs."""
    for listed in subparsers._choices_actions:
        missing = missing_extras(subparsers.choices[listed.dest].get_default("extra") or "")
        if missing:
            listed.help += f" (needs vprm[{','.join(missing)}])"


def _refuse_broken(options: argparse.Namespace) -> int:
    raise VprmError(options.reason)


def _parser_in_use(
    parser: argparse.ArgumentParser, command: str | None, words: Sequence[str]
) -> argparse.ArgumentParser:
    """The parser of the innermost subcommand that `words` name."""
    for word in words if command else ():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                parser = action.choices[word]
    return parser


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """End with exit code 2: unknown arguments, and the options that look like them."""
    options = [option for action in parser._actions for option in action.option_strings]
    near = {close for word in unknown for close in difflib.get_close_matches(word.split("=")[0], options, n=1)}
    hint = f" (did you mean {' or '.join(sorted(near))}?)" if near else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


if __name__ == "__main__":
    sys.exit(main())
