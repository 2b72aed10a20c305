"""Spans: a record that carries a `traceparent` continues its sender's trace.

Where tracing is on, a record is looked at once, when its batch is written, and only one with
headers costs more than that; where it is off (no `OTEL_EXPORTER_OTLP_ENDPOINT`, or
`windsor[otel]` is not installed) this module is not even imported.

Source: W3C Trace Context; OpenTelemetry's semantic conventions for messaging and for Kafka.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from consumer.core.call import Record
from consumer.pipeline import Observer
from consumer.ports import Batch, Read, Written

_PROPAGATED: Final = ("traceparent", "tracestate")
# What is not sent by then is lost: spans are worth less than leaving in time.
_FLUSH_SECONDS_MAX: Final = 1.0

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Makes spans beside another observer; implements `consumer.pipeline.Observer`.

    A span reaches from when its record was read to the commit in Postgres of the transaction
    that wrote it; a batch envelope whose calls go to several transactions has one of each.
    """

    def __init__(self, observer: Observer, tracer: Tracer, group_id: str) -> None:
        self._observer = observer
        self._tracer = tracer
        self._group_id = group_id

    def batch_written(
        self, lane: int, batch: Batch, written: Written, seconds: float, now: float
    ) -> None:
        """See `consumer.pipeline.Observer`."""
        self._observer.batch_written(lane, batch, written, seconds, now)
        refused = {_place(letter.record): letter.reason for letter in batch.rejected}
        with_headers = {
            _place(item.record): item.record
            for items in (batch.calls, batch.rejected)
            for item in items
            if item.record.headers
        }
        for place, record in with_headers.items():
            self._continue_trace(record, batch.reads, refused.get(place), now)

    def skipped(self, reasons: Mapping[str, int]) -> None:
        """See `consumer.pipeline.Observer`."""
        self._observer.skipped(reasons)

    def write_retried(self, reason: str) -> None:
        """See `consumer.pipeline.Observer`."""
        self._observer.write_retried(reason)

    def lane_filled(self, lane: int, calls: int) -> None:
        """See `consumer.pipeline.Observer`."""
        self._observer.lane_filled(lane, calls)

    def partitions_changed(self, assigned: int, *, paused: bool) -> None:
        """See `consumer.pipeline.Observer`."""
        self._observer.partitions_changed(assigned, paused=paused)

    def dead_share_changed(self, topic: str, share: float) -> None:
        """See `consumer.pipeline.Observer`."""
        self._observer.dead_share_changed(topic, share)

    def topic_refused(self, topic: str) -> None:
        """See `consumer.pipeline.Observer`."""
        self._observer.topic_refused(topic)

    def topics_left(self, topics: Sequence[str]) -> None:
        """See `consumer.pipeline.Observer`."""
        self._observer.topics_left(topics)

    def _continue_trace(
        self, record: Record, reads: Sequence[Read], refused: str | None, now: float
    ) -> None:
        carrier = {
            name: value.decode("ascii", "replace")
            for name, value in record.headers
            if name in _PROPAGATED and value is not None
        }
        parent = _propagator.extract(carrier)
        if not trace.get_current_span(parent).get_span_context().is_valid:
            return
        span = self._tracer.start_span(
            f"process {record.topic}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "messaging.consumer.group.name": self._group_id,
            },
            start_time=_ns(_read_at(record, reads, now)),
        )
        if refused is not None:
            span.set_attribute("error.type", refused)
            # The reason is of a fixed list; a detail may quote what was sent.
            span.set_status(Status(StatusCode.ERROR, refused))
        span.end(_ns(now))


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _read_at(record: Record, reads: Sequence[Read], now: float) -> float:
    """When a record was read, in seconds since the epoch."""
    found = now
    for read in reads:
        if read.partition == (record.topic, record.partition) and (
            read.first_offset <= record.offset
        ):
            found = read.at
    return found


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


@asynccontextmanager
async def exporting() -> AsyncIterator[Tracer]:
    """A tracer that exports as OpenTelemetry's own variables say, over OTLP and HTTP."""
    resource = Resource.create()
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        resource = resource.merge(Resource({"service.name": "windsor"}))
    # We end it ourselves, in time.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider.get_tracer("windsor")
    finally:
        await _shut_down(provider)


async def _shut_down(provider: TracerProvider) -> None:
    """Send what is left, but wait no longer than the worker may: the collector may be away."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with suppress(RuntimeError):
            # The loop may be gone by now.
            loop.call_soon_threadsafe(done.set)

    # A daemon, and not of the loop's own threads: nobody waits for it at the end.
    threading.Thread(target=shut_down, daemon=True).start()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), _FLUSH_SECONDS_MAX)
