"""The composition root: settings become a running worker."""

import asyncio
import importlib.util
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import asyncpg
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from consumer.core.decode import Decoder
from consumer.errors import (
    ConfigError,
    DeadTopicError,
    RetentionError,
    SourceError,
    TransientSinkError,
    WindsorError,
)
from consumer.garbage import StillCollector, collect_rarely
from consumer.health import health_app, serving
from consumer.kafka import KafkaSource, check_connection
from consumer.metrics import Metrics
from consumer.options import (
    check_settings,
    decode_rules,
    kafka_options,
    pipeline_options,
    postgres_options,
    retry_policy,
    upkeep_options,
)
from consumer.pipeline import Observer, Pipeline, ready_reason
from consumer.postgres import PostgresSink, open_sink
from consumer.retention import keep_up
from consumer.schema import check_schema
from consumer.settings import Settings

log = structlog.get_logger()

_LAG_INTERVAL_SECONDS = 5.0
# The first turn comes soon: a week ahead may be missing, or a pruning half done.
_UPKEEP_FIRST_SECONDS = 5.0
_UPKEEP_INTERVAL_SECONDS = 3600.0
_UPKEEP_RETRY_SECONDS = 300.0


async def consume(
    settings: Settings,
    stop: asyncio.Event | None = None,
    started: Callable[[int], None] | None = None,
) -> None:
    """Run the worker until SIGTERM, SIGINT or `stop`, then drain.

    Args:
        settings: With Kafka and the database given.
        stop: Set to end the worker from within.
        started: Told the HTTP port once it listens.

    Raises:
        ConfigError: See `check_settings`.
        SchemaError: The database has another version's schema.
        SourceError: Kafka cannot be consumed any more; a RetentionError among them.
        DeadTopicError: Most of a topic is dead letters.
    """
    check_settings(settings)
    collect_rarely()
    stop = stop or asyncio.Event()
    stop_on_signals(stop)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    metrics = Metrics(registry)
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(_tracing(metrics, settings.kafka_group_id))
        worker = _Worker(settings, metrics, tracing)
        app = health_app(registry, worker.healthy, worker.ready)
        port = await stack.enter_async_context(serving(app, settings.http_host, settings.http_port))
        log.info("worker.started", http_port=port, topics=settings.kafka_topics)
        if started is not None:
            started(port)
        try:
            await worker.run(stop)
        except (DeadTopicError, RetentionError) as error:
            worker.stopped_by = error
            if isinstance(error, RetentionError):
                log.error("worker.overtaken", error=str(error))  # noqa: TRY400 - no mistake of ours
            # Not at once: an alert needs a scrape that sees why.
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), settings.linger_seconds)
            raise
    log.info("worker.stopped")


