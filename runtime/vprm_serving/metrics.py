"""What Prometheus scrapes. Names follow vLLM's, without its colons.

| metric                                    | kind      | what                                                        |
|-------------------------------------------|-----------|-------------------------------------------------------------|
| vprm_requests_running                     | gauge     | requests on which the engine has begun                      |
| vprm_requests_waiting                     | gauge     | requests that wait for it                                   |
| vprm_queue_tokens                         | gauge     | tokens of all accepted requests                             |
| vprm_request_success_total                | counter   | requests that were answered with scores                     |
| vprm_request_failure_total{reason}        | counter   | requests that were not, by error code                       |
| vprm_response_failure_total               | counter   | responses that carried an error beside others' scores       |
| vprm_e2e_request_latency_seconds          | histogram | from a request's first byte to its answer                   |
| vprm_request_queue_time_seconds           | histogram | from being tokenised to the engine's first block            |
| vprm_request_responses                    | histogram | responses per request                                       |
| vprm_prompt_tokens_total                  | counter   | tokens that the engine ran                                  |
| vprm_prefix_cache_queries_total           | counter   | prefix tokens of all requests                               |
| vprm_prefix_cache_hits_total              | counter   | those that were run already, or run once for several        |
| vprm_prefix_cache_evictions_total         | counter   | prefixes that made room for others                          |
| vprm_kv_cache_bytes                       | gauge     | real bytes of prefixes and sessions                         |
| vprm_upload_bytes                         | gauge     | bytes of uploaded images                                    |
| vprm_cache_budget_bytes                   | gauge     | what both may take together                                 |
| vprm_sessions                             | gauge     | open sessions                                               |
| vprm_iteration_seconds                    | histogram | engine calls                                                |
| vprm_engine_busy_seconds_total            | counter   | time in engine calls                                        |
| vprm_engine_up                            | gauge     | 1 while the engine makes progress                           |
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
RESPONSES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Gauge = Callable[[], float]


class Metrics:
    """A registry of its own, so that several servers in a process do not mix. Threads may share it."""

    def __init__(self, gauges: dict[str, tuple[str, Gauge]], counters: dict[str, tuple[str, Gauge]]) -> None:
        """`gauges` and `counters` are read when somebody scrapes: name to (help, function)."""
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Functions(gauges, counters))
        self.success = Counter("vprm_request_success", "Requests answered with scores.", registry=registry)
        self.failure = Counter("vprm_request_failure", "Requests not answered.", ["reason"], registry=registry)
        self.latency = _histogram("vprm_e2e_request_latency_seconds", "First byte to answer.", LATENCY_S, registry)
        self.queue_time = _histogram("vprm_request_queue_time_seconds", "Tokenised to running.", LATENCY_S, registry)
        self.iteration = _histogram("vprm_iteration_seconds", "One engine call.", LATENCY_S, registry)
        self.responses = _histogram("vprm_request_responses", "Responses per request.", RESPONSES, registry)
        self.prefix_queries = Counter("vprm_prefix_cache_queries", "Prefix tokens asked for.", registry=registry)
        self.prefix_hits = Counter("vprm_prefix_cache_hits", "Prefix tokens not run again.", registry=registry)

    def text(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


class _Functions(Collector):
    def __init__(self, gauges: dict[str, tuple[str, Gauge]], counters: dict[str, tuple[str, Gauge]]) -> None:
        self._gauges, self._counters = gauges, counters

    def collect(self) -> Iterator[Metric]:
        """Gauges and counters as they are now."""
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value())
        for name, (text, value) in self._counters.items():
            yield CounterMetricFamily(name, text, value())


def _histogram(name: str, text: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, buckets=buckets, registry=registry)
