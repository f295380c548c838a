"""`vprm` and `python -m vprm`. Ctrl-C ends with exit code 130 and one line from here on, during imports too."""

import os
import signal
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    heeds_interrupt = signal.getsignal(signal.SIGINT) == signal.default_int_handler  # no: a shell runs it in background
    if heeds_interrupt:
        signal.signal(signal.SIGINT, _leave)  # an exception in the midst of an import could end anywhere
    from vprm_runtime.cli.main import main as run

    if heeds_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is the interpreter's own end, milliseconds


def _leave(number: int, frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
