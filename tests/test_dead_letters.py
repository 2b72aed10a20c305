"""Dead letters as an operator meets them: the real command, a real Kafka, a real Postgres."""

import asyncio
import base64
import json
import os
import pty
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from consumer.core.call import Record, Rejected
from consumer.core.decode import DecodeRules
from consumer.dead_letters import DeadLetter, DeadLetters, Selection, open_dead_letters, replay
from consumer.errors import RecordRefusedError, SourceError, TransientSinkError, WindsorError
from consumer.kafka import KafkaOptions, KafkaSender, open_sender
from consumer.ports import Batch
from consumer.postgres import PostgresOptions, open_sink
from demo.servers import free_port
from tests.command import Ran, environment, windsor
from tests.core.calls import HandRecord
from tests.views import stored_views
from tests.worker import PRODUCED_MS, produce, until_consumed, working

MakeTopic = Callable[[int], Awaitable[str]]

# What the tests' operators mend: `guest` is a junk id until they say otherwise.
FIXED = DecodeRules(blocked_ids=frozenset())

MALFORMED = b'{"type": "track", \x1b[2J'


def track(user_id: str, event: str) -> dict[str, Any]:
    """A call without an id and a time of its own: both are derived from its record."""
    return {"type": "track", "userId": user_id, "event": event}


ENVELOPE = json.dumps(
    {"batch": [track("jane", "Good"), track("guest", "First"), track("guest", "Second")]}
).encode()
SINGLE = json.dumps(track("guest", "Third")).encode()


def settings(kafka: str, topic: str, dsn: str) -> dict[str, str]:
    return {"kafka_bootstrap_servers": kafka, "kafka_topics": topic, "database_url": dsn}


async def consumed(kafka: str, topic: str, dsn: str, rules: DecodeRules | None = None) -> None:
    """Let a worker read all there is."""
    async with working(kafka, topic, dsn, rules=rules):
        await until_consumed(kafka, topic)


async def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def states(dsn: str) -> list[tuple[Any, ...]]:
    """Each letter's offset, position, and whether it was replayed or discarded."""
    return await rows(
        dsn,
        'SELECT "offset", position, replayed_at IS NOT NULL, discarded_at IS NOT NULL'
        " FROM windsor_private.dead_letters ORDER BY id",
    )


