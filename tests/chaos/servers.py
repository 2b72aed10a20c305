"""A broker and a Postgres of our own, to be broken; each behind a proxy that can be, too."""

import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil

from consumer.errors import WindsorError
from consumer.schema import migrate
from demo.servers import Kafka, Postgres, embedded_kafka, embedded_postgres, free_port
from tests.proxy import Address, Proxy, proxying

# An ordinary role owns the database, as in production: a superuser's connections have no limit.
ROLE: Final = "chaos_owner"

# Speed for safety: nothing of it outlives a crash of the machine, but all a crash of the server.
_SETTINGS: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}


class BreakablePostgres:
    """An embedded Postgres that can be restarted, killed, frozen, and replaced by its standby."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._server: Postgres | None = None

    @property
    def dsn(self) -> str:
        """Straight to the server, as its superuser."""
        assert self._server is not None, "Postgres is away"
        return self._server.dsn

    @property
    def address(self) -> Address:
        """Where a proxy finds it."""
        folder = Path(parse_qs(urlsplit(self.dsn).query)["host"][0])
        return Address(path=folder / ".s.PGSQL.5432")

    def start(self) -> None:
        """Start it, or start it again."""
        deadline = time.monotonic() + 20
        while True:
            try:
                self._server = self._stack.enter_context(embedded_postgres(self._folder, _SETTINGS))
            except WindsorError:
                # The shared memory of one that was killed is not free at once.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        """Stop it in an orderly way, the connections ended."""
        self._stack.close()
        self._stack = ExitStack()

    def kill(self) -> None:
        """SIGKILL the server with all of its backends; what was committed is in its log."""
        assert self._server is not None
        postmaster = psutil.Process(self._server.pid)
        backends = postmaster.children(recursive=True)
        postmaster.kill()
        for backend in backends:
            with suppress(psutil.NoSuchProcess):
                backend.kill()
        psutil.wait_procs([postmaster, *backends], 10)
        self.stop()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server and all of its backends stand still, their connections open."""
        assert self._server is not None
        postmaster = psutil.Process(self._server.pid)
        # First, so that it starts no others.
        postmaster.suspend()
        stopped = [postmaster, *postmaster.children(recursive=True)]
        try:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def crash_backend(self) -> None:
        """SIGKILL one backend: Postgres then ends all the others and recovers."""
        assert self._server is not None
        for child in psutil.Process(self._server.pid).children():
            if "windsor" in " ".join(child.cmdline()):
                child.kill()
                return

    def make_standby(self, folder: Path) -> "BreakablePostgres":
        """A standby that has everything before a COMMIT is answered."""
        assert self._server is not None
        folder.mkdir(mode=0o700)
        user = None
        if os.geteuid() == 0:
            owner = self._folder.stat().st_uid
            user = pwd.getpwuid(owner).pw_name
            os.chown(folder, owner, -1)
        subprocess.run(
            [self._server.psql.parent / "pg_basebackup", "--pgdata", folder, "--dbname", self.dsn,
             "--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream"],
            check=True, user=user, cwd="/", stdout=subprocess.DEVNULL,
        )  # fmt: skip
        # What is the primary's own.
        for name in ("log", ".handle_pids.json", "postmaster.opts", ".s.PGSQL.5432.lock"):
            (folder / name).unlink(missing_ok=True)
        standby = BreakablePostgres(folder)
        standby.start()
        return standby

    def database(self, name: str, proxy: Proxy) -> str:
        """A database as the workers reach it: by the proxy, as an ordinary role."""
        return f"postgresql://{ROLE}@127.0.0.1:{proxy.port}/{name}"

    def direct(self, name: str) -> str:
        """The same, past the proxy, as superuser."""
        return re.sub(r"(?<=[^/])/[^/?]*(\?|$)", rf"/{name}\1", self.dsn, count=1)


class BreakableKafka:
    """An embedded broker that can be restarted, killed and frozen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._broker: Kafka | None = None
        self._port = free_port()
        self.behind_port = free_port()
        self.proxy_port = free_port()

    @property
    def bootstrap_servers(self) -> str:
        """Straight to the broker."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._broker is not None, "the broker is away"
        return self._broker.pid

    def start(self) -> None:
        """Start it, or start it again."""
        self._broker = self._stack.enter_context(
            embedded_kafka(self._folder, self._port, settings=self._proxied())
        )

    def _proxied(self) -> dict[str, str]:
        """A second listener, whose clients are told the proxy's port alone."""
        return {
            "listeners": f"PROXIED://127.0.0.1:{self.behind_port}",
            "advertised.listeners": f"PROXIED://127.0.0.1:{self.proxy_port}",
            "listener.security.protocol.map": "PROXIED:PLAINTEXT",
        }

    def stop(self) -> None:
        """Stop it in an orderly way."""
        self._stack.close()
        self._stack = ExitStack()

    def kill(self) -> None:
        """SIGKILL it."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()


class Servers(NamedTuple):
    """Both, as long as the scoreboard or the tests run."""

    kafka: BreakableKafka
    postgres: BreakablePostgres
    folder: Path


class Network(NamedTuple):
    """The proxies that the workers go through."""

    kafka: Proxy
    postgres: Proxy


@contextmanager
def breakable_servers(folder: Path) -> Iterator[Servers]:
    """Run both servers."""
    postgres, kafka = BreakablePostgres(folder / "postgres"), BreakableKafka(folder / "kafka")
    try:
        postgres.start()
        kafka.start()
        yield Servers(kafka, postgres, folder)
    finally:
        kafka.stop()
        postgres.stop()


@asynccontextmanager
async def network(servers: Servers) -> AsyncIterator[Network]:
    """Run the proxies."""
    async with (
        proxying(Address(servers.kafka.behind_port), servers.kafka.proxy_port) as kafka,
        proxying(servers.postgres.address) as postgres,
    ):
        yield Network(kafka, postgres)


async def create_database(servers: Servers, proxy: Proxy, name: str) -> str:
    """Make a migrated database of the role's; gives its address by the proxy."""
    server = await asyncpg.connect(servers.postgres.dsn)
    try:
        if not await server.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", ROLE):
            await server.execute(f"CREATE ROLE {ROLE} LOGIN")
        await server.execute(f"CREATE DATABASE {name} OWNER {ROLE}")
    finally:
        await server.close()
    dsn = servers.postgres.database(name, proxy)
    await migrate(dsn)
    return dsn
