"""Every error that this package raises on purpose.

    VprmError
    ├── BundleError (ValueError)         a bundle directory that is missing, damaged or of another version
    ├── CheckpointError (ValueError)     a checkpoint directory with missing, misshapen or unknown content
    ├── UnsupportedError (ValueError)    a model option that is understood but not supported
    ├── InputError (ValueError)          an image, question, response or row that cannot be scored
    ├── EngineError (RuntimeError)       an inference engine that could not be opened or failed while running
    ├── ServerError (RuntimeError)       a server that refused, gave up or cannot be reached
    └── MissingExtraError (ImportError)  an optional dependency that is not installed

Each is also the builtin that a caller who does not know the package would catch. Messages say what happened, what was
expected and how to mend it. `code` is for programs: it stays the same when a message is worded anew.
"""

from typing import ClassVar


def quoted(value: object, limit: int = 200) -> str:
    """Text of the user as messages quote it: at most `limit` characters, control characters escaped."""
    text = str(value)
    shown = text if len(text) <= limit else f"{text[: limit - 4]} ..."
    return shown if shown.isprintable() else repr(shown)[1:-1]


class VprmError(Exception):
    """Base of all errors that this package raises on purpose. `code` names the reason for programs."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code


class BundleError(VprmError, ValueError):
    """A bundle directory is missing, damaged or of another version."""

    default_code = "bundle"


class CheckpointError(VprmError, ValueError):
    """A checkpoint directory has missing, misshapen or unknown content."""

    default_code = "checkpoint"


class UnsupportedError(VprmError, ValueError):
    """A model option is understood but not supported."""

    default_code = "unsupported"


class InputError(VprmError, ValueError):
    """An image, question, response or input row cannot be scored."""

    default_code = "invalid_input"


class EngineError(VprmError, RuntimeError):
    """An inference engine could not be opened or failed while running."""

    default_code = "engine"


class ServerError(VprmError, RuntimeError):
    """A server refused a request, gave it up or cannot be reached. It says nothing about the row: try again later.

    `code` is one of overloaded, draining, deadline, unauthorized, unreachable, not_found, server. `retry_after_s` is
    when the server expects to have room, if it said so.
    """

    default_code = "server"

    def __init__(self, message: str = "", *, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class MissingExtraError(VprmError, ImportError):
    """An optional dependency is not installed."""

    default_code = "missing_extra"

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(
            f"an optional dependency is missing for {need}: run  pip install 'vprm[{extra}]'  "
            f"(in a clone of the repository:  pip install '.[{extra}]')"
        )
        self.extra = extra
