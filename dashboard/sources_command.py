"""`windsor sources`: what its commands do, and print."""

import argparse
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final

from consumer.postgres import Connection, connected
from consumer.settings import Settings
from consumer.terminal import printable
from dashboard.address import public_url
from dashboard.setup import snippets
from dashboard.tokens import Source, generate, list_sources, revoke

_OK: Final = 0


async def _add(settings: Settings, options: argparse.Namespace) -> int:
    async with _connection(settings) as connection:
        source, token = await generate(connection, options.name, options.calls_per_second_max)
    print(token)
    curl = snippets(public_url(settings, settings.dashboard_port), token)[0].code
    print(
        f"windsor: source {printable(source.name)} ({source.source_id}); its token is shown this"
        f" once. To try it:\n{curl}",
        file=sys.stderr,
    )
    return _OK


async def _list(settings: Settings, options: argparse.Namespace) -> int:
    async with _connection(settings) as connection:
        sources = await list_sources(connection)
    if options.json:
        for source in sources:
            print(_json(source))
    elif sources:
        print(_row("id", "created at", "last used at", "state", "name"))
        for source in sources:
            state = "revoked" if source.revoked_at else "in use"
            used = _time(source.last_used_at) if source.last_used_at else "never"
            created = _time(source.created_at)
            print(_row(source.source_id, created, used, state, printable(source.name)))
    else:
        print("no sources: windsor sources add NAME", file=sys.stderr)
    return _OK


async def _revoke(settings: Settings, options: argparse.Namespace) -> int:
    async with _connection(settings) as connection:
        source = await revoke(connection, options.source)
    print(f"source {printable(source.name)} ({source.source_id}) revoked")
    return _OK


def _connection(settings: Settings) -> AbstractAsyncContextManager[Connection]:
    return connected(
        str(settings.database_url),
        connect_seconds=settings.database_connect_timeout_seconds,
        statement_seconds=settings.database_statement_timeout_seconds,
    )


def _json(source: Source) -> str:
    fields = source._asdict()
    return json.dumps(
        {name: _time(v) if isinstance(v, datetime) else v for name, v in fields.items()}
    )


def _row(id_: str, created: str, used: str, state: str, name: str) -> str:
    return f"{id_:8}  {created:20}  {used:20}  {state:7}  {name}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


COMMANDS: Final[
    Mapping[str, Callable[[Settings, argparse.Namespace], Coroutine[Any, Any, int]]]
] = {
    "add": _add,
    "list": _list,
    "revoke": _revoke,
}
"""What each command does; `consumer.cli` has their arguments."""
