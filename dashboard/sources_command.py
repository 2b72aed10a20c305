"""`windsor sources`: its arguments, and what it prints."""

import argparse
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import asyncpg

from consumer.postgres import FAILURES, Connection, translated
from consumer.settings import Settings
from consumer.terminal import printable
from dashboard.setup import snippets
from dashboard.tokens import Source, generate, list_sources, revoke

_OK: Final = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `windsor sources` its commands.

    Each sets `sources_command`, which takes the settings and the options.
    """
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., Any], help_: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help_, description=help_)
        found.set_defaults(sources_command=command)
        return found

    added = add("add", _add, "make a source and its token, which is shown once")
    added.add_argument("name", help="for people: where the calls come from")
    added.add_argument(
        "--calls-per-second-max",
        type=_rate,
        metavar="CALLS",
        help="for this source alone (default: WINDSOR_ENDPOINT_CALLS_PER_SECOND_MAX)",
    )
    listed = add("list", _list, "one line each, those in use first")
    listed.add_argument("--json", action="store_true", help="one JSON object a line")
    revoked = add("revoke", _revoke, "take a source's token back, at once and for good")
    revoked.add_argument("source", help="its name, or its id as `list` shows it")


async def _add(settings: Settings, options: argparse.Namespace) -> int:
    async with _connection(settings) as connection:
        source, token = await generate(connection, options.name, options.calls_per_second_max)
    print(token)
    curl = snippets(public_url(settings), token)[0].code
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


def public_url(settings: Settings) -> str:
    """Where senders reach the endpoint, as far as the settings tell."""
    if settings.dashboard_url is not None:
        return settings.dashboard_url.rstrip("/")
    host = settings.dashboard_host
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.dashboard_port}"


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[Connection]:
    try:
        connection = await asyncpg.connect(
            settings.database_url,
            timeout=settings.database_connect_timeout_seconds,
            command_timeout=settings.database_statement_timeout_seconds,
            server_settings={"application_name": "windsor", "timezone": "UTC"},
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=5)
    except FAILURES as error:
        raise translated(error) from error


def _json(source: Source) -> str:
    fields = source._asdict()
    return json.dumps(
        {name: _time(v) if isinstance(v, datetime) else v for name, v in fields.items()}
    )


def _row(id_: str, created: str, used: str, state: str, name: str) -> str:
    return f"{id_:8}  {created:20}  {used:20}  {state:7}  {name}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _rate(text: str) -> int:
    rate = int(text)
    if not 1 <= rate <= 1_000_000:  # noqa: PLR2004 - a million is faster than any endpoint
        raise argparse.ArgumentTypeError("from 1 to 1000000")
    return rate
