"""Warnings about what a caller probably did not mean, each logged once."""

import logging

from vprm_runtime.prompt.steps import SplittingWatch

_LOG = logging.getLogger("vprm")
_MOST = 100  # of one scorer


class Remarks:
    """What one scorer has to say. Threads may share it: at worst two of them log the same line."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, line: str) -> None:
        """Log a warning; one that differs from an earlier one by its numbers only was said."""
        topic = "".join(sign for sign in line if not sign.isdigit())
        if topic not in self._said and len(self._said) < _MOST:
            self._said.add(topic)
            _LOG.warning("%s", line)

    def of_splitting(self, watch: SplittingWatch, max_steps: int | None) -> None:
        """Log a warning if responses were probably meant to have several steps."""
        if max_steps != 1 and watch.warning is not None:
            self.say(watch.warning)
