"""The metrics of several serving processes as one text.

Counters and histograms are added up, and never fall when a process is started again: what its predecessor had counted
at the last look stays in the sum. Gauges, and what is about a process (`process_*`), keep a label `worker`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_ADDED = ("counter", "histogram")
_PROCESS = "process_"
_CREATED = "_created"  # when a process began to count: no sum has it
_Key = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and labels


class WorkerMetrics:
    """Adds up what workers say. Used from the event loop only."""

    def __init__(self) -> None:
        self._counted: dict[tuple[int, str], Counter[_Key]] = {}
        self._ended: Counter[_Key] = Counter()
        self._current: dict[int, str] = {}

    def text(self, scraped: Mapping[int, tuple[str, str]]) -> bytes:
        """The exposition text of all workers.

        Args:
            scraped: the worker's number -> an id of its process, another one after every start, and its own text.
        """
        families: dict[str, Metric] = {}
        gauges: dict[str, list[Any]] = defaultdict(list)
        for worker, (process, text) in scraped.items():
            self._change_over(worker, process)
            counted: Counter[_Key] = Counter()
            for family in text_string_to_metric_families(text):
                if family.name.endswith(_CREATED):
                    continue
                families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                if family.type in _ADDED and not family.name.startswith(_PROCESS):
                    for sample in family.samples:
                        counted[(sample.name, tuple(sample.labels.items()))] = sample.value  # type: ignore[assignment]
                else:
                    gauges[family.name] += [
                        (sample.name, {**sample.labels, "worker": str(worker)}, sample.value)
                        for sample in family.samples
                    ]
            self._counted[(worker, process)] = counted
        sums = self._sums()
        for name, family in families.items():
            for sample in gauges.get(name, ()):
                family.add_sample(*sample)
            for (sample_name, labels), value in sums.items():
                if sample_name.removesuffix("_total") == name or _histogram_of(sample_name) == name:
                    family.add_sample(sample_name, dict(labels), value)
        registry = CollectorRegistry()
        registry.register(_Families(families))
        return generate_latest(registry)

    def _change_over(self, worker: int, process: str) -> None:
        """If the worker is another process than at the last look, what that one had counted is kept."""
        before = self._current.get(worker)
        if before is not None and before != process:
            self._ended.update(self._counted.pop((worker, before), Counter()))
        self._current[worker] = process

    def _sums(self) -> Counter[_Key]:
        sums = Counter(self._ended)
        for counted in self._counted.values():
            sums.update(counted)
        return sums


def _histogram_of(name: str) -> str:
    for end in ("_bucket", "_sum", "_count"):
        if name.endswith(end):
            return name.removesuffix(end)
    return name


class _Families(Collector):
    def __init__(self, families: Mapping[str, Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        return iter(self._families.values())
