"""The composition root: settings become a serving dashboard."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.applications import Starlette
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from consumer.app import stop_on_signals
from consumer.errors import ConfigError, SchemaError, TransientSinkError, check_all
from consumer.health import Probe, health_app, serving
from consumer.kafka.options import check_topics, names_of, reads_topic
from consumer.kafka.publisher import Publisher
from consumer.options import check_servers, decode_rules, kafka_options
from consumer.schema import check_schema
from consumer.settings import Settings
from dashboard import pages
from dashboard.address import public_url
from dashboard.catalogue import load_catalogue
from dashboard.database import SESSION, take_role
from dashboard.doors import Doors, FromProxy, door_options, proxies_of
from dashboard.headers import SecurityHeaders
from dashboard.ingest import EndpointOptions, Ingest
from dashboard.metrics import EndpointMetrics
from dashboard.parts import Parts
from dashboard.protocol import Bounds, bounded
from dashboard.sources import Sources
from dashboard.stamp import Stamper

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = structlog.get_logger()

# People look at few pages at once; what is beyond waits for a connection.
_CONNECTIONS_MAX = 8


async def serve(
    settings: Settings,
    stop: asyncio.Event | None = None,
    started: Callable[[int, int], None] | None = None,
    told: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard until SIGTERM, SIGINT or `stop`, then let requests end.

    Args:
        settings: With Kafka and the database given.
        stop: Set to end it from within.
        started: Told the ports once both listen: the dashboard's, and that of the probes.
        told: Told the address at which one signs in, once there is an answer.

    Raises:
        ConfigError: See `check_settings`; or a port is taken.
        SchemaError: The database has another version's schema.
    """
    check_settings(settings)
    topic = endpoint_topic(settings)
    stop = stop or asyncio.Event()
    stop_on_signals(stop)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    metrics = EndpointMetrics(registry)
    doors = Doors(door_options(settings))
    await _refuse_other_schemas(str(settings.database_url))
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(_pool(settings))
        sources = Sources(
            str(settings.database_url),
            settings.endpoint_calls_per_second_max,
            settings.database_connect_timeout_seconds,
        )
        publisher = Publisher(
            kafka_options(settings), topic, metrics, settings.endpoint_produce_timeout_seconds
        )
        # Ended last: requests that are being answered need them.
        await stack.enter_async_context(_beside(publisher.run(), sources.keep()))
        probes = health_app(registry, _healthy, _ready(sources, publisher))
        probes_port = await stack.enter_async_context(
            serving(probes, settings.http_host, settings.http_port)
        )
        app = _endpoint_and_pages(
            settings, Parts(settings, pool, stop, doors), sources, publisher, metrics
        )
        bounds = Bounds(
            settings.endpoint_receive_timeout_seconds,
            settings.endpoint_connections_max,
            metrics.cut_off,
        )
        port = await stack.enter_async_context(
            serving(
                app,
                settings.dashboard_host,
                settings.dashboard_port,
                "WINDSOR_DASHBOARD",
                bounded(bounds),
            )
        )
        log.info("dashboard.started", port=port, http_port=probes_port, topic=topic)
        if started is not None:
            started(port, probes_port)
        if told is not None:
            told(doors.address(public_url(settings, port)))
        await stop.wait()
    log.info("dashboard.stopped")


def check_settings(settings: Settings) -> None:
    """Make sure that a dashboard can start with these, before it asks anybody.

    Raises:
        ConfigError: A setting is missing or none that can be used; a line for each.
    """
    check_all(
        lambda: check_servers(settings),
        lambda: decode_rules(settings),
        lambda: endpoint_topic(settings),
        lambda: proxies_of(settings),
        lambda: door_options(settings),
        lambda: load_catalogue(settings.dashboard_catalogue),
    )


def endpoint_topic(settings: Settings) -> str:
    """The topic that the endpoint writes to.

    Raises:
        ConfigError: It is not among the worker's, or these are a pattern and none is named.
    """
    check_topics(settings.kafka_topics)
    if (topic := settings.endpoint_topic) is not None:
        if not reads_topic(settings.kafka_topics, topic):
            raise ConfigError(
                f"WINDSOR_ENDPOINT_TOPIC: {topic} is not among WINDSOR_KAFKA_TOPICS"
                f" ({settings.kafka_topics}): no worker would read what is sent"
            )
        return topic
    if settings.kafka_topics.startswith("^"):
        raise ConfigError(
            "WINDSOR_ENDPOINT_TOPIC: must be set, since WINDSOR_KAFKA_TOPICS is a pattern"
        )
    return names_of(settings.kafka_topics)[0]


def _endpoint_and_pages(
    settings: Settings,
    parts: Parts,
    sources: Sources,
    publisher: Publisher,
    metrics: EndpointMetrics,
) -> "ASGIApp":
    """One app of both: the endpoint's paths first."""
    app: ASGIApp = Ingest(
        SecurityHeaders(Starlette(routes=pages.routes(parts))),
        sources,
        publisher,
        Stamper(decode_rules(settings)),
        metrics,
        EndpointOptions(settings.endpoint_bytes_max, settings.dashboard_url),
    )
    if believed := proxies_of(settings):
        # What others say of whom they speak for is not believed.
        proxied = ProxyHeadersMiddleware(app, trusted_hosts=believed)  # type: ignore[arg-type]  # two libraries' words for ASGI
        hosts = proxied.trusted_hosts
        app = FromProxy(proxied, lambda host: host in hosts)  # type: ignore[arg-type]  # likewise
    return app


async def _healthy() -> str | None:
    """An event loop that answers is all that can be healthy here."""
    return None


def _ready(sources: Sources, publisher: Publisher) -> Probe:
    """Ready to take calls; pages may lag behind, and say so themselves."""

    async def ready() -> str | None:
        return publisher.ready_reason() or sources.ready_reason()

    return ready


@asynccontextmanager
async def _beside(*coroutines: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run what never ends while inside.

    Raises:
        ExceptionGroup: One of them failed, which is a programmer's error.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        yield
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def _pool(settings: Settings) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    """Connections for the pages, opened when needed: a database that is away stops nothing."""
    statement_timeout_ms = int(settings.database_statement_timeout_seconds * 1000)
    pool = asyncpg.create_pool(
        settings.database_url,
        min_size=0,
        max_size=_CONNECTIONS_MAX,
        timeout=settings.database_connect_timeout_seconds,
        command_timeout=settings.database_statement_timeout_seconds,
        server_settings={
            **SESSION,
            "statement_timeout": str(statement_timeout_ms),
        },
        init=take_role,
    )
    await pool
    try:
        yield pool
    finally:
        pool.terminate()


async def _refuse_other_schemas(dsn: str) -> None:
    """Check the schema, where the database answers.

    Raises:
        SchemaError: It is another version's.
    """
    try:
        await check_schema(dsn)
    except SchemaError:
        raise
    except TransientSinkError as error:
        log.warning("database.unreachable", error=str(error))
