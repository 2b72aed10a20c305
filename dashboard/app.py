"""The composition root: settings become a serving dashboard."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.applications import Starlette

from consumer.app import stop_on_signals
from consumer.errors import SchemaError, TransientSinkError
from consumer.health import health_app, serving
from consumer.postgres import FAILURES
from consumer.schema import check_schema
from consumer.settings import Settings, require
from dashboard import pages
from dashboard.database import SESSION, take_role
from dashboard.headers import SecurityHeaders
from dashboard.parts import Parts

log = structlog.get_logger()

# People look at few pages at once; what is beyond waits for a connection.
_CONNECTIONS_MAX = 8


async def serve(
    settings: Settings,
    stop: asyncio.Event | None = None,
    started: Callable[[int, int], None] | None = None,
) -> None:
    """Serve the dashboard until SIGTERM, SIGINT or `stop`, then let requests end.

    Args:
        settings: With Kafka and the database given.
        stop: Set to end it from within.
        started: Told the ports once both listen: the dashboard's, and that of the probes.

    Raises:
        ConfigError: A setting is missing, or a port taken.
        SchemaError: The database has another version's schema.
    """
    require(settings, "kafka_bootstrap_servers", "database_url")
    stop = stop or asyncio.Event()
    stop_on_signals(stop)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    await _refuse_other_schemas(str(settings.database_url))
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(_pool(settings))
        app = SecurityHeaders(Starlette(routes=pages.routes(Parts(settings, pool, stop))))

        async def healthy() -> str | None:
            return None

        async def ready() -> str | None:
            try:
                await pool.fetchval("SELECT 1")
            except FAILURES as error:
                return f"Postgres cannot be used now: {error!r}"
            return None

        probes = health_app(registry, healthy, ready)
        probes_port = await stack.enter_async_context(
            serving(probes, settings.http_host, settings.http_port)
        )
        port = await stack.enter_async_context(
            serving(app, settings.dashboard_host, settings.dashboard_port, "WINDSOR_DASHBOARD")
        )
        log.info("dashboard.started", port=port, http_port=probes_port)
        if started is not None:
            started(port, probes_port)
        await stop.wait()
    log.info("dashboard.stopped")


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
