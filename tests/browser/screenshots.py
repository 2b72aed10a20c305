"""`make screenshots`: the pages of a lively workspace, as the docs show them."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.schema import migrate
from demo.servers import embedded_kafka, embedded_postgres
from demo.story import live, story
from tests.browser.chromium import Scheme, chromium, page_of
from tests.dashboard.looking import looking, store

FOLDER = Path("docs/screenshots")
DESK, PHONE = (1280, 860), (390, 844)
SHOTS: tuple[tuple[str, str, Scheme, tuple[int, int]], ...] = (
    ("feed", "/", "light", DESK),
    ("feed-dark", "/", "dark", DESK),
    ("feed-phone", "/", "light", PHONE),
    ("users", "/users", "light", DESK),
    ("user", "/user?id=10005", "light", DESK),
    ("user-phone", "/user?id=10005", "dark", PHONE),
    ("group", "/group?id=co_1", "light", DESK),
    ("audience", "/audience?name=power_users", "light", DESK),
    ("sources", "/sources", "light", DESK),
    ("dead-letters", "/dead-letters", "light", DESK),
    ("dead-letter", "/dead-letter?id=2", "dark", DESK),
    ("health", "/health", "light", DESK),
)


def lately(now_ms: int) -> Iterator[bytes]:
    """The story, and an hour in which it goes on, a little more often towards its end."""
    for record in story():
        if record.value is not None:
            yield record.value
    for number in range(120):
        ago_seconds = 3_500 * (1 - number / 120) ** 2 + 4
        record = live(now_ms - int(ago_seconds * 1000), number)
        assert record.value is not None
        call: dict[str, Any] = msgspec.json.decode(record.value)
        yield msgspec.json.encode(call)


async def make_topic(kafka: str) -> None:
    """The topic that the dashboard's endpoint writes to."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("calls", 4, 1)])
    finally:
        await admin.close()


async def take(dsn: str, kafka: str) -> None:
    """Take all pictures of one database."""
    await migrate(dsn)
    now_ms = int(time.time() * 1000)
    await store(dsn, lately(now_ms), now_ms)
    await make_topic(kafka)
    async with looking(dsn, kafka) as looker, chromium() as browser:
        for name in ("Website", "iOS app"):
            await looker.send("/sources/generate", name=name)
        for name, path, scheme, size in SHOTS:
            async with page_of(browser, looker, scheme, size) as page:
                await page.goto(path)
                # Health draws what it has seen for a while.
                await page.wait_for_timeout(25_000 if name == "health" else 800)
                await page.screenshot(path=FOLDER / f"{name}.png")
            print(FOLDER / f"{name}.png")


def main() -> None:
    """Run as a script."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="windsor-shots-") as folder:
        Path(folder).chmod(0o755)
        with (
            embedded_postgres(Path(folder) / "postgres", {"fsync": "off"}) as postgres,
            embedded_kafka(Path(folder) / "kafka") as kafka,
        ):
            asyncio.run(take(postgres.dsn, kafka.bootstrap_servers))


if __name__ == "__main__":
    main()
