"""The official SDKs, unchanged: through the endpoint, Kafka and the worker to the public views."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlencode

import asyncpg
import pytest

from consumer.postgres import Connection
from dashboard.setup import snippets
from tests import programs
from tests.dashboard.endpoint import Endpoint, MakeTopic, endpoint
from tests.worker import until_consumed, working

HERE = Path(__file__).parent
Send = Callable[[Endpoint], Awaitable[None]]


@pytest.fixture(scope="session")
def npm_packages() -> Path:
    """The packages of the lock file beside this one."""
    return programs.npm_packages(HERE)


async def run(*command: str | Path) -> None:
    """Run a program to its end, which must be a good one."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=HERE,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


@asynccontextmanager
async def sent(kafka: str, topic: str, dsn: str, send: Send) -> AsyncIterator[Connection]:
    """Let an SDK send, and a worker write it; gives a connection to look at the views."""
    async with endpoint(kafka, topic, dsn) as at, working(kafka, topic, dsn):
        await send(at)
        await until_consumed(kafka, topic)
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def rows(connection: Connection, query: str) -> list[Any]:
    return [tuple(row) for row in await connection.fetch(query)]


FEED = """
SELECT type, coalesce(user_id, anonymous_id), name, hidden, topic IS NOT NULL, context ? 'ip'
FROM windsor.feed ORDER BY type, name
"""
IDENTITIES = """
SELECT kind, value, user_id FROM windsor.user_ids ORDER BY kind, value
"""


async def check_views(connection: Connection) -> None:
    """All six calls are there, each once, and did what it does."""
    assert await rows(
        connection,
        "SELECT user_id, email, name, group_id, identified FROM windsor.users",
    ) == [("jane", "jane@example.com", "Jane Roe", "acme", True)]
    assert await rows(connection, FEED) == [
        ("page", "jane", "Pricing", True, True, True),
        ("screen", "jane", "Cart", False, True, True),
        ("track", "jane", "Order Completed", False, True, True),
    ]
    assert await rows(
        connection, "SELECT group_id, traits->>'name', members_count FROM windsor.groups"
    ) == [("acme", "Acme Inc.", 1)]
    assert await rows(connection, "SELECT previous_id, user_id FROM windsor.merges") == [
        ("jane.old", "jane")
    ]
    identities = await rows(connection, IDENTITIES)
    assert ("email", "jane@example.com", "jane") in identities
    assert ("user", "jane.old", "jane") in identities
    assert ("anonymous", "v1", "jane") in identities
    assert await rows(connection, "SELECT detail FROM windsor.dead_letters") == []
    # What was sent a moment ago has a time of a moment ago, whatever the sender's clock.
    assert await rows(
        connection,
        "SELECT count(*) FROM windsor.feed"
        " WHERE abs(extract(epoch FROM received_at - occurred_at)) > 30",
    ) == [(0,)]


@pytest.mark.parametrize("encoding", ["plain", "gzip"])
async def test_python(kafka_server: str, database: str, topic: MakeTopic, encoding: str) -> None:
    async def send(at: Endpoint) -> None:
        await run(sys.executable, HERE / "send.py", at.url, at.token, encoding)

    async with sent(kafka_server, await topic(1), database, send) as connection:
        await check_views(connection)


async def test_node(kafka_server: str, database: str, topic: MakeTopic, npm_packages: Path) -> None:
    async def send(at: Endpoint) -> None:
        await run("node", npm_packages.parent / "send.mjs", at.url, at.token)

    async with sent(kafka_server, await topic(1), database, send) as connection:
        await check_views(connection)


@pytest.mark.parametrize("strategy", ["standard", "batching"])
async def test_browser(
    kafka_server: str, database: str, topic: MakeTopic, npm_packages: Path, tmp_path: Path,
    strategy: str,
) -> None:  # fmt: skip
    async def send(at: Endpoint) -> None:
        with open_shop(npm_packages) as shop:
            query = urlencode({"url": at.url, "token": at.token, "strategy": strategy})
            await browse(f"{shop.url}/page.html?{query}", tmp_path, shop.said)
        # A batch leaves after its promises are kept.
        async with asyncio.timeout(20):
            while len(await at.records()) < 6:  # noqa: ASYNC110 - Kafka tells nobody
                await asyncio.sleep(0.1)

    async with sent(kafka_server, await topic(1), database, send) as connection:
        await check_views(connection)


# The snippets of the Sources page, as pasted ---------------------------------------------------


