"""Structured logs: one JSON object a line on stderr."""

import json
import logging
import sys
import time
from typing import Any

LOGGER = logging.getLogger("vprm.serving")


class JsonFormatter(logging.Formatter):
    """A record's message as `event`, and what was given in `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Write a line."""
    LOGGER.log(level, event, extra={"fields": fields})


def log_to_stderr() -> None:
    """Send this package's and uvicorn's logs to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("vprm", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(logging.INFO)
