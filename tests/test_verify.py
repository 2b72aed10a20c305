"""Verify recomputes from the calls alone: it sees each kind of damage, and mends it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest
import pytest_asyncio

from consumer import schema, verify
from consumer.core.call import Call
from consumer.core.decode import Decoder
from consumer.errors import TransientSinkError
from consumer.ports import Batch
from consumer.postgres import PostgresOptions, open_sink
from consumer.sql import load_queries
from consumer.verify import Report, verify_database
from tests.model import Views, model_of
from tests.views import stored_views
from tests.worlds import records_of

CLEAN = dict.fromkeys(
    ("identities", "members", "users", "seen", "groups", "audiences", "aliases"), 0
)


def at(second: int) -> str:
    return f"2026-10-05T00:00:{second:02}.000Z"


# Ann is seen before she is known, merged twice (once for nothing), and shares a device with Bob.
WORLD: list[dict[str, Any]] = [
    {"type": "track", "event": "Opened", "anonymousId": "v1"},
    {"type": "page", "name": "Home", "anonymousId": "v9"},
    {"type": "identify", "userId": "ann", "anonymousId": "v1",
     "traits": {"email": "ann@example.com", "plan": "free", "age": 3}},
    {"type": "identify", "userId": "ann2", "traits": {"plan": "pro", "age": None}},
    {"type": "alias", "userId": "ann2", "previousId": "ann"},
    {"type": "alias", "userId": "ann", "previousId": "ann2"},
    {"type": "alias", "userId": "ann3", "previousId": "old"},
    {"type": "alias", "userId": "ann3", "previousId": "ann"},
    {"type": "identify", "userId": "bob", "anonymousId": "v1", "traits": {"phone": "+14155552671"}},
    {"type": "track", "event": "Email Opened", "properties": {"email": "ann@example.com"}},
    {"type": "group", "userId": "bob", "groupId": "g1", "traits": {"seats": 5, "was": "x"}},
    {"type": "group", "userId": "ann", "groupId": "g1", "traits": {"was": None}},
    {"type": "group", "anonymousId": "v9", "groupId": "g2"},
    {"type": "identify", "userId": "bob", "traits": {"vip": True},
     "context": {"personas": {"computation_class": "audience", "computation_key": "vip"}}},
    {"type": "track", "event": "Closed", "userId": "bob"},
]  # fmt: skip


def decoded(world: list[dict[str, Any]]) -> list[Call]:
    """A world's calls, a second apart."""
    stamped = [
        {"messageId": f"m{second}", "timestamp": at(second), **call}
        for second, call in enumerate(world)
    ]
    outcomes = [o for record in records_of(stamped) for o in Decoder().decode(record)]
    calls = [o for o in outcomes if isinstance(o, Call)]
    assert len(calls) == len(world)
    return calls


async def write(dsn: str, world: list[dict[str, Any]]) -> None:
    async with open_sink(PostgresOptions(dsn)) as sink:
        # The last first: the order of arrival is not what counts.
        for call in reversed(decoded(world)):
            await sink.write(Batch([call], []))


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "windsor_private"})
    # Texts that mean the same are the same.
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
    )
    try:
        yield connection
    finally:
        await connection.close()


