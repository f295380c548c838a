"""Repeated runs as CUDA graphs: recorded once, replayed from then on."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from vprm_runtime.errors import EngineError


class Replay:
    """Runs that repeat are recorded at their second time and replayed from then on, the least recent ones forgotten.

    A key must hold all that a run depends on: shapes and addresses. Where a run cannot be recorded, a RuntimeWarning
    says why and all runs are queued directly from then on: slower, and as right.
    """

    def __init__(self, device: Any, capacity: int = 16) -> None:
        self._device = device  # with capture, launch, forget
        self._capacity = capacity
        self._seen: OrderedDict[Hashable, Any] = OrderedDict()  # key -> recorded graph; None: seen once
        self._records = True

    def run(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        """Queue a run: directly at first, then by its recording."""
        if not self._records:
            enqueue()
            return
        if key not in self._seen:
            enqueue()  # also lets the library do its one-time work for these shapes outside of a recording
            self._seen[key] = None
            if len(self._seen) > self._capacity:
                _, old = self._seen.popitem(last=False)
                if old is not None:
                    self._device.forget(old)
            return
        self._seen.move_to_end(key)
        if self._seen[key] is None:
            try:
                self._seen[key] = self._device.capture(enqueue)
            except EngineError as error:
                self._records = False
                warnings.warn(f"runs are not replayed as CUDA graphs: {error}", RuntimeWarning, stacklevel=2)
                enqueue()
                return
        self._device.launch(self._seen[key])
