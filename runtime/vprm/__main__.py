"""`vprm` and `python -m vprm`. Ctrl-C ends with exit code 130 from here on, during imports too."""

import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        from vprm_runtime.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