async def execute(dsn: str, sql: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute(sql)


async def value(dsn: str, sql: str) -> Any:  # noqa: ANN401 - whatever the query gives
    async with connected(dsn) as connection:
        return await connection.fetchval(sql)


async def projections(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every projection's rows, whole."""
    tables = (*CLEAN, "users")
    async with connected(dsn) as connection:
        return {
            table: sorted(
                (tuple(row) for row in await connection.fetch(f"SELECT * FROM {table}")),
                key=repr,
            )
            for table in tables
        }


def differing(report: Report) -> dict[str, int]:
    return {name: count for name, count in report.rows.items() if count}


@pytest_asyncio.fixture
async def world(database: str) -> str:
    """A database in which the world has been written."""
    await write(database, WORLD)
    return database


async def test_what_the_writer_kept_is_clean(world: str) -> None:
    report = await verify_database(world)

    assert report == Report(CLEAN, repaired=False, examples={})
    assert report.text().endswith("every projection is what the stored calls say")


async def test_empty_database_is_clean(database: str) -> None:
    assert (await verify_database(database)).differences == 0
    assert (await verify_database(database, repair=True)).differences == 0


ID_OF = "(SELECT id FROM identities WHERE kind = '{}' AND value = '{}')"
ANN, ANN2, ANN3, OLD, BOB = (
    ID_OF.format("user", name) for name in ("ann", "ann2", "ann3", "old", "bob")
)
V1, V9 = (ID_OF.format("anonymous", name) for name in ("v1", "v9"))
EMAIL = ID_OF.format("email", "ann@example.com")
OF_ANN = f"(SELECT user_id FROM members WHERE identity_id = {ANN})"

# fmt: off
DAMAGES = {
    "visitor's claim moved": (
        f"UPDATE identities SET claimed_by = {BOB} WHERE id = {V1}", {"identities": 1}),
    "visitor's claim lost": (
        (f"UPDATE identities SET claimed_by = NULL, claimed_at = NULL, claimed_message_id = NULL"
        f" WHERE id = {V1}"), {"identities": 1}),
    "user named later than it was": (
        f"UPDATE identities SET claimed_at = claimed_at + interval '1 us' WHERE id = {BOB}",
        {"identities": 1}),
    "contact claimed by another": (
        f"UPDATE identities SET claimed_by = {BOB} WHERE id = {EMAIL}", {"identities": 1}),
    "unlisted": (f"UPDATE identities SET listed = false WHERE id = {V9}", {"identities": 1}),
    "listed though only named by a previousId": (
        "UPDATE identities SET listed = true WHERE kind = 'anonymous' AND value = 'old'",
        {"identities": 1}),
    "identified lost": (
        f"UPDATE identities SET identified = false WHERE id = {ANN}", {"identities": 1}),
    "visitor identified": (
        f"UPDATE identities SET identified = true WHERE id = {V1}", {"identities": 1}),
    "identity's group": (
        f"UPDATE identities SET group_id = 'g9' WHERE id = {ANN}", {"identities": 1}),
    "visitor's trait": (
        f"UPDATE identities SET traits = traits || '{{\"plan\": 1}}' WHERE id = {V1}",
        {"identities": 1}),
    "own trait": (
        f"UPDATE members SET traits = traits || '{{\"plan\": 1}}' WHERE identity_id = {ANN}",
        {"members": 1}),
    "own traits lost": (
        f"UPDATE members SET traits = NULL, trait_clocks = NULL WHERE identity_id = {ANN2}",
        {"members": 1}),
    "own traits of an identity that is alone": (
        f"UPDATE members SET traits = '{{}}', trait_clocks = '{{}}' WHERE identity_id = {BOB}",
        {"members": 1}),
    "own traits of a visitor": (
        f"UPDATE members SET traits = '{{}}', trait_clocks = '{{}}' WHERE identity_id = {V1}",
        {"members": 1}),
    "traits left where they were": (
        f"UPDATE identities SET traits = '{{\"plan\": 1}}' WHERE id = {ANN}", {"identities": 1}),
    "half of own traits": (
        f"UPDATE members SET trait_clocks = '{{}}' WHERE identity_id = {BOB}", {"members": 1}),
    "tombstone lost": (
        ("UPDATE members SET trait_clocks = (trait_clocks::jsonb - 'age')::json"
        f" WHERE identity_id = {ANN2}"),
        {"members": 1}),
    "trait's clock": (
        ("UPDATE members SET"
        " trait_clocks = jsonb_set(trait_clocks::jsonb, '{plan,0}', '1')::json"
        f" WHERE identity_id = {ANN2}"), {"members": 1}),
    "member lost": (f"DELETE FROM members WHERE identity_id = {V1}", {"members": 1}),
    "member of another": (
        f"UPDATE members SET user_id = {BOB} WHERE identity_id = {EMAIL}", {"members": 1}),
    "member though nobody's": (
        f"INSERT INTO members VALUES ({V9}, {BOB})", {"members": 1}),
    "user lost": (f"DELETE FROM users WHERE id = {BOB}", {"users": 1}),
    "user too many": (
        "INSERT INTO users (id, identities_count, user_id) VALUES (999, 1, 'x')", {"users": 1}),
    "user's name": (
        f"UPDATE users SET user_id = 'ann' WHERE id = {OF_ANN}", {"users": 1}),
    "user's count": (f"UPDATE users SET identities_count = 9 WHERE id = {BOB}", {"users": 1}),
    "user identified": (f"UPDATE users SET identified = false WHERE id = {BOB}", {"users": 1}),
    "user's group": (f"UPDATE users SET group_id = NULL WHERE id = {BOB}", {"users": 1}),
    "user's traits": (f"UPDATE users SET traits = '{{}}' WHERE id = {BOB}", {"users": 1}),
    "user's clocks": (f"UPDATE users SET trait_clocks = '{{}}' WHERE id = {BOB}", {"users": 1}),
    "last merge forgotten": (
        f"UPDATE users SET merged_at = NULL, merged_message_id = NULL WHERE id = {OF_ANN}",
        {"users": 1}),
    "last merge too early": (
        f"UPDATE users SET merged_at = merged_at - interval '1 us' WHERE id = {OF_ANN}",
        {"users": 1}),
    "sighting lost": (f"DELETE FROM seen WHERE identity_id = {V1}", {"seen": 1}),
    "seen too late": (
        f"UPDATE seen SET last_at = last_at + interval '1 us' WHERE identity_id = {BOB}",
        {"seen": 1}),
    "contact seen": (
        f"INSERT INTO seen VALUES ({EMAIL}, now(), now())", {"seen": 1}),
    "group lost": ("DELETE FROM groups WHERE group_id = 'g2'", {"groups": 1}),
    "group too many": ("INSERT INTO groups VALUES ('g9')", {"groups": 1}),
    "group's traits": ("UPDATE groups SET traits = '{}' WHERE group_id = 'g1'", {"groups": 1}),
    "group's tombstone": (
        ("UPDATE groups SET trait_clocks = (trait_clocks::jsonb - 'was')::json"
        " WHERE group_id = 'g1'"),
        {"groups": 1}),
    "audience lost": ("DELETE FROM audiences", {"audiences": 1}),
    "audience too many": (
        "INSERT INTO audiences VALUES ('x', NULL, now(), 'm')", {"audiences": 1}),
    "audience's class": ("UPDATE audiences SET computation_class = NULL", {"audiences": 1}),
    "alias lost": ("DELETE FROM aliases WHERE message_id = 'm5'", {"aliases": 1}),
    "alias too many": (
        f"INSERT INTO aliases VALUES (now(), 'mx', {BOB}, {ANN})", {"aliases": 1}),
    "alias' direction": (
        ("UPDATE aliases SET previous_identity_id = user_identity_id,"
        " user_identity_id = previous_identity_id WHERE message_id = 'm7'"), {"aliases": 1}),
    # The previous user's row, its visitor's, and what hangs on them.
    "previous user's identity lost": (
        "DELETE FROM identities WHERE value = 'old'",
        {"members": 2, "users": 1, "aliases": 1}),
    "users split": (
        (f"INSERT INTO users (id, identities_count, user_id) VALUES ({OLD}, 1, 'old');"
        f"UPDATE members SET user_id = {OLD} WHERE identity_id = {OLD}"),
        {"members": 1, "users": 1}),
    "users merged": (
        (f"UPDATE members SET user_id = {OF_ANN} WHERE user_id = {BOB};"
        f"DELETE FROM users WHERE id = {BOB}"), {"members": 2, "users": 1}),
}
# fmt: on


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_reported_and_repaired(world: str, damage: str) -> None:
    sql, expected = DAMAGES[damage]
    before = await stored_views(world)
    await execute(world, sql)

    report = await verify_database(world)
    repaired = await verify_database(world, repair=True)

    assert differing(report) == expected
    assert report.examples.keys() == expected.keys()
    assert repaired.repaired
    assert await stored_views(world) == before
    assert (await verify_database(world)).rows == CLEAN


async def test_verify_without_repair_changes_nothing(world: str) -> None:
    await execute(world, f"UPDATE users SET user_id = 'x' WHERE id = {BOB}")
    before = await projections(world)

    await verify_database(world)

    assert await projections(world) == before


async def test_repair_of_a_clean_database_changes_nothing(world: str) -> None:
    before = await projections(world)

    report = await verify_database(world, repair=True)

    assert report.rows == CLEAN
    assert await projections(world) == before


async def test_everything_is_rebuilt_from_the_calls_alone(world: str) -> None:
    before = await stored_views(world)
    await execute(
        world,
        "TRUNCATE members, seen, users, aliases, groups, audiences;"
        "UPDATE identities SET claimed_by = NULL, claimed_at = NULL, claimed_message_id = NULL,"
        " listed = false, identified = false, group_id = NULL, group_at = NULL,"
        " group_message_id = NULL, traits = '{}', trait_clocks = '{}'",
    )

    await verify_database(world, repair=True)

    assert await stored_views(world) == before
    assert (await verify_database(world)).rows == CLEAN


async def test_writer_goes_on_from_what_was_repaired(database: str) -> None:
    half = len(WORLD) // 2
    await write(database, WORLD)
    whole = await stored_views(database)
    await execute(
        database,
        "TRUNCATE calls, identities, members, seen, users, aliases, groups, audiences",
    )
    calls = decoded(WORLD)
    async with open_sink(PostgresOptions(database)) as sink:
        await sink.write(Batch(calls[half:], []))
        await execute(database, "TRUNCATE members, users, aliases")
        await verify_database(database, repair=True)
        await sink.write(Batch(calls[:half], []))

    assert await stored_views(database) == whole


async def test_worker_forgets_what_it_remembered_before_a_repair(database: str) -> None:
    later = decoded([*WORLD, {"type": "page", "userId": "old"}])[-1]
    async with open_sink(PostgresOptions(database)) as sink:
        await sink.write(Batch(decoded(WORLD), []))
        # Only an alias names it, so the repair makes it anew, under another id.
        await execute(database, "DELETE FROM identities WHERE value = 'old'")
        assert (await verify_database(database, repair=True)).differences > 0
        await sink.write(Batch([later], []))
    assert differing(await verify_database(database)) == {}
    assert await stored_views(database) == model_of([*decoded(WORLD), later])


async def test_lost_identity_is_reported_and_beyond_repair(world: str) -> None:
    lost = await value(world, f"SELECT {V9}")
    await execute(world, f"DELETE FROM identities WHERE id = {lost}")

    report = await verify_database(world, repair=True)
    after = await verify_database(world)

    assert differing(report) == {"lost identities": 1, "seen": 1}
    assert differing(after) == {"lost identities": 1}
    assert (after.lost, after.examples["lost identities"]) == (1, [str(lost)])
    assert "restore them from a backup" in after.text()


async def test_examples_are_few_and_counts_are_whole(world: str) -> None:
    await execute(world, "UPDATE seen SET first_at = first_at - interval '1 day'")
    ids = await value(world, "SELECT array_agg(identity_id ORDER BY identity_id) FROM seen")

    report = await verify_database(world)

    assert report.rows["seen"] == len(ids) > 5
    assert report.examples == {"seen": [str(id_) for id_ in ids[:5]]}
    assert f"{len(ids)} ({', '.join(map(str, ids[:5]))}, ...)" in report.text()
    assert report.text().endswith("run `windsor verify --repair`")


def users_of(views: Views) -> dict[str, str | None]:
    """Each user id and the name of the user that it leads to."""
    return {row["value"]: row["user_id"] for row in views["user_ids"] if row["kind"] == "user"}


async def test_undone_pair_counts_as_never_made_until_lifted(world: str) -> None:
    merged = await stored_views(world)
    # Another alias of the pair, as an SDK sends at every login.
    again = {"type": "alias", "userId": "ann3", "previousId": "ann", "messageId": "again"}
    calls = decoded([*WORLD, again])
    async with open_sink(PostgresOptions(world)) as sink:
        await sink.write(Batch(calls[-1:], []))
    await execute(world, "UPDATE aliases SET undone_at = now() WHERE message_id = 'm7'")

    report = await verify_database(world, repair=True)
    split = await stored_views(world)
    clean = await verify_database(world)
    await execute(world, "UPDATE aliases SET undone_at = NULL")
    await verify_database(world, repair=True)

    assert differing(report).keys() == {"members", "users"}
    assert users_of(split) == {
        "ann": "ann2", "ann2": "ann2", "ann3": "ann3", "old": "ann3", "bob": "bob"
    }  # fmt: skip
    assert clean.rows == CLEAN
    assert users_of(await stored_views(world)) == users_of(merged)


async def test_missing_alias_of_an_undone_pair_comes_back_undone(world: str) -> None:
    again = {"type": "alias", "userId": "ann3", "previousId": "ann", "messageId": "again"}
    async with open_sink(PostgresOptions(world)) as sink:
        await sink.write(Batch(decoded([*WORLD, again])[-1:], []))
    await execute(
        world,
        "UPDATE aliases SET undone_at = now() WHERE message_id = 'm7';"
        "DELETE FROM aliases WHERE message_id = 'again'",
    )

    await verify_database(world, repair=True)

    undone = await value(
        world,
        "SELECT array_agg(message_id::text ORDER BY 1) FROM aliases WHERE undone_at IS NOT NULL",
    )
    assert sorted(undone) == ["again", "m7"]


async def prune(dsn: str, before: str) -> None:
    await execute(
        dsn,
        "DELETE FROM calls WHERE type IN ('track', 'page', 'screen')"
        f" AND occurred_at < '{before}';"
        f"UPDATE calls_bounds SET pruned_before = '{before}'",
    )


async def test_pruned_calls_are_no_difference(world: str) -> None:
    # A visitor and a user whom pruned calls alone tell of, and a claim that they alone made.
    calls = [
        {"type": "track", "event": "A", "anonymousId": "v8", "timestamp": at(40)},
        {"type": "track", "event": "B", "userId": "eve", "anonymousId": "v7", "timestamp": at(41)},
        {"type": "identify", "userId": "fay", "anonymousId": "v7", "timestamp": at(42)},
    ]
    async with open_sink(PostgresOptions(world)) as sink:
        await sink.write(Batch(decoded([*WORLD, *calls])[len(WORLD) :], []))
    users = users_of(await stored_views(world))
    await prune(world, "2026-10-12")

    assert (await verify_database(world, repair=True)).rows == CLEAN
    assert users_of(await stored_views(world)) == users


async def test_pruning_excuses_nothing_of_later(world: str) -> None:
    later = {"type": "track", "event": "A", "userId": "eve", "timestamp": "2026-10-13T00:00:00Z"}
    async with open_sink(PostgresOptions(world)) as sink:
        await sink.write(Batch(decoded([*WORLD, later])[len(WORLD) :], []))
    await prune(world, "2026-10-12")
    await execute(world, "DELETE FROM calls WHERE type = 'track'")

    report = await verify_database(world)

    assert differing(report) == {"identities": 1, "members": 1, "users": 1, "seen": 1}


async def test_live_verify_sees_one_snapshot(database: str) -> None:
    reports: list[Report] = []
    written = overtaken = 0

    async def writing() -> None:
        nonlocal written
        async with open_sink(PostgresOptions(database)) as sink:
            while overtaken < 5:
                # At the same second each id is a greater clock: every batch changes something.
                world = [
                    {**said, "messageId": f"m{written + n:06}"} for n, said in enumerate(WORLD)
                ]
                for call in decoded(world):
                    await sink.write(Batch([call], []))
                    written += 1

    writer = asyncio.create_task(writing())
    while overtaken < 5 and not writer.done():
        before = written
        reports.append(await verify_database(database))
        overtaken += written > before
    await writer

    assert overtaken == 5
    assert all(report.rows == CLEAN for report in reports)


async def test_repair_waits_for_a_batch_and_sees_what_it_wrote(world: str) -> None:
    async with connected(world) as batch:
        transaction = batch.transaction()
        await transaction.start()
        await batch.execute("SELECT pg_advisory_xact_lock_shared(hashtext('windsor.batches'))")
        repair = asyncio.create_task(verify_database(world, repair=True))
        await asyncio.sleep(0.3)
        waited = not repair.done()
        await batch.execute("DELETE FROM audiences")
        await transaction.commit()
    report = await repair

    assert waited
    assert differing(report) == {"audiences": 1}


@pytest.mark.parametrize(
    ("repair", "held"),
    [
        (True, "SELECT pg_advisory_xact_lock_shared(hashtext('windsor.batches'))"),
        (False, "LOCK TABLE calls IN ACCESS EXCLUSIVE MODE"),
    ],
)
async def test_lock_that_somebody_keeps_is_waited_for_a_while_and_told(
    world: str, monkeypatch: pytest.MonkeyPatch, *, repair: bool, held: str
) -> None:
    monkeypatch.setattr(verify, "_LOCK_WAIT_SECONDS", 0.5)
    async with connected(world) as other, other.transaction():
        await other.execute(held)

        with pytest.raises(TransientSinkError) as refused:
            await asyncio.wait_for(verify_database(world, repair=repair), 20)

    assert str(refused.value) == (
        "verify waited 0.5 s for a lock that somebody holds (a migration, a repair, or a"
        " transaction that hangs: look at pg_stat_activity): try again once it has ended"
    )


async def test_rejoined_users_are_what_the_writer_kept(world: str) -> None:
    before = await projections(world)
    rejoin = load_queries("rejoin.sql")["rejoin_users"]
    await execute(
        world,
        "UPDATE users SET identities_count = 0, identified = NOT identified, group_id = 'x',"
        " group_at = now(), group_message_id = 'x'",
    )
    # Of those to whom their identity leaves its traits there is nothing to join them from.
    with_own = "SELECT m.user_id FROM members AS m WHERE m.traits IS NOT NULL"
    await execute(
        world,
        f"UPDATE users SET traits = '{{\"x\": 1}}', trait_clocks = '{{}}' WHERE id IN ({with_own})",
    )
    assert await value(world, f"SELECT count(*) FROM ({with_own}) AS w")

    async with connected(world) as connection:
        ids = await connection.fetchval("SELECT array_agg(id) FROM users")
        await connection.execute(rejoin, ids)

    assert await projections(world) == before


# As version 5 had them: what a user identity has set is with the identity.
_BEFORE_TRAITS_ONCE = """
UPDATE identities AS i
SET traits = coalesce(m.traits, u.traits), trait_clocks = coalesce(m.trait_clocks, u.trait_clocks)
FROM members AS m INNER JOIN users AS u ON u.id = m.user_id
WHERE i.id = m.identity_id AND i.kind = 'user';
ALTER TABLE members DROP COLUMN traits, DROP COLUMN trait_clocks;
DROP FUNCTION lock_members(bigint[]), enter_batches();
CREATE FUNCTION lock_users_of(bigint[]) RETURNS bigint LANGUAGE sql RETURN 1;
CREATE FUNCTION join_batches() RETURNS text LANGUAGE sql RETURN windsor_private.history_now();
DELETE FROM migrations WHERE version = 6;
"""


async def test_migration_to_traits_once_leaves_what_the_writer_kept(database: str) -> None:
    # A user to whom a visitor has brought traits, one who has only their own, one without any.
    more: list[dict[str, Any]] = [
        {"type": "identify", "anonymousId": "v5", "traits": {"plan": "x", "seats": 1}},
        {"type": "identify", "userId": "cat", "anonymousId": "v5", "traits": {"plan": "y"}},
        {"type": "identify", "userId": "dan", "anonymousId": "v6", "traits": {"plan": "z"}},
        {"type": "track", "event": "Opened", "userId": "eve"},
    ]
    await write(database, [*WORLD, *more])
    before = await projections(database)
    assert await value(database, "SELECT count(*) FROM members WHERE traits IS NOT NULL") == 5
    await execute(database, _BEFORE_TRAITS_ONCE)

    upto = [migration for migration in schema.migrations() if migration.version <= 6]
    with patch.object(schema, "migrations", lambda: upto):
        assert await schema.migrate(database) == ["0006_traits_of_users_once"]

    assert await projections(database) == before
    assert (await verify_database(database)).differences == 0
    # Own traits that are missing, of a user who was never merged but has a visitor's too.
    cat = ID_OF.format("user", "cat")
    await execute(
        database,
        f"UPDATE members SET traits = NULL, trait_clocks = NULL WHERE identity_id = {cat}",
    )
    assert differing(await verify_database(database, repair=True)) == {"members": 1}
    assert await projections(database) == before
    # What each batch of a worker of before begins with: it is refused, whatever it would write.
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await execute(database, "SELECT join_batches()")
