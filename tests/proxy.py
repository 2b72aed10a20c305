"""A TCP proxy on loopback that can be told to fail as a network does.

One proxy stands before one server. A fault holds for all of its connections, present and
future, until it is mended. What a black hole has swallowed never arrives: a connection that
lost bytes stays dead after the mending too, and nobody is told, as when a firewall has
forgotten it.
"""

import asyncio
import enum
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

LATENCY_SECONDS: Final = 0.5
SLOW_BYTES_PER_SECOND: Final = 1024


class Fault(enum.Enum):
    """What may be wrong with a network."""

    NONE = "none"
    CLOSED = "closed"
    RESET = "reset"
    BLACK_HOLE = "black hole"
    SLOW = "slow (1 KB/s)"
    LATENCY = "latency 500 ms"


class Address(NamedTuple):
    """Where a server listens: a port of the loopback address, or a unix socket."""

    port: int | None = None
    path: Path | None = None


class Cuts:
    """Cuts a connection in the middle of a COMMIT, now and then: before, while or after."""

    def __init__(self, rng: random.Random, share: float) -> None:
        self._rng = rng
        self._share = share
        self.before = 0
        self.during = 0
        self.after = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return self.before + self.during + self.after

    def draw(self) -> str | None:
        """Say where to cut the next COMMIT, None to let it pass."""
        if self._rng.random() >= self._share:
            return None
        place = self._rng.choice(("before", "during", "after"))
        setattr(self, place, getattr(self, place) + 1)
        return place


class _Link:
    """One client's connection, and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.lost = False
        self.cut_after_answer = False

    def close(self) -> None:
        self.client.close()
        self.server.close()

    def reset(self) -> None:
        for writer in (self.client, self.server):
            connection = writer.transport.get_extra_info("socket")
            if connection is not None and connection.family != socket.AF_UNIX:
                with suppress(OSError):
                    # Closed with unsent bytes thrown away: the other side gets a RST.
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
            writer.transport.abort()


class Proxy:
    """Stands before a server; see the module."""

    def __init__(self, server: Address) -> None:
        self.server = server
        self.port = 0
        self.cuts: Cuts | None = None
        self._fault = Fault.NONE
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many pass through it now."""
        return len(self._links)

    def fail(self, fault: Fault) -> None:
        """Break the network in one way."""
        self._fault = fault
        if fault in (Fault.CLOSED, Fault.RESET):
            self.drop(reset=fault is Fault.RESET)

    def mend(self) -> None:
        """Let everything pass again."""
        self._fault = Fault.NONE

    def drop(self, *, reset: bool = False) -> None:
        """End all connections of now."""
        for link in list(self._links):
            (link.reset if reset else link.close)()

    async def serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        """Carry one client's connection to the server and back."""
        if self._fault in (Fault.CLOSED, Fault.RESET):
            answer.transport.abort()
            return
        try:
            reader, writer = await self._connect()
        except OSError:
            answer.transport.abort()
            return
        link = _Link(answer, writer)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(link, client, writer, to_server=True)),
            asyncio.create_task(self._pump(link, reader, answer, to_server=False)),
        ]
        self._tasks.update(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._tasks.difference_update(pumps)
            self._links.discard(link)
            link.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.server.path is not None:
            return await asyncio.open_unix_connection(str(self.server.path))
        return await asyncio.open_connection("127.0.0.1", self.server.port)

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        to_server: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        not_before = 0.0
        with suppress(OSError):
            while chunk := await reader.read(64 * 1024):
                if not to_server and link.cut_after_answer:
                    link.reset()
                    return
                place = self._cut_of(chunk) if to_server else None
                if place == "before":
                    link.reset()
                    return
                if self._fault is Fault.BLACK_HOLE:
                    link.lost = True
                if link.lost:
                    continue
                if self._fault is Fault.LATENCY or not_before > loop.time():
                    latency = LATENCY_SECONDS if self._fault is Fault.LATENCY else 0.0
                    not_before = max(loop.time() + latency, not_before)
                    loop.call_at(not_before, writer.write, chunk)
                    continue
                # First, so that the answer cannot come between.
                link.cut_after_answer = place == "after"
                await self._write(writer, chunk)
                if place == "during":
                    link.reset()
                    return

    def _cut_of(self, chunk: bytes) -> str | None:
        return self.cuts.draw() if self.cuts is not None and b"COMMIT" in chunk else None

    async def _write(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        step = SLOW_BYTES_PER_SECOND // 8
        while chunk and self._fault is Fault.SLOW:
            writer.write(chunk[:step])
            chunk = chunk[step:]
            await writer.drain()
            await asyncio.sleep(step / SLOW_BYTES_PER_SECOND)
        if self._fault is not Fault.BLACK_HOLE:
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def proxying(server: Address, port: int = 0) -> AsyncIterator[Proxy]:
    """Run a proxy before a server, on a port given or a free one."""
    proxy = Proxy(server)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        proxy.drop(reset=True)
        for task in list(proxy._tasks):  # noqa: SLF001 - ours
            task.cancel()
        await asyncio.sleep(0)


@asynccontextmanager
async def postgres_behind_a_proxy(dsn: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Run a proxy before a Postgres of this machine; gives the database's address by it."""
    there = urlsplit(dsn)
    (folder,) = parse_qs(there.query).get("host", [None])
    port = there.port or 5432
    server = Address(port) if folder is None else Address(path=Path(folder) / f".s.PGSQL.{port}")
    login = there.netloc.rpartition("@")[0] or "postgres"
    async with proxying(server) as proxy:
        yield proxy, f"postgresql://{login}@127.0.0.1:{proxy.port}{there.path}?sslmode=disable"
