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
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, Tracer
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

    A record's span reaches from when it was read to the commit in Postgres of the transaction
    that wrote it; a batch envelope whose calls go to several transactions has one of each. The
    transaction's own span links to the senders of its records, and they to it: a trace has one
    parent, and a batch has many.
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
        traced = {
            _place(item.record): (item.record, parent)
            for items in (batch.calls, batch.rejected)
            for item in items
            if item.record.headers and (parent := _sender(item.record)) is not None
        }
        sampled = [
            Link(sender)
            for _, parent in traced.values()
            if (sender := _span_context(parent)).trace_flags.sampled
        ]
        transaction = []
        if sampled:
            written_by = self._transaction(lane, batch, written, sampled, now - seconds, now)
            transaction = [Link(written_by)]
        for place, (record, parent) in traced.items():
            self._continue_trace(record, parent, transaction, batch.reads, refused.get(place), now)

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

    def _transaction(
        self,
        lane: int,
        batch: Batch,
        written: Written,
        senders: Sequence[Link],
        started: float,
        now: float,
    ) -> SpanContext:
        """A transaction's span; of its links the SDK keeps 128, or as many as it is told."""
        records = {_place(item.record) for items in batch[:2] for item in items}
        span = self._tracer.start_span(
            "write batch",
            # Of no trace: what it links to are many.
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.batch.message_count": len(records),
                "messaging.consumer.group.name": self._group_id,
                "windsor.lane": lane,
                "windsor.calls_new": written.calls_new,
                "windsor.calls_duplicate": written.calls_duplicate,
                "windsor.dead_letters": written.dead_letters,
                "windsor.attempts": written.attempts,
            },
            links=senders,
            start_time=_ns(started),
        )
        span.end(_ns(now))
        return span.get_span_context()

    def _continue_trace(
        self,
        record: Record,
        parent: Context,
        transaction: Sequence[Link],
        reads: Sequence[Read],
        refused: str | None,
        now: float,
    ) -> None:
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
            links=transaction,
            start_time=_ns(_read_at(record, reads, now)),
        )
        if refused is not None:
            span.set_attribute("error.type", refused)
            # The reason is of a fixed list; a detail may quote what was sent.
            span.set_status(Status(StatusCode.ERROR, refused))
        span.end(_ns(now))


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _sender(record: Record) -> Context | None:
    """The context that a record's headers carry, None if they carry none."""
    carrier = {
        name: value.decode("ascii", "replace")
        for name, value in record.headers
        if name in _PROPAGATED and value is not None
    }
    parent = _propagator.extract(carrier)
    return parent if _span_context(parent).is_valid else None


def _span_context(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


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
