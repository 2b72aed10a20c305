"""Tokens as an operator handles them, in a real Postgres."""

import json
import re
from datetime import UTC, datetime

import asyncpg
import pytest

from consumer.errors import SchemaError
from dashboard.tokens import (
    SourceNameError,
    generate,
    is_token,
    list_sources,
    revoke,
    source_id_of,
)
from tests.command import windsor


async def test_what_is_stored_of_a_token_is_its_hash_alone(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        source, token = await generate(connection, "web")
        row = await connection.fetchrow("SELECT * FROM windsor_private.sources")
    finally:
        await connection.close()

    assert re.fullmatch(r"ws_[0-9a-f]{8}_[0-9a-f]{40}", token)
    assert source_id_of(token) == source.source_id
    assert row is not None
    assert token.rpartition("_")[2] not in str(dict(row))
    assert is_token(token, row["token_hash"])
    assert not is_token(token[:-1] + "x", row["token_hash"])


async def test_list_shows_those_in_use_first_and_no_hash(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        first, _ = await generate(connection, "old web")
        second, _ = await generate(connection, "  new   web ", 50)
        gone = await revoke(connection, "old web")
        listed = await list_sources(connection)
    finally:
        await connection.close()

    assert listed == [second, gone]
    assert (second.name, second.calls_per_second_max) == ("new web", 50)
    assert gone == first._replace(revoked_at=gone.revoked_at)
    assert gone.revoked_at is not None
    assert abs((datetime.now(UTC) - gone.revoked_at).total_seconds()) < 60


async def test_a_name_in_use_is_refused_and_free_once_revoked(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        first, _ = await generate(connection, "web")
        with pytest.raises(SourceNameError, match="there is a source 'web' already"):
            await generate(connection, "web")
        await revoke(connection, first.source_id)
        second, _ = await generate(connection, "web")
        # By name: the one in use.
        assert (await revoke(connection, "web")).source_id == second.source_id
    finally:
        await connection.close()


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\x1b[2J", "a\u202eb"])
async def test_what_is_no_name_is_refused(name: str, database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        with pytest.raises(SourceNameError, match="has 1 to 100 characters"):
            await generate(connection, name)
    finally:
        await connection.close()


async def test_a_revoked_token_stays_revoked_from_then(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        source, _ = await generate(connection, "web")
        once = await revoke(connection, source.source_id)
        assert await revoke(connection, source.source_id) == once
        with pytest.raises(SourceNameError, match="there is no source 'web'"):
            await revoke(connection, "web")
    finally:
        await connection.close()


async def test_older_schema_is_told_in_one_line(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("DROP TABLE windsor_private.sources CASCADE")
        with pytest.raises(SchemaError, match="run `windsor migrate` first"):
            await generate(connection, "web")
    finally:
        await connection.close()


@pytest.mark.parametrize("text", ["", "ws", "segment", "w" * 50, "ws_" + "a" * 200, "ws_é_1"])
def test_what_is_no_token_of_ours_has_no_id(text: str) -> None:
    assert source_id_of(text) is None


async def test_commands_add_list_and_revoke(database: str) -> None:
    nothing = await windsor("sources", "list", database_url=database)
    assert (nothing.exit_code, nothing.out) == (0, "")
    assert nothing.err == "no sources: windsor sources add NAME\n"

    added = await windsor("sources", "add", "Web shop", database_url=database)
    token = added.out.strip()
    assert added.exit_code == 0
    # Nothing but the token on standard output, so that a script can take it.
    assert re.fullmatch(r"ws_[0-9a-f]{8}_[0-9a-f]{40}\n", added.out)
    assert f"curl -u {token}: " in added.err
    assert "http://127.0.0.1:8321/v1/track" in added.err

    listed = await windsor("sources", "list", "--json", database_url=database)
    found = json.loads(listed.out)
    assert found == {
        "source_id": source_id_of(token),
        "name": "Web shop",
        "calls_per_second_max": None,
        "created_at": found["created_at"],
        "last_used_at": None,
        "revoked_at": None,
    }
    assert token not in listed.out

    revoked = await windsor("sources", "revoke", "Web shop", database_url=database)
    assert (revoked.exit_code, revoked.out) == (
        0, f"source Web shop ({source_id_of(token)}) revoked\n",
    )  # fmt: skip
    shown = await windsor("sources", "list", database_url=database)
    assert re.fullmatch(
        r"id {8}created at {12}last used at {10}state {4}name\n"
        rf"{source_id_of(token)}  \S{{20}}  never {{17}}revoked  Web shop\n",
        shown.out,
    )


async def test_commands_say_what_is_wrong_in_one_line(database: str) -> None:
    unknown = await windsor("sources", "revoke", "nobody", database_url=database)
    assert (unknown.exit_code, unknown.err) == (
        1, "windsor: there is no source 'nobody': see `windsor sources list`\n",
    )  # fmt: skip
    rate = await windsor(
        "sources", "add", "a", "--calls-per-second-max", "0", database_url=database
    )
    assert rate.exit_code == 2
    assert rate.err.startswith("windsor: argument --calls-per-second-max: from 1 to 1000000")