def pasted(at: Endpoint, title: str) -> str:
    """The code of one way of sending, as the page shows it with a new token."""
    (code,) = [one.code for one in snippets(at.url, at.token) if one.title.startswith(title)]
    return code


async def check_pasted(connection: Connection, *, identified: bool = True) -> None:
    """Jane has completed her order."""
    assert await rows(connection, "SELECT user_id, email, name FROM windsor.users") == [
        ("jane", "jane@example.com", "Jane Roe") if identified else ("jane", None, None)
    ]
    assert await rows(
        connection, "SELECT type, user_id, name, properties->>'total' FROM windsor.feed"
    ) == [("track", "jane", "Order Completed", "39.95")]
    assert await rows(connection, "SELECT detail FROM windsor.dead_letters") == []


async def test_curl_as_pasted(kafka_server: str, database: str, topic: MakeTopic) -> None:
    async def send(at: Endpoint) -> None:
        await run("sh", "-c", pasted(at, "curl"))

    async with sent(kafka_server, await topic(1), database, send) as connection:
        await check_pasted(connection, identified=False)


async def test_python_as_pasted(kafka_server: str, database: str, topic: MakeTopic) -> None:
    async def send(at: Endpoint) -> None:
        await run(sys.executable, "-c", pasted(at, "Python"))

    async with sent(kafka_server, await topic(1), database, send) as connection:
        await check_pasted(connection)


async def test_node_as_pasted(
    kafka_server: str, database: str, topic: MakeTopic, npm_packages: Path
) -> None:
    async def send(at: Endpoint) -> None:
        # Beside the packages that it imports.
        await run("node", "--input-type=module", "--eval", pasted(at, "Node"))

    assert npm_packages.parent == HERE
    async with sent(kafka_server, await topic(1), database, send) as connection:
        await check_pasted(connection)


async def test_browser_as_pasted(
    kafka_server: str, database: str, topic: MakeTopic, npm_packages: Path, tmp_path: Path
) -> None:
    async def send(at: Endpoint) -> None:
        with open_shop(npm_packages, PASTED % pasted(at, "Browser")) as shop:

            async def tell() -> None:
                while len(await at.records()) < 2:  # noqa: ASYNC110 - Kafka tells nobody
                    await asyncio.sleep(0.1)
                shop.said.append("sent")

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(tell())
                await browse(f"{shop.url}/page.html", tmp_path, shop.said)

    async with sent(kafka_server, await topic(1), database, send) as connection:
        await check_pasted(connection)


# What a bundler does with the import: the package is the bundle that has been loaded.
PASTED = """<!doctype html>
<title>A shop</title>
<script src="/index.js"></script>
<script type="importmap">
  {"imports": {"@segment/analytics-next":
    "data:text/javascript,export const { AnalyticsBrowser } = AnalyticsNext"}}
</script>
<script type="module">
%s
</script>
"""


class Shop(ThreadingHTTPServer):
    """A page of another origin than the endpoint's, and the SDK's own bundle."""

    def __init__(self, bundles: Path, page: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Pages)
        self.bundles = bundles
        self.page = page
        self.said: list[str] = []
        """What the page has told."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Pages(BaseHTTPRequestHandler):
    server: Shop

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/said":
            self.server.said.append(unquote(query))
        is_page = path == "/page.html"
        found = self.server.bundles / path.lstrip("/")
        body = found.read_bytes() if found.is_file() else b""
        body = self.server.page if is_page else body
        self.send_response(200)
        self.send_header("content-type", "text/html" if is_page else "text/javascript")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def open_shop(packages: Path, page: str | None = None) -> Iterator[Shop]:
    """Open it, with a page of its own or the one beside this file."""
    bundles = packages / "@segment" / "analytics-next" / "dist" / "umd"
    with Shop(bundles, (page or (HERE / "page.html").read_text()).encode()) as shop:
        Thread(target=shop.serve_forever, daemon=True).start()
        yield shop
        shop.shutdown()


async def browse(url: str, folder: Path, said: list[str]) -> None:
    """Open a page in a browser without a window, until it says that it is done."""
    process = await asyncio.create_subprocess_exec(
        programs.chromium(), "--headless=new", "--no-sandbox", "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", f"--user-data-dir={folder}", url,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while not said:
                assert process.returncode is None, "chromium has ended"
                await asyncio.sleep(0.05)
        assert said == ["sent"]
        # What leaves later than it is promised.
        await asyncio.sleep(1)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
