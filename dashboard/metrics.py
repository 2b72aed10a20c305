"""All metrics of the dashboard; `docs/metrics.md` explains each, and a test holds it."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from consumer.core.call import CallType
from dashboard.answers import RefusalCode

CutOff: TypeAlias = Literal["slow", "headers", "malformed", "connections"]
"""Why a connection is closed by us."""

_USUAL_STATUSES: Final = (200, 400, 401, 413, 503)
_DURATION_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class EndpointMetrics:
    """What the endpoint reports; labels are bounded, and never a user's or a source's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "windsor_endpoint_requests_total",
            "Requests answered, by path and status code.",
            ["path", "code"],
            registry=registry,
        )
        self._duration = Histogram(
            "windsor_endpoint_request_duration_seconds",
            "From a request's headers to its answer, of those accepted.",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._calls = Counter(
            "windsor_endpoint_calls_total",
            "Calls acknowledged by Kafka, by type.",
            ["type"],
            registry=registry,
        )
        self._refused = Counter(
            "windsor_endpoint_refused_total",
            "Requests refused, by reason.",
            ["reason"],
            registry=registry,
        )
        self._bytes = Gauge(
            "windsor_endpoint_bytes",
            "Bytes of requests that are read or wait for Kafka.",
            registry=registry,
        )
        self._produced = Histogram(
            "windsor_endpoint_produce_duration_seconds",
            "From a batch's handing over to Kafka's acknowledgement.",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._records = Counter(
            "windsor_endpoint_records_total", "Records acknowledged by Kafka.", registry=registry
        )
        self._failures = Counter(
            "windsor_endpoint_produce_failures_total",
            "Batches that Kafka did not take, or times it was away, by error.",
            ["reason"],
            registry=registry,
        )
        self._cut_off = Counter(
            "windsor_endpoint_cut_off_total",
            "Connections closed, by reason: slow, headers, malformed, connections.",
            ["reason"],
            registry=registry,
        )
        # A series that is born with its first event has no increase then: these are there from 0.
        for type_ in get_args(CallType):
            self._calls.labels(type_)
        for code in get_args(RefusalCode):
            # Nothing is asked of the database before a call is acknowledged.
            if code != "rejected_by_database":
                self._refused.labels(code)
        for reason in get_args(CutOff):
            self._cut_off.labels(reason)

    def expect(self, paths: Iterable[str]) -> None:
        """Show the usual answers of the paths that take calls, from 0 as well."""
        for path in paths:
            for status in _USUAL_STATUSES:
                self._requests.labels(path, status)

    def answered(self, path: str, status: int, code: str) -> None:
        """A request was answered; a refusal's code is its reason."""
        self._requests.labels(path, status).inc()
        if code != "ok":
            self._refused.labels(code).inc()

    def accepted(self, types: Iterable[str], seconds: float) -> None:
        """A request's calls are safe."""
        self._duration.observe(seconds)
        for type_, count in Tally(types).items():
            self._calls.labels(type_).inc(count)

    def show_bytes(self, in_flight: Callable[[], int]) -> None:
        """Ask for what is in flight when somebody looks: it changes too often to be told."""
        self._bytes.set_function(in_flight)

    def cut_off(self, reason: CutOff) -> None:
        """See `dashboard.protocol`."""
        self._cut_off.labels(reason).inc()

    def batch_produced(self, records: int, seconds: float) -> None:
        """See `consumer.kafka.publisher.PublisherObserver`."""
        self._records.inc(records)
        self._produced.observe(seconds)

    def produce_failed(self, reason: str) -> None:
        """See `consumer.kafka.publisher.PublisherObserver`."""
        self._failures.labels(reason).inc()
