"""Tokens: who may send calls. Made here, shown once, stored as a hash, revocable.

A token is `ws_`, the id of its source, `_`, and 160 random bits. The id is public: it is what
a token is looked up by, so that comparing hashes takes the same time whatever is sent.
"""

import hashlib
import hmac
import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from consumer.errors import SchemaError, WindsorError
from consumer.sql import load_queries

if TYPE_CHECKING:
    from consumer.postgres import Connection

_SQL: Final = load_queries("sources.sql", "dashboard.sql")
_PREFIX: Final = "ws_"
_ID_BYTES: Final = 4
_SECRET_BYTES: Final = 20
_NAME_CHARS_MAX: Final = 100
_TOKEN_CHARS_MAX: Final = 100


class Source(NamedTuple):
    """Who may send calls, as people are shown it."""

    source_id: str
    name: str
    calls_per_second_max: int | None
    """None where the dashboard's setting holds."""
    created_at: datetime
    last_used_at: datetime | None
    """To within some seconds."""
    revoked_at: datetime | None


class Generated(NamedTuple):
    """A new source, and its token, which nobody can be shown again."""

    source: Source
    token: str


class SourceNameError(WindsorError):
    """A source of this name is in use, there is none, or it is no name."""


async def generate(
    connection: "Connection", name: str, calls_per_second_max: int | None = None
) -> Generated:
    """Make a source and its token.

    Args:
        connection: With asyncpg's own types.
        name: Of at most 100 characters, not that of another source in use.
        calls_per_second_max: For this source alone, on each replica.

    Raises:
        SourceNameError: The name is taken, empty or too long.
        SchemaError: The database's schema is older.
    """
    name = " ".join(name.split())
    if not 1 <= len(name) <= _NAME_CHARS_MAX or not name.isprintable():
        raise SourceNameError(f"a source's name has 1 to {_NAME_CHARS_MAX} characters")
    source_id = secrets.token_hex(_ID_BYTES)
    token = f"{_PREFIX}{source_id}_{secrets.token_hex(_SECRET_BYTES)}"
    try:
        row = await connection.fetchrow(
            _SQL["add"], source_id, name, hash_of(token), calls_per_second_max
        )
    except asyncpg.UniqueViolationError as error:
        raise SourceNameError(
            f"there is a source {name!r} already: choose another name, or revoke it first"
        ) from error
    except asyncpg.UndefinedTableError as error:
        raise _older_schema() from error
    assert row is not None  # noqa: S101 - an INSERT returns what it inserted
    return Generated(Source(*row), token)


async def list_sources(connection: "Connection") -> list[Source]:
    """All sources, those in use first.

    Raises:
        SchemaError: The database's schema is older.
    """
    try:
        return [Source(*row) for row in await connection.fetch(_SQL["list"])]
    except asyncpg.UndefinedTableError as error:
        raise _older_schema() from error


async def revoke(connection: "Connection", name_or_id: str) -> Source:
    """Take a source's token back: every replica refuses it once this is committed.

    Raises:
        SourceNameError: No source in use has this name, none at all this id.
        SchemaError: The database's schema is older.
    """
    try:
        row = await connection.fetchrow(_SQL["revoke"], name_or_id)
    except asyncpg.UndefinedTableError as error:
        raise _older_schema() from error
    if row is None:
        raise SourceNameError(f"there is no source {name_or_id!r}: see `windsor sources list`")
    return Source(*row)


def hash_of(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()


def source_id_of(token: str) -> str | None:
    """The public half of a token; None where it is no token of ours."""
    if len(token) > _TOKEN_CHARS_MAX or not token.startswith(_PREFIX) or not token.isascii():
        return None
    return token[len(_PREFIX) :].partition("_")[0]


def is_token(token: str, token_hash: bytes) -> bool:
    """Compare a token with what is stored, in a time that tells nothing."""
    return hmac.compare_digest(hash_of(token), token_hash)


def _older_schema() -> SchemaError:
    return SchemaError("the database has no sources yet: run `windsor migrate` first")
