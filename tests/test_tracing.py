"""A record with a `traceparent` continues its sender's trace, through real Kafka."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from consumer.app import _wants_spans
from consumer.metrics import Metrics
from consumer.tracing import Tracing
from tests.processes import consuming
from tests.worker import until_consumed, working

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Headers = Sequence[tuple[str, bytes]]


def track(number: int) -> bytes:
    call = {"type": "track", "userId": "jane@example.com", "event": "E", "messageId": f"m{number}"}
    return json.dumps(call).encode()


async def send(kafka: str, topic: str, records: Sequence[tuple[bytes, Headers]]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        for value, headers in records:
            await producer.send_and_wait(topic, value, headers=list(headers))
    finally:
        await producer.stop()


async def spans_of(
    kafka: str, database: str, topic: str, records: Sequence[tuple[bytes, Headers]]
) -> list[ReadableSpan]:
    """The records' spans of a worker that consumes them, by offset."""
    spans = await all_spans_of(kafka, database, topic, records)
    return sorted((span for span in spans if span.name != "write batch"), key=offset_of)


async def all_spans_of(
    kafka: str, database: str, topic: str, records: Sequence[tuple[bytes, Headers]]
) -> Sequence[ReadableSpan]:
    """The spans of a worker that consumes these records, in the order in which they ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def traced(metrics: Metrics) -> Tracing:
        return Tracing(metrics, provider.get_tracer("test"), "windsor")

    # Sent before, so that they come in one batch.
    await send(kafka, topic, records)
    async with working(kafka, topic, database, lanes=1, observed_by=traced) as worker:
        await until_consumed(kafka, topic)
        batches = worker.metric("windsor_batch_calls_count")
    assert batches > 0, "the metrics were told nothing"
    return exporter.get_finished_spans()


def offset_of(span: ReadableSpan) -> Any:  # noqa: ANN401 - an attribute's
    return (span.attributes or {})["messaging.kafka.offset"]


async def test_span_is_the_senders_child_from_read_to_committed(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    before = time.time_ns()
    records = [
        (track(0), [("traceparent", PARENT), ("tracestate", b"vendor=1")]),
        (track(1), []),
        (track(2), [("source", b"segment")]),
    ]

    (span,) = await spans_of(kafka_server, database, name, records)

    assert (span.name, span.kind) == (f"process {name}", SpanKind.CONSUMER)
    assert span.parent is not None
    assert span.context is not None
    assert (span.context.trace_id, span.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert span.context.trace_state.to_header() == "vendor=1"
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": name,
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.consumer.group.name": "windsor",
    }
    assert span.status.is_unset
    assert span.start_time is not None
    assert span.end_time is not None
    assert before < span.start_time < span.end_time < time.time_ns()
    assert "jane" not in span.to_json()


async def test_batch_has_one_span_that_links_to_the_senders_and_they_to_it(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    before = time.time_ns()
    other = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"
    unsampled = b"00-" + b"3" * 32 + b"-" + b"4" * 16 + b"-00"
    records = [
        (track(0), [("traceparent", PARENT)]),
        (track(1), []),
        (b"not JSON", [("traceparent", other)]),
        (track(2), [("traceparent", unsampled)]),
    ]

    batch, *of_records = await all_spans_of(kafka_server, database, name, records)

    assert (batch.name, batch.kind, batch.parent) == ("write batch", SpanKind.CONSUMER, None)
    assert [(link.context.trace_id, link.context.span_id) for link in batch.links] == [
        (TRACE_ID, SPAN_ID),
        (int("1" * 32, 16), int("2" * 16, 16)),
    ]
    assert dict(batch.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.batch.message_count": 4,
        "messaging.consumer.group.name": "windsor",
        "windsor.lane": 0,
        "windsor.calls_new": 3,
        "windsor.calls_duplicate": 0,
        "windsor.dead_letters": 1,
        "windsor.attempts": 1,
    }
    assert batch.start_time is not None
    assert batch.end_time is not None
    assert before < batch.start_time < batch.end_time < time.time_ns()
    assert [link.context for span in of_records for link in span.links] == [batch.context] * 2
    assert [offset_of(span) for span in of_records] == [0, 2]


async def test_dead_letter_is_an_error_that_tells_no_payload(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    parent = [("traceparent", PARENT)]
    envelope = b'{"batch": [%s, {"type": "secret dance", "userId": "u1"}]}' % track(1)

    refused, partly = await spans_of(
        kafka_server, database, name, [(b'{"secret": 1', parent), (envelope, parent)]
    )

    assert refused.status.description == "malformed_json"
    assert not refused.status.is_ok
    assert (refused.attributes or {})["error.type"] == "malformed_json"
    assert offset_of(partly) == 1
    assert partly.status.description == "unknown_type"
    assert "secret" not in refused.to_json() + partly.to_json()


@pytest.mark.parametrize(
    "value",
    [
        b"", b"\xff", PARENT[:-4], b"ff" + PARENT[2:],
        b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
    ],
)  # fmt: skip
async def test_header_that_is_none_makes_no_span(
    value: bytes, kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    assert (
        await all_spans_of(kafka_server, database, name, [(track(0), [("traceparent", value)])])
        == ()
    )


async def test_sender_that_does_not_sample_is_obeyed(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    headers = [("traceparent", PARENT[:-1] + b"0")]
    assert await all_spans_of(kafka_server, database, name, [(track(0), headers)]) == ()


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, bytearray]]:
    """What OpenTelemetry exports to: takes everything, answers 200."""
    received = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        received.extend(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", received


async def test_worker_exports_where_the_environment_says(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    await send(kafka_server, name, [(track(0), [("traceparent", PARENT)])])
    async with collector() as (endpoint, received):
        exporting = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        }
        async with consuming(kafka_server, name, database, **exporting) as worker:
            await until_consumed(kafka_server, name)
            # Sent at the latest on leaving.
            assert await worker.stop() == 0

    assert received.startswith(b"POST /v1/traces ")
    assert f"process {name}".encode() in received
    assert TRACE_ID.to_bytes(16) in received
    assert b"service.name" in received
    assert b"jane" not in received


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "windsor"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://otel:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318", "OTEL_TRACES_EXPORTER": "none"},
            False,
        ),
    ],
)
def test_spans_are_made_where_they_are_asked_for(environ: Mapping[str, str], wanted: bool) -> None:  # noqa: FBT001 - parametrised
    assert _wants_spans(environ) is wanted
