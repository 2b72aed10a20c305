"""`make bench-pages`: how soon the dashboard's pages begin, with many users and events.

The rows are made by SQL, in the shape that the worker gives them: it is the reading that is
measured. The dashboard runs as a process of its own; each page is asked for in turn, always for
another user, group or search, and the time to its first byte is taken. The plan of each query is
kept, and one that reads a big table whole fails the run.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import asyncpg
import httpx
import msgspec

from consumer.errors import WindsorError
from consumer.schema import migrate
from consumer.sql import load_queries
from dashboard.database import SESSION
from demo.servers import embedded_postgres, free_port

RESULTS: Final = Path("docs/performance/pages.json")
PLANS: Final = Path("docs/performance/pages-plans.txt")
FIRST_BYTE_MS_MAX: Final = 100.0
"""The goal, at the 95th percentile."""

_BIG: Final = ("calls", "identities", "members", "seen", "users")
_SEQ_SCAN: Final = re.compile(r"Seq Scan on (?:windsor_private\.)?(\w+)")
_WEEKS: Final = 13
_SLICE_EVENTS: Final = 500_000
_FIRST_NAMES: Final = "Amara Ben Chiara Dmitri Elif Femi Grace Hiro Ines Jonas Kavya Liam Mei Noor"
_LAST_NAMES: Final = "Abara Bauer Conti Diaz Eriksen Fofanah Gupta Haas Ito Jansen Kovacs Moreau"

# A user has three identities: 3 n its own id, 3 n + 1 a visitor, 3 n + 2 an email.
_FILL: Final = (
    """
    INSERT INTO windsor_private.identities
    (id, kind, value, claimed_by, claimed_at, claimed_message_id, listed, identified)
    OVERRIDING SYSTEM VALUE
    SELECT
        3 * n + k,
        (ARRAY['user', 'anonymous', 'email'])[k + 1]::windsor_private.identity_kind,
        CASE k
            WHEN 0 THEN 'usr_' || n
            WHEN 1 THEN md5(n::text)
            ELSE lower((:first)[1 + n % :firsts]) || n || '@example.com'
        END,
        3 * n, now() - interval '91 days', 'claim-' || n, true, k = 0
    FROM generate_series(0, :users - 1) AS n
    CROSS JOIN generate_series(0, 2) AS k
    """,
    """
    INSERT INTO windsor_private.members (identity_id, user_id)
    SELECT i, i - i % 3 FROM generate_series(0, 3 * :users - 1) AS i
    """,
    """
    INSERT INTO windsor_private.users (id, identities_count, identified, user_id, group_id, traits)
    SELECT
        3 * n, 3, true, 'usr_' || n, 'co_' || n % (:users / 20),
        jsonb_build_object(
            'name', (:first)[1 + n % :firsts] || ' ' || (:last)[1 + n / 7 % :lasts] || n % 1000,
            'email', lower((:first)[1 + n % :firsts]) || n || '@example.com',
            'plan', (ARRAY['trial', 'team', 'pro'])[1 + n % 3],
            'power_users', n % 50 = 0
        )
    FROM generate_series(0, :users - 1) AS n
    """,
    """
    INSERT INTO windsor_private.groups (group_id, traits)
    SELECT 'co_' || g, jsonb_build_object('name', 'Company ' || g)
    FROM generate_series(0, :users / 20 - 1) AS g
    """,
    # In the order of time, as events come; by whom is anybody's guess.
    """
    INSERT INTO windsor_private.calls
    (occurred_at, received_at, message_key, identity_id, "offset", partition, type, topic,
     message_id, name, category, properties, context)
    SELECT
        e.at, e.at, md5(e.n::text)::uuid, 3 * ((hashint8(e.n)::bigint & 2147483647) % :users),
        e.n, 0,
        CASE WHEN e.n % 5 = 0 THEN 'page' ELSE 'track' END::windsor_private.call_type,
        'calls', 'm' || e.n,
        (ARRAY['Home', 'Report Exported', 'Order Completed', 'Card Moved', 'Email Opened'])
            [1 + e.n % 5],
        CASE WHEN e.n % 1000 = 999 THEN 'sms' WHEN e.n % 5 = 4 THEN 'email' ELSE 'analytics' END,
        '{"order_id": 1042, "total": 39.95, "email_subject": "Your trial ends soon"}',
        '{"library": {"name": "analytics.js"}}'
    FROM (
        SELECT n, now() - interval '90 days' * (1 - n / :events::float8) AS at
        FROM generate_series(:from, :to - 1) AS n
    ) AS e
    """,
    """
    INSERT INTO windsor_private.seen (identity_id, first_at, last_at)
    SELECT c.identity_id, min(c.occurred_at), max(c.occurred_at)
    FROM windsor_private.calls AS c
    GROUP BY c.identity_id
    """,
    """
    INSERT INTO windsor_private.audiences (name, computation_class, synced_at, synced_message_id)
    VALUES ('power_users', 'audience', now(), 'sync')
    """,
)


async def fill(dsn: str, users: int, events: int) -> None:
    """Make so many users and events; goes on where it was interrupted."""
    connection = await asyncpg.connect(dsn, command_timeout=None)
    try:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS bench_steps (step integer PRIMARY KEY)"
        )
        week = await connection.fetchval("SELECT windsor_private.week_of(now())")
        for back in range(_WEEKS + 1):
            await connection.execute(
                "SELECT windsor_private.ensure_week($1::date - $2::integer * 7)", week, back
            )
        for step, statement in enumerate(_steps(users, events)):
            if await connection.fetchval("SELECT true FROM bench_steps WHERE step = $1", step):
                continue
            started = time.monotonic()
            async with connection.transaction():
                await connection.execute(statement)
                await connection.execute("INSERT INTO bench_steps VALUES ($1)", step)
            words = " ".join(statement.split()[:3])
            print(f"  {step} {words}: {time.monotonic() - started:.0f} s", flush=True)
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()


def _steps(users: int, events: int) -> Iterator[str]:
    """The statements with their numbers and names, which are our own; many events in slices."""
    for statement in _FILL:
        if ":from" not in statement:
            yield _filled(statement, users, events)
            continue
        for start in range(0, events, _SLICE_EVENTS):
            end = min(start + _SLICE_EVENTS, events)
            sliced = statement.replace(":from", f"{start}::bigint").replace(":to", f"{end}::bigint")
            yield _filled(sliced, users, events)


def _filled(statement: str, users: int, events: int) -> str:
    """The statement with its numbers and names, which are our own."""
    firsts, lasts = _FIRST_NAMES.split(), _LAST_NAMES.split()
    for name, value in (
        (":users", f"{users}::bigint"),
        (":events", f"{events}::bigint"),
        (":firsts", str(len(firsts))),
        (":lasts", str(len(lasts))),
        (":first", f"'{{{','.join(firsts)}}}'::text[]"),
        (":last", f"'{{{','.join(lasts)}}}'::text[]"),
    ):
        statement = statement.replace(name, value)
    return statement


def paths(users: int, rng: random.Random) -> Mapping[str, str]:
    """One address of each page, of somebody else each time."""
    one = rng.randrange(users)
    first = rng.choice(_FIRST_NAMES.split())
    last = rng.choice(_LAST_NAMES.split())
    at = int((time.time() - rng.random() * 86_400 * 80) * 1e6)
    return {
        "feed": "/",
        "feed, hidden too": "/api/feed?hidden=yes",
        "feed, further down": f"/?place={at}-{'0' * 32}",
        "feed, one of a thousand": "/?category=sms",
        "feed, one group": f"/?group=co_{one % (users // 20)}",
        "user": f"/user?id=usr_{one}",
        "users": "/users",
        "users of an audience": "/users?audience=power_users",
        "search, id": f"/users?q=usr_{one}",
        "search, email": f"/users?q={first.lower()}{one}",
        "search, a letter": f"/users?q={first[0].lower()}",
        "search, name": f"/users?q={first}+{last}",
        "groups": "/groups",
        "group": f"/group?id=co_{one % (users // 20)}",
    }


async def first_bytes_ms(
    client: httpx.AsyncClient, users: int, turns: int
) -> dict[str, list[float]]:
    """Ask for each page so many times; milliseconds to the first byte."""
    rng = random.Random(7)
    found: dict[str, list[float]] = {}
    for turn in range(turns + 3):
        for name, path in paths(users, rng).items():
            started = time.perf_counter()
            async with client.stream("GET", path, follow_redirects=True) as answer:
                chunks = answer.aiter_raw()
                await anext(chunks)
                waited = (time.perf_counter() - started) * 1000
                size = sum([len(chunk) async for chunk in chunks])
                if answer.status_code != httpx.codes.OK or size > 100_000:
                    raise WindsorError(f"{path}: {answer.status_code}, {size} bytes")
            # The first turns open connections and plan statements.
            if turn >= 3:
                found.setdefault(name, []).append(waited)
    return found


async def plans(dsn: str) -> str:
    """The plan of each query that was asked, as the dashboard's own sessions have it."""
    connection = await asyncpg.connect(dsn, server_settings=SESSION)
    newest = "now(), 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid"
    ever, nothing, unmoved = "'0001-01-02'", "NULL, NULL, '{}'", "'{}', '{}'"
    arguments = {
        ("events.sql", "feed"): f"{newest}, {ever}, false, 200, {nothing}, NULL, 50, {unmoved}",
        ("events.sql", "timeline"):
            f"'{{3,4}}', {newest}, {ever}, '{{track}}', {nothing}, 50, {unmoved}",
        ("people.sql", "identity"): "'user', 'usr_7'",
        ("people.sql", "user"): "21",
        ("people.sql", "identities_of_user"): "21, 500",
        ("people.sql", "users_by_last_seen"): f"{newest}, 1500, NULL, NULL, NULL, NULL, false, 50",
        ("people.sql", "users_by_identity"): "'{hiro}', '{hirp}', 100",
        ("people.sql", "users_by_name"): "$$'hiro':* & 'kov':*$$, 500",
        ("people.sql", "users_of_group"): "'co_7', 501",
        ("groups.sql", "groups"): "'', NULL, 5000, 60",
        ("groups.sql", "group"): "'co_7'",
    }  # fmt: skip
    told = []
    try:
        for (file, name), given in arguments.items():
            query = load_queries(file, "dashboard.sql")[name]
            await connection.execute(f"PREPARE asked AS {query}")
            rows = await connection.fetch(
                f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) EXECUTE asked({given})"
            )
            await connection.execute("DEALLOCATE asked")
            told.append(f"-- {file}: {name}\n" + "\n".join(row[0] for row in rows))
    finally:
        await connection.close()
    return "\n\n".join(told) + "\n"


