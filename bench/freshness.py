"""How long after its Kafka timestamp a call is seen by a query, at a steady pace.

Seen from outside: the bench asks `windsor.users` again and again which probe each of a few users
has last. So a call counts as visible once the customer's profile shows it, and each figure
is too high by up to the time between two questions, never too low.
"""

import asyncio
import sys
import time
from typing import Final, NamedTuple

import asyncpg
import msgspec

from bench.calls import probe_user
from bench.pacer import PROBE_USERS, PROBES_PER_SECOND, Sent
from bench.servers import Servers
from bench.worker import Workers
from consumer.errors import WindsorError

RESOLUTION_SECONDS: Final = 0.01

_LAST_PROBES = """
SELECT (traits ->> 'probe')::bigint FROM windsor.users WHERE user_id = ANY($1)
"""
_ARRIVED_SECONDS_MAX: Final = 120.0


class Freshness(NamedTuple):
    """What was seen."""

    seconds: list[float]
    """Of each probe, ascending."""

    calls_per_second: float
    """The pace that was kept."""

    def quantile(self, share: float) -> float:
        """The least that so large a share of the probes did not exceed."""
        return self.seconds[min(int(share * len(self.seconds)), len(self.seconds) - 1)]


async def freshness(
    servers: Servers,
    topic: str,
    dsn: str,
    workers: Workers,
    *,
    calls_per_second: float,
    seconds: float,
    warm_seconds: float,
) -> Freshness:
    """Send at a pace and watch.

    Args:
        servers: Beside us.
        topic: Empty.
        dsn: Of a database in which no probe is yet.
        workers: Which consume the one into the other.
        calls_per_second: The pace.
        seconds: For so long, after the first ones.
        warm_seconds: The first ones, which are left out.

    Raises:
        WindsorError: Not all arrived.
    """
    await workers.until_ready()
    pacer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.pacer", "--kafka", servers.kafka, "--topic", topic),
        *("--calls-per-second", str(calls_per_second), "--seconds", str(seconds + warm_seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # One line holds all probes.
        limit=1 << 26,
    )
    assert pacer.stdin is not None  # noqa: S101 - it is a pipe
    assert pacer.stdout is not None  # noqa: S101 - likewise
    seen: dict[int, float] = {}
    stop = asyncio.Event()
    watching = asyncio.create_task(_watch(dsn, seen, stop))
    try:
        await pacer.stdout.readline()
        pacer.stdin.write(b"go\n")
        sent = msgspec.json.decode(await pacer.stdout.readline(), type=Sent)
        await _all_seen(len(sent.probes_ms), seen, watching)
    finally:
        stop.set()
        await asyncio.wait([watching])
        # Where we gave up, it ends at the end of its input.
        await pacer.communicate()
    ages = [seen[number] - sent_ms / 1000 for number, sent_ms in enumerate(sent.probes_ms)]
    warm_probes = int(warm_seconds * PROBES_PER_SECOND)
    return Freshness(sorted(ages[warm_probes:]), sent.calls_per_second)


async def _watch(dsn: str, seen: dict[int, float], stop: asyncio.Event) -> None:
    """Note when each probe is first seen, by the clock that the records' timestamps are of."""
    users = [probe_user(number) for number in range(PROBE_USERS)]
    # What each user's next probe is.
    following = list(range(PROBE_USERS))
    connection = await asyncpg.connect(dsn)
    try:
        statement = await connection.prepare(_LAST_PROBES)
        while not stop.is_set():
            asked = time.monotonic()
            numbers = [row[0] for row in await statement.fetch(users)]
            at = time.time()
            for last in numbers:
                user = last % PROBE_USERS
                # Those that were written together with a later one are seen with it.
                for number in range(following[user], last + 1, PROBE_USERS):
                    seen[number] = at
                following[user] = last + PROBE_USERS
            await asyncio.sleep(max(0.0, RESOLUTION_SECONDS - (time.monotonic() - asked)))
    finally:
        await connection.close()


async def _all_seen(count: int, seen: dict[int, float], watching: "asyncio.Task[None]") -> None:
    try:
        async with asyncio.timeout(_ARRIVED_SECONDS_MAX):
            while len(seen) < count:
                if watching.done():
                    watching.result()
                await asyncio.sleep(RESOLUTION_SECONDS)
    except TimeoutError as error:
        raise WindsorError(f"{count - len(seen):,} of {count:,} probes did not arrive") from error
