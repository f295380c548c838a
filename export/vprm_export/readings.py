"""What an export read from where, and what it had to assume: shown at its end, kept in the manifest."""

from dataclasses import dataclass, field

from vprm_runtime.bundle.manifest import Reading


@dataclass
class Readings:
    """Collects readings while a checkpoint is opened. One `what` is kept once; the last word counts."""

    _by_name: dict[str, Reading] = field(default_factory=dict)

    def read(self, what: str, value: object, source: str) -> None:
        """Note that `what` was read from `source`."""
        self._by_name[what] = Reading(what, _shortened(value), source, False)

    def assume(self, what: str, value: object, why: str) -> None:
        """Note that nothing says `what`, and why `value` was taken: it decides scores, so a user has to see it."""
        self._by_name[what] = Reading(what, _shortened(value), why, True)

    @property
    def all(self) -> tuple[Reading, ...]:
        """Assumptions first, then what was read, each in the order of noting."""
        return tuple(sorted(self._by_name.values(), key=lambda reading: not reading.assumed))


def _shortened(value: object, limit: int = 120) -> str:
    text = value if isinstance(value, str) else f"{value:.10g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
