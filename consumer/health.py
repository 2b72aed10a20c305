"""What a worker shows over HTTP: metrics and probes."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from consumer.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# What a stop waits for requests that are being answered.
_REQUESTS_END_SECONDS_MAX = 15

Probe = Callable[[], Awaitable[str | None]]
"""Gives the reason why not, None if all is well."""


def health_app(registry: CollectorRegistry, healthy: Probe, ready: Probe) -> Starlette:
    """Make the app with `/metrics`, `/healthz` and `/readyz`."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def answer(probe: Probe) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(_: Request) -> Response:
            reason = await probe()
            return PlainTextResponse(reason or "ok", status_code=503 if reason else 200)

        return endpoint

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", answer(healthy)),
            Route("/readyz", answer(ready)),
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the worker has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(
    app: "ASGIApp",
    host: str,
    port: int,
    named: str = "WINDSOR_HTTP",
    protocol: type[asyncio.Protocol] | None = None,
) -> AsyncIterator[int]:
    """Serve an app while inside; gives the port, a free one for port 0.

    Args:
        app: What answers.
        host: The address to listen on.
        port: Likewise.
        named: How the settings of host and port begin, for a person.
        protocol: What speaks HTTP, where uvicorn's own choice does not do.

    Raises:
        ConfigError: The port is taken, or the host is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Not uvicorn's own binding, which exits and leaves its socket open.
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{named}_PORT: {port} is taken, choose another") from error
        raise ConfigError(
            f"{named}_HOST, {named}_PORT: cannot listen on {host} {port}: {error}"
        ) from error
    server = _Server(
        uvicorn.Config(
            app,
            http=protocol or "auto",
            # Whatever else is installed.
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_REQUESTS_END_SECONDS_MAX,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listening.close()