def big_scans(text: str) -> list[str]:
    """Big tables that a plan reads whole."""
    return [
        table for table in _SEQ_SCAN.findall(text)
        if table.startswith("calls") or table in _BIG
    ]  # fmt: skip


@asynccontextmanager
async def serving(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A dashboard as a process of its own, signed in to."""
    environ = {
        **os.environ,
        "WINDSOR_DATABASE_URL": dsn,
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "WINDSOR_DASHBOARD_PORT": "0",
        "WINDSOR_HTTP_HOST": "127.0.0.1",
        "WINDSOR_HTTP_PORT": str(free_port()),
        "WINDSOR_LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "dashboard", env=environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        link = line.decode().removeprefix("Open ").strip()
        async with httpx.AsyncClient(base_url=link.split("/open")[0], timeout=60) as client:
            await client.get(link)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)


def summary(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """The median and the 95th percentile of each page."""
    told = {}
    for name, values in found.items():
        cut = quantiles(values, n=20)
        told[name] = {"p50_ms": round(cut[9], 1), "p95_ms": round(cut[18], 1)}
    return told


async def run(folder: Path, users: int, events: int, turns: int) -> dict[str, Any]:
    """Fill a database, if that is to be done, and measure."""
    with embedded_postgres(
        folder, {"shared_buffers": "1GB", "max_wal_size": "8GB", "fsync": "off"}
    ) as server:
        filled = folder / f"filled-{users}-{events}"
        if not filled.exists():
            await migrate(server.dsn)
            await fill(server.dsn, users, events)
            filled.touch()
        async with serving(server.dsn) as client:
            pages = summary(await first_bytes_ms(client, users, turns))
        text = await plans(server.dsn)
    if scans := big_scans(text):
        raise WindsorError(f"read whole: {', '.join(scans)}")
    PLANS.parent.mkdir(parents=True, exist_ok=True)
    PLANS.write_text(text, encoding="utf-8")
    return {"users": users, "events": events, "pages": pages}


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--turns", type=int, default=60)
    options = parser.parse_args()
    folder = Path(".bench").absolute() / f"pages-{options.users}-{options.events}"
    results = asyncio.run(run(folder, options.users, options.events, options.turns))
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    for name, times in results["pages"].items():
        slow = "" if times["p95_ms"] <= FIRST_BYTE_MS_MAX else "  over the goal"
        print(f"{name:26} p50 {times['p50_ms']:7.1f} ms   p95 {times['p95_ms']:7.1f} ms{slow}")


if __name__ == "__main__":
    main()