class _Worker:
    """One worker's life: wait for the database, consume, drain."""

    def __init__(self, settings: Settings, metrics: Metrics, observer: Observer) -> None:
        self._settings = settings
        self._metrics = metrics
        self._observer = observer
        self._pipeline: Pipeline | None = None
        self._sink: PostgresSink | None = None
        self._source: KafkaSource | None = None
        self._database_refusal: str | None = None
        self._kafka_refusal: str | None = None
        self.stopped_by: WindsorError | None = None
        """Why it has stopped by itself, for those who look."""

    async def run(self, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            opened = await self._open_database(stack, stop)
            if opened is None:
                return
            sink, clock = opened
            source = KafkaSource(kafka_options(self._settings), self._metrics)
            pipeline = Pipeline(
                source,
                sink,
                Decoder(decode_rules(self._settings)),
                self._observer,
                pipeline_options(self._settings),
                clock,
            )
            self._sink, self._source, self._pipeline = sink, source, pipeline
            consuming = asyncio.create_task(pipeline.run())
            beside = [
                asyncio.create_task(self._measure(source, pipeline, sink, clock)),
                asyncio.create_task(self._keep_up(clock)),
            ]
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait(
                    (consuming, stopping, *beside), return_when=asyncio.FIRST_COMPLETED
                )
                pipeline.stop()
                if not pipeline.started:
                    # Still waiting for a broker: there is nothing to drain.
                    consuming.cancel()
                with suppress(asyncio.CancelledError):
                    await consuming
                for task in beside:
                    # They have no end: one that has ended is a mistake of ours, to be seen.
                    if task.done():
                        task.result()
            finally:
                stopping.cancel()
                for task in beside:
                    task.cancel()

    async def healthy(self) -> str | None:
        """Why the loop makes no progress, None while it does."""
        pipeline = self._pipeline
        if pipeline is None or not pipeline.started or self.stopped_by is not None:
            return None
        stuck = time.monotonic() - pipeline.progressed_at
        return (
            f"no progress for {stuck:.0f} s"
            if stuck > self._settings.unhealthy_after_seconds
            else None
        )

    async def ready(self) -> str | None:
        """Why the worker is not ready: no group yet, or no database."""
        if self.stopped_by is not None:
            return str(self.stopped_by)
        pipeline, sink, source = self._pipeline, self._sink, self._source
        if pipeline is None or sink is None or source is None:
            return _waiting_for("the database", self._database_refusal)
        if not pipeline.started:
            return _waiting_for("Kafka", source.waiting_for)
        unready_after = self._settings.unready_after_seconds
        if (reason := ready_reason(pipeline, unready_after) or self._kafka_refusal) is not None:
            return reason
        try:
            await sink.ping()
        except TransientSinkError as error:
            return str(error)
        return None

    async def _open_database(
        self, stack: AsyncExitStack, stop: asyncio.Event
    ) -> tuple[PostgresSink, Callable[[], float]] | None:
        """Wait, with backoff, until the database answers; None if told to stop before.

        Returns:
            The sink, which `stack` closes, and the time to go by, in seconds since the epoch.
        """
        options = postgres_options(self._settings)
        retry = retry_policy(self._settings)
        attempt = 0
        while not stop.is_set():
            try:
                async with AsyncExitStack() as opening:
                    await check_schema(options.dsn)
                    sink = await opening.enter_async_context(open_sink(options))
                    clock = _carried_on(await sink.now())
                    stack.push_async_exit(opening.pop_all())
            except TransientSinkError as error:
                attempt += 1
                self._database_refusal = str(error)
                self._metrics.write_retried("connect")
                wait = retry.wait_seconds(attempt, 1.0)
                log.warning("database.unreachable", error=str(error), wait_seconds=wait)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait)
            else:
                return sink, clock
        return None

    async def _measure(
        self,
        source: KafkaSource,
        pipeline: Pipeline,
        sink: PostgresSink,
        clock: Callable[[], float],
    ) -> None:
        collector = StillCollector()
        while True:
            await asyncio.sleep(_LAG_INTERVAL_SECONDS)
            collector.look(dict(source.committed_offsets), time.monotonic())
            self._metrics.set_pool(*sink.connections())
            self._metrics.set_tasks(len(asyncio.all_tasks()))
            if pipeline.started:
                ends = await source.end_offsets()
                self._metrics.set_lag(ends, source.committed_offsets, clock())
                await self._say_why_kafka_is_gone(gone=not ends and not await source.answers())

    async def _say_why_kafka_is_gone(self, *, gone: bool) -> None:
        """Once for each reason: the client goes on trying, and says little of it."""
        reason = None
        if gone:
            try:
                await check_connection(kafka_options(self._settings))
            except (SourceError, ConfigError) as error:
                # Of the settings only their files may be wrong by now: they are renewed.
                reason = str(error)
        if reason is not None and reason != self._kafka_refusal:
            log.warning("kafka.lost", error=reason)
        self._kafka_refusal = reason

    async def _keep_up(self, clock: Callable[[], float]) -> None:
        """Make weeks ahead and prune old ones, now and then; consuming never waits for it."""
        options = upkeep_options(self._settings)
        wait = _UPKEEP_FIRST_SECONDS
        while True:
            await asyncio.sleep(wait)
            wait = _UPKEEP_INTERVAL_SECONDS
            try:
                await keep_up(options, int(clock() * 1e6), self._metrics)
            except (WindsorError, asyncpg.PostgresError) as error:
                # Also a right that is missing: no reason to stop taking calls.
                wait = _UPKEEP_RETRY_SECONDS
                self._metrics.write_retried("upkeep")
                log.warning("upkeep.failed", error=str(error), wait_seconds=wait)


def _carried_on(now: float) -> Callable[[], float]:
    """The time from now on, by a clock that nobody sets.

    What expires is gone for good, so it must not depend on a machine whose clock is wrong. All
    workers of a database go by the database's.
    """
    beginning = now - time.monotonic()
    return lambda: beginning + time.monotonic()


def _waiting_for(side: str, why: str | None) -> str:
    return f"waiting for {side}" + (f": {why}" if why else "")


@asynccontextmanager
async def _tracing(metrics: Metrics, group_id: str) -> AsyncIterator[Observer]:
    """What the pipeline tells the metrics; also as spans, where they are asked for."""
    if not _wants_spans(os.environ):
        yield metrics
    elif importlib.util.find_spec("opentelemetry.sdk") is None:
        log.info("tracing.not_installed", install="windsor[otel]")
        yield metrics
    else:
        # An extra: only where it is wanted.
        from consumer.tracing import Tracing, exporting  # noqa: PLC0415

        async with exporting() as tracer:
            log.info("tracing.started")
            yield Tracing(metrics, tracer, group_id)


def _wants_spans(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for spans."""
    endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return (
        any(environ.get(name) for name in endpoint)
        and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and environ.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"
        and environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf") == "http/protobuf"
    )


def stop_on_signals(stop: asyncio.Event) -> None:
    """Let SIGTERM and SIGINT set an event instead of ending the process."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not on Windows, and not beside the main thread: then Ctrl-C raises as usual.
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