async def delivered(kafka: str, topic: str) -> list[tuple[Any, ...]]:
    """All records of a topic's first partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        tp = TopicPartition(topic, 0)
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        records: list[tuple[Any, ...]] = []
        while len(records) < end:
            for record in (await consumer.getmany(timeout_ms=1000)).get(tp, []):
                records.append(  # noqa: PERF401 - fetched in turns
                    (record.value, record.key, tuple(record.headers), record.timestamp)
                )
        return records
    finally:
        await consumer.stop()


async def set_aside(dsn: str, letters: Sequence[Rejected]) -> None:
    """Write dead letters without a Kafka that they would have come from."""
    async with open_sink(PostgresOptions(dsn)) as sink:
        await sink.write(Batch([], letters))


def letter(offset: int, value: bytes = b"{", topic: str = "calls", **record: Any) -> Rejected:  # noqa: ANN401 - a record's own fields
    return Rejected(
        HandRecord(offset, topic, value=value, **record), 0, "malformed_json", f"cut at {offset}"
    )


# Replay ---------------------------------------------------------------------------------------


async def test_replay_after_a_fix_lands_each_call_once_however_often_it_is_sent(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    at = settings(kafka_server, name, database)
    await produce(kafka_server, name, [ENVELOPE, SINGLE, MALFORMED])
    await consumed(kafka_server, name, database)
    assert await states(database) == [
        (0, 1, False, False), (0, 2, False, False), (1, 0, False, False), (2, 0, False, False),
    ]  # fmt: skip

    assert await windsor("dead-letters", "replay", "--open", "--dry-run", **at) == Ran(
        0,
        "would send again 3 records (4 dead letters)\n"
        f"       3  blocked_id            {name}\n"
        f"       1  malformed_json        {name}\n",
        "",
    )
    assert await windsor("dead-letters", "replay", "--open", **at) == Ran(
        0,
        "3 records sent again; what still cannot be applied comes back as a new dead letter\n",
        "",
    )
    # One record an envelope, as it was.
    sent = await delivered(kafka_server, name)
    assert sent[3:] == sent[:3]
    assert sent[0] == (ENVELOPE, b"k", (("source", b"test"),), PRODUCED_MS)

    await consumed(kafka_server, name, database, FIXED)
    # What is still malformed is open at its new offset; what it was is done with.
    assert await states(database) == [
        (0, 1, True, False), (0, 2, True, False), (1, 0, True, False), (2, 0, True, False),
        (5, 0, False, False),
    ]  # fmt: skip
    views = await stored_views(database)
    assert sorted((row["user_id"], row["name"]) for row in views["feed"]) == [
        ("guest", "First"), ("guest", "Second"), ("guest", "Third"), ("jane", "Good"),
    ]  # fmt: skip

    assert (await windsor("dead-letters", "replay", "1", "3", **at)).out.startswith("2 records")
    assert (await windsor("dead-letters", "replay", "--all", **at)).out.startswith("4 records")
    await consumed(kafka_server, name, database, FIXED)
    assert await stored_views(database) == views
    status = await windsor("status", **at)
    assert [line.split() for line in status.out.splitlines() if "dead" in line] == [
        ["dead", "letters", "2"]
    ]


async def test_filter_that_meets_one_letter_of_a_record_marks_all_of_it(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    at = settings(kafka_server, name, database)
    envelope = json.dumps(
        {"batch": [track("guest", "A"), {"type": "dance"}, {"type": "hop"}]}
    ).encode()
    await produce(kafka_server, name, [envelope])
    await consumed(kafka_server, name, database)
    assert (await windsor("dead-letters", "discard", "3", **at)).out == "1 dead letter discarded\n"

    ran = await windsor("dead-letters", "replay", "--reason", "blocked_id", **at)

    assert ran.out.startswith("1 record sent again")
    # The discarded one was not asked for, and stays what it is.
    assert await states(database) == [(0, 0, True, False), (0, 1, True, False), (0, 2, False, True)]
    # All of it is one record still, though the letters have different states.
    assert (await windsor("dead-letters", "replay", "--all", **at)).out.startswith("1 record sent")
    assert await states(database) == [(0, 0, True, False), (0, 1, True, False), (0, 2, True, True)]
    assert len(await delivered(kafka_server, name)) == 3


class CrashError(Exception):
    """The process ends here."""


async def test_crash_between_send_and_mark_loses_nothing_and_doubles_nothing(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    await produce(kafka_server, name, [ENVELOPE, SINGLE])
    await consumed(kafka_server, name, database)

    class CrashingSender:
        def __init__(self, sender: KafkaSender) -> None:
            self._sender = sender

        async def send(self, records: Sequence[Record]) -> Sequence[WindsorError | None]:
            assert await self._sender.send(records) == [None] * len(records)
            raise CrashError

    async with replaying(kafka_server, name, database) as (letters, sender):
        with pytest.raises(CrashError):
            await replay(letters, CrashingSender(sender), Selection(), lambda _: None)
    assert [state[2:] for state in await states(database)] == [(False, False)] * 3

    async with replaying(kafka_server, name, database) as (letters, sender):
        steps: list[int] = []
        done = await replay(letters, sender, Selection(), steps.append)
    assert (done.records, done.refused, steps) == (2, {}, [2])
    assert [state[2:] for state in await states(database)] == [(True, False)] * 3
    assert len(await delivered(kafka_server, name)) == 6
    await consumed(kafka_server, name, database, FIXED)
    assert sorted(row["name"] for row in (await stored_views(database))["feed"]) == [
        "First", "Good", "Second", "Third",
    ]  # fmt: skip


@asynccontextmanager
async def replaying(
    kafka: str, topic: str, dsn: str
) -> AsyncIterator[tuple[DeadLetters, KafkaSender]]:
    options = KafkaOptions(bootstrap_servers=kafka, topics=topic)
    async with open_dead_letters(dsn) as letters, open_sender(options) as sender:
        yield letters, sender


async def test_replay_of_many_goes_page_by_page_and_keeps_every_record_as_it_was(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    records = [
        letter(
            offset, b"%d" % offset, name,
            # One in seven without a timestamp, among others that have one.
            timestamp=-1 if offset % 7 == 0 else PRODUCED_MS + offset,
            key=None if offset % 2 else b"\xff\x00",
            headers=[("h", None), ("h", b"\xfe"), ("ü", b"")] if offset % 3 else [],
        )
        for offset in range(1_203)
    ]  # fmt: skip
    await set_aside(database, records)

    ran = await windsor(
        "dead-letters", "replay", "--open", **settings(kafka_server, name, database)
    )

    assert (ran.exit_code, ran.out.split(" ")[0], ran.err) == (0, "1203", "")
    assert sorted(await delivered(kafka_server, name), key=lambda sent: int(sent[0])) == [
        (r.record.value, r.record.key, tuple(r.record.headers), r.record.timestamp) for r in records
    ]
    assert {state[2:] for state in await states(database)} == {(True, False)}


async def test_limit_tries_the_oldest_few(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    await set_aside(database, [letter(offset, b"%d" % offset, name) for offset in range(5)])

    ran = await windsor(
        "dead-letters", "replay", "--topic", name, "--limit", "2",
        **settings(kafka_server, name, database),
    )  # fmt: skip

    assert ran.out.startswith("2 records sent again")
    assert [sent[0] for sent in await delivered(kafka_server, name)] == [b"0", b"1"]
    assert [state[2] for state in await states(database)] == [True, True, False, False, False]


async def test_large_values_are_fetched_a_few_at_a_time(database: str) -> None:
    sizes = [5, 5, 3, 20, 1, 1]
    await set_aside(
        database, [letter(n, b"x" * (size * 1024 * 1024)) for n, size in enumerate(sizes)]
    )

    async with open_dead_letters(database) as letters:
        fetched = [
            [len(record.value or b"") // 1024 // 1024 for _, record in some]
            async for page in letters.pages(Selection())
            async for some in letters.with_records(page)
        ]

    assert fetched == [[5], [5, 3], [20], [1, 1]]


async def test_record_that_kafka_refuses_stays_open_and_the_others_go(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    await set_aside(
        database,
        [
            letter(0, b"a", name),
            letter(1, os.urandom(13 * 1024 * 1024), name),
            letter(2, b"b", name),
        ],
    )

    ran = await windsor(
        "dead-letters", "replay", "--open", **settings(kafka_server, name, database)
    )

    assert (ran.exit_code, ran.out.split(";")[0]) == (1, "2 records sent again")
    assert ran.err.startswith("windsor: dead letter 2 was not sent: Kafka refuses it: ")
    assert ran.err.count("\n") == 1
    assert [state[2] for state in await states(database)] == [True, False, True]
    assert [sent[0] for sent in await delivered(kafka_server, name)] == [b"a", b"b"]


async def test_replay_keeps_what_was_taken_when_kafka_fails_and_stops_at_many_refusals(
    database: str,
) -> None:
    class HalfSender:
        """Takes one record, and gives an error for all others."""

        def __init__(self, error: WindsorError) -> None:
            self._error = error

        async def send(self, records: Sequence[Record]) -> Sequence[WindsorError | None]:
            return [None if record.offset == 0 else self._error for record in records]

    await set_aside(database, [letter(offset, b"%d" % offset) for offset in range(150)])
    async with open_dead_letters(database) as letters:
        with pytest.raises(SourceError, match=r"^149 records were refused, .* letter 150: old"):
            await replay(
                letters, HalfSender(RecordRefusedError("old")), Selection(), lambda _: None
            )
        with pytest.raises(SourceError, match="gone"):
            await replay(letters, HalfSender(SourceError("gone")), Selection(), lambda _: None)

    assert sum(state[2] for state in await states(database)) == 1


# List and show --------------------------------------------------------------------------------


async def test_list_has_a_line_each_and_every_filter_counts(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    await produce(kafka_server, name, [ENVELOPE, MALFORMED])
    await consumed(kafka_server, name, database)
    failed_at = "2026-11-05T06:07:08Z"
    await execute(database, f"UPDATE windsor_private.dead_letters SET failed_at = '{failed_at}'")
    await windsor("dead-letters", "discard", "2", database_url=database)

    async def listed(*arguments: str) -> list[str]:
        ran = await windsor("dead-letters", "list", *arguments, database_url=database)
        assert ran.exit_code == 0
        return [line.split()[0] for line in ran.out.splitlines()[1:]]

    assert await windsor("dead-letters", "list", "--all", database_url=database) == Ran(
        0,
        "      id  failed at             state      reason                record"
        "                    what is wrong\n"
        f"       1  {failed_at}  open       blocked_id            {f'{name}/0/0[1]':24}"
        "  batch[1].userId: 'guest' names nobody\n"
        f"       2  {failed_at}  discarded  blocked_id            {f'{name}/0/0[2]':24}"
        "  batch[2].userId: 'guest' names nobody\n"
        f"       3  {failed_at}  open       malformed_json        {f'{name}/0/1':24}"
        "  JSON is malformed: object keys must be strings (byte 18)\n",
        "",
    )
    assert await listed() == ["1", "3"]
    assert await listed("--reason", "malformed_json") == ["3"]
    assert await listed("--topic", name, "--partition", "0", "--offset", "0", "--all") == ["1", "2"]
    assert await listed("--topic", "other") == await listed("--partition", "1") == []
    assert await listed("--since", "2026-11-05T06:07:08") == ["1", "3"]
    assert await listed("--since", "2026-11-05T06:07:09Z") == []
    assert await listed("--until", "2026-11-05T08:07:08+02:00") == []
    assert await listed("--until", "2026-11-06") == ["1", "3"]
    assert await listed("--after", "1") == ["3"]


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_next_page_is_said_and_the_last_one_says_nothing(database: str) -> None:
    await set_aside(database, [letter(offset) for offset in range(5)])

    arguments = ["dead-letters", "list", "--topic", "calls", "--since", "1d", "--limit", "2"]
    pages = []
    while arguments:
        ran = await windsor(*arguments, database_url=database)
        pages.append([line.split()[0] for line in ran.out.splitlines()[1:]])
        arguments = shlex.split(ran.err.removeprefix("next page: windsor "))
    assert pages == [["1", "2"], ["3", "4"], ["5"]]


async def test_nothing_to_list_is_no_failure(database: str) -> None:
    assert await windsor("dead-letters", "list", database_url=database) == Ran(
        0, "", "no dead letters\n"
    )


async def test_json_is_an_object_a_line_with_the_raw_record(database: str) -> None:
    await set_aside(
        database,
        [
            letter(
                7, "{Müller\x9b".encode(), key=b"\xff", timestamp=PRODUCED_MS,
                headers=[("source", b"test"), ("none", None), ("raw", b"\xfe")],
            ),
            letter(8, b"\xfe", timestamp=-1),
        ],
    )  # fmt: skip
    await execute(database, "UPDATE windsor_private.dead_letters SET failed_at = '2026-11-05'")

    for command in (("list",), ("show", "1", "2")):
        ran = await windsor("dead-letters", *command, "--json", database_url=database)

        assert (ran.exit_code, ran.err, ran.out.isascii()) == (0, "", True)
        first, second = map(json.loads, ran.out.splitlines())
        assert first == {
            "id": 1, "topic": "calls", "partition": 0, "offset": 7, "position": 0,
            "reason": "malformed_json", "detail": "cut at 7", "state": "open",
            "record_timestamp": datetime.fromtimestamp(PRODUCED_MS / 1000, UTC).isoformat(),
            "failed_at": "2026-11-05T00:00:00+00:00", "replayed_at": None, "discarded_at": None,
            "key": "/w==", "key_text": None,
            "value": base64.b64encode("{Müller\x9b".encode()).decode(),
            "value_text": "{Müller\x9b",
            "headers": [
                {"name": "source", "value": "dGVzdA==", "value_text": "test"},
                {"name": "none", "value": None, "value_text": None},
                {"name": "raw", "value": "/g==", "value_text": None},
            ],
        }  # fmt: skip
        assert (second["value"], second["value_text"]) == ("/g==", None)
        assert (second["key"], second["record_timestamp"]) == (None, None)


async def test_show_tells_all_and_a_hostile_record_cannot_drive_the_terminal(
    database: str,
) -> None:
    hostile = b"{\x1b]0;owned\x07\r\n\x9bstate        discarded\n\xe2\x80\xae"
    await set_aside(
        database,
        [
            letter(7, b"{", timestamp=-1),
            Rejected(
                HandRecord(
                    9, value=hostile, key=b"\x1b[2J", timestamp=PRODUCED_MS,
                    headers=[("na\x1bme", b"\x00"), ("none", None)],
                ),
                3, "invalid_field", "userId: \x1b[31m",
            ),
            letter(11, hostile),
        ],
    )  # fmt: skip
    await execute(
        database,
        "UPDATE windsor_private.dead_letters SET failed_at = '2026-11-05 06:07:08Z',"
        " replayed_at = CASE WHEN id = 2 THEN timestamptz '2026-11-06Z' END",
    )

    assert await windsor("dead-letters", "show", "1", "2", database_url=database) == Ran(
        0,
        "dead letter  1\n"
        "record       calls/0/7\n"
        "reason       malformed_json\n"
        "detail       cut at 7\n"
        "failed at    2026-11-05T06:07:08Z\n"
        "state        open\n"
        "key          -\n"
        "value        1 bytes\n"
        "    {\n"
        "\n"
        "dead letter  2\n"
        "record       calls/0/9[3]\n"
        "reason       invalid_field\n"
        "detail       userId: \\x1b[31m\n"
        "failed at    2026-11-05T06:07:08Z\n"
        "state        replayed 2026-11-06T00:00:00Z\n"
        "record time  2026-11-04T00:00:00.000+00:00\n"
        "key          \\x1b[2J\n"
        "header       na\\x1bme: \\x00\n"
        "header       none: -\n"
        "same value   dead letter 3 at calls/0/11, open\n"
        "value        40 bytes\n"
        "    {\\x1b]0;owned\\x07\\r\n"
        "    \\x9bstate        discarded\n"
        "    \\u202e\n",
        "",
    )  # fmt: skip


async def test_long_value_is_cut_and_said_to_be(database: str) -> None:
    await set_aside(database, [letter(0, b"x" * 20_000)])

    ran = await windsor("dead-letters", "show", "1", database_url=database)

    assert ran.out.splitlines()[-2:] == [
        "    " + "x" * 16_384, "    ... 3616 more bytes: --json has them all",
    ]  # fmt: skip


async def test_reader_that_has_had_enough_is_no_crash(database: str) -> None:
    await set_aside(database, [letter(offset, b"x" * 100_000) for offset in range(20)])
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "dead-letters", "list", "--json",
        env=environment(database_url=database), stdout=writing, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(writing)
    await asyncio.to_thread(os.read, reading, 10)
    os.close(reading)
    _, err = await asyncio.wait_for(process.communicate(), 60)

    assert (process.returncode, err) == (1, b"")


# Discard --------------------------------------------------------------------------------------


async def test_discard_puts_open_letters_away_once(database: str) -> None:
    await set_aside(database, [letter(offset) for offset in range(3)])

    dry = await windsor("dead-letters", "discard", "--open", "--dry-run", database_url=database)
    assert dry.out == (
        "would discard 3 records (3 dead letters)\n       3  malformed_json        calls\n"
    )
    assert {state[2:] for state in await states(database)} == {(False, False)}
    first = await windsor("dead-letters", "discard", "2", database_url=database)
    assert first == Ran(0, "1 dead letter discarded\n", "")
    marked = await rows(database, "SELECT discarded_at FROM windsor_private.dead_letters")
    again = await windsor("dead-letters", "discard", "2", database_url=database)
    assert again == Ran(0, "no such dead letter is open\n", "")
    assert marked == await rows(database, "SELECT discarded_at FROM windsor_private.dead_letters")
    rest = await windsor("dead-letters", "discard", "--open", database_url=database)
    assert rest == Ran(0, "2 dead letters discarded\n", "")
    assert {state[2:] for state in await states(database)} == {(False, True)}


# Mistakes and outages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["discard"],
            "which ones? give ids, a filter such as --reason, or --open for all open",
        ),
        (
            ["replay", "--limit", "5"],
            "which ones? give ids, a filter such as --reason, or --open for all open",
        ),
        (
            ["show", "x"],
            "argument ID: 'x' is no whole number: see `windsor dead-letters show --help`",
        ),
        (
            ["list", "--limit", "0"],
            "argument --limit: 0 is too few: see `windsor dead-letters list --help`",
        ),
        (
            ["list", "--since", "noon"],
            (
                "argument --since: 'noon' is no time: 2026-11-04, 2026-11-04T10:00Z, or 90m, 6h,"
                " 2d ago: see `windsor dead-letters list --help`"
            ),
        ),
    ],
)  # fmt: skip
async def test_misuse_is_one_line_and_exit_2(arguments: list[str], error: str) -> None:
    at = settings("localhost:1", "calls", "postgresql://nobody@localhost:1/none")

    assert await windsor("dead-letters", *arguments, **at) == Ran(2, "", f"windsor: {error}\n")


async def test_letter_that_is_not_there_is_one_line_and_exit_1(database: str) -> None:
    at = settings("localhost:1", "calls", database)

    for command in ("show", "replay", "discard"):
        assert await windsor("dead-letters", command, "99", **at) == Ran(
            1, "", "windsor: no dead letter 99: `windsor dead-letters list --all` shows all\n"
        )


async def test_topic_that_no_worker_reads_or_that_is_gone_is_refused_and_nothing_marked(
    kafka_server: str, database: str
) -> None:
    await set_aside(database, [letter(0, topic="gone")])

    elsewhere = settings(kafka_server, "^calls-", database)
    assert await windsor("dead-letters", "replay", "--open", **elsewhere) == Ran(
        1, "",
        "windsor: topic gone is not among WINDSOR_KAFKA_TOPICS (^calls-): no worker would read the"
        " records; set it as the worker has it\n",
    )  # fmt: skip
    here = settings(kafka_server, "calls, gone", database)
    assert await windsor("dead-letters", "replay", "--open", **here) == Ran(
        1, "",
        "windsor: topic gone is not on this Kafka: check WINDSOR_KAFKA_BOOTSTRAP_SERVERS,"
        " or create it again\n",
    )  # fmt: skip
    assert await states(database) == [(0, 0, False, False)]


async def test_kafka_that_is_away_is_one_line_and_exit_1(database: str) -> None:
    await set_aside(database, [letter(0)])
    away = settings(f"127.0.0.1:{free_port()}", "calls", database)

    ran = await windsor("dead-letters", "replay", "1", **away)

    assert (ran.exit_code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert " cannot be reached: " in ran.err
    assert await states(database) == [(0, 0, False, False)]


async def test_kafka_that_does_not_let_go_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: AIOKafkaAdminClient) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(AIOKafkaAdminClient, "close", never)
    options = KafkaOptions(
        bootstrap_servers=f"127.0.0.1:{free_port()}", topics="calls", leave_timeout_seconds=0.1
    )

    with pytest.raises(SourceError, match="cannot be reached"):
        await asyncio.wait_for(KafkaSender(options).check_topics({"calls"}), 20)


async def test_database_that_goes_away_is_told_as_such(database: str) -> None:
    async with open_dead_letters(database) as letters:
        await execute(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        with pytest.raises(TransientSinkError, match="Postgres cannot be used now"):
            await letters.bounds()


# On a terminal --------------------------------------------------------------------------------


async def test_long_replay_shows_its_progress_on_a_terminal(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    await set_aside(database, [letter(offset, b"%d" % offset, name) for offset in range(1_001)])
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "dead-letters", "replay", "--open",
        env=environment(**settings(kafka_server, name, database)) | {"TERM": "xterm"},
        stdout=asyncio.subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    reading = asyncio.create_task(asyncio.to_thread(read_to_the_end, ours))
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    shown = await reading
    os.close(ours)

    assert out.startswith(b"1001 records sent again")
    assert b"sending" in shown
    assert b"1001/1001" in shown


def read_to_the_end(terminal: int) -> bytes:
    read = b""
    while True:
        try:
            more = os.read(terminal, 65_536)
        except OSError:
            # Linux says so when the other side has gone.
            return read
        if not more:
            return read
        read += more


def test_state_is_what_was_done_last() -> None:
    early, late = datetime(2026, 11, 5, tzinfo=UTC), datetime(2026, 11, 6, tzinfo=UTC)

    def state(replayed_at: datetime | None, discarded_at: datetime | None) -> str:
        return DeadLetter(
            1, "calls", 0, 0, 0, "too_deep", "", b"", 0, None, early, replayed_at, discarded_at
        ).state

    assert state(None, None) == "open"
    assert state(early, None) == state(late, early) == "replayed"
    assert state(None, early) == state(early, late) == "discarded"
