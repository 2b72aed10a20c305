"""`windsor dead-letters`: its arguments, and what it prints.

A letter is addressed by its id, which `list` shows first; a record by `--topic`, `--partition`
and `--offset`, as logs and the view `windsor.dead_letters` have it.
"""

import argparse
import base64
import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

from consumer.core.call import RejectReason
from consumer.dead_letters import (
    Counts,
    DeadLetter,
    DeadLetters,
    Selection,
    StoredRecord,
    discard,
    open_dead_letters,
    replay,
)
from consumer.errors import ConfigError
from consumer.kafka import open_sender
from consumer.options import check_kafka, kafka_options
from consumer.settings import Settings
from consumer.terminal import printable, progress

_OK: Final = 0
_FAILED: Final = 1

_SHOWN_BYTES_MAX: Final = 16 * 1024
_REFUSED_SHOWN_MAX: Final = 5
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


# Arguments ------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `windsor dead-letters` its commands.

    Each sets `dead_letters_command`, which takes the settings and the options.
    """
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., Any], help_: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help_, description=help_)
        found.set_defaults(dead_letters_command=command)
        return found

    listed = add("list", _list, "one line each, oldest first; open ones unless told otherwise")
    _add_filters(listed)
    listed.add_argument("--all", action="store_true", help="replayed and discarded ones too")
    listed.add_argument("--limit", type=_count, default=50, help="at most so many (default: 50)")
    listed.add_argument(
        "--json", action="store_true", help="one JSON object a line, with the raw record"
    )

    shown = add("show", _show, "all there is to know of some, the raw record too")
    shown.add_argument("ids", nargs="+", type=_count, metavar="ID", help="as `list` shows it")
    shown.add_argument("--json", action="store_true", help="one JSON object a line")

    replayed = add(
        "replay", _replay, "send records to their topic again, after a fix; harmless to repeat"
    )
    _add_selection(replayed, "send")
    replayed.add_argument(
        "--all", action="store_true", help="replayed and discarded ones too; alone: every one"
    )

    discarded = add("discard", _discard, "put open ones away; their rows stay")
    _add_selection(discarded, "put away")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    reasons = get_args(RejectReason)
    parser.add_argument(
        "--reason", choices=reasons, metavar="REASON", help=f"one of {', '.join(reasons)}"
    )
    parser.add_argument("--topic", help="of that topic")
    parser.add_argument("--partition", type=_number, help="of that partition")
    parser.add_argument("--offset", type=_number, help="of the record with that offset")
    parser.add_argument(
        "--since", type=_moment, metavar="WHEN",
        help="failed then or later: 2026-11-04, 2026-11-04T10:00Z (UTC), or 90m, 6h, 2d ago",
    )  # fmt: skip
    parser.add_argument("--until", type=_moment, metavar="WHEN", help="failed before")
    parser.add_argument(
        "--after", type=_number, default=0, metavar="ID", help="only newer ones: the next page"
    )


def _add_selection(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument("ids", nargs="*", type=_count, metavar="ID", help="as `list` shows it")
    _add_filters(parser)
    parser.add_argument("--open", action="store_true", help="every open one")
    parser.add_argument("--limit", type=_count, help="at most so many, the oldest: try a few first")
    parser.add_argument("--dry-run", action="store_true", help=f"{verb} nothing, say what would be")


def _number(text: str) -> int:
    """A whole number from 0 on, that fits a bigint."""
    if not re.fullmatch("[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _count(text: str) -> int:
    """A whole number from 1 on."""
    if (number := _number(text)) == 0:
        raise argparse.ArgumentTypeError("0 is too few")
    return number


def _moment(text: str) -> datetime:
    """A moment in ISO 8601, UTC where it has no zone, or how long ago."""
    if ago := re.fullmatch("([0-9]{1,5})([smhd])", text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: 2026-11-04, 2026-11-04T10:00Z, or 90m, 6h, 2d ago"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _selection(options: argparse.Namespace, *, closed: bool) -> Selection:
    return Selection(
        ids=tuple(getattr(options, "ids", ())),
        reason=options.reason,
        topic=options.topic,
        partition=options.partition,
        offset=options.offset,
        since=options.since,
        until=options.until,
        closed=closed,
        after=options.after,
        limit=options.limit,
    )


def _chosen(options: argparse.Namespace, *, closed: bool) -> Selection:
    """A selection that somebody has made: all there is must be asked for.

    Raises:
        ConfigError: Nothing was said.
    """
    selection = _selection(options, closed=closed)
    if selection._replace(closed=False, limit=None) == Selection() and not (
        options.open or getattr(options, "all", False)
    ):
        raise ConfigError("which ones? give ids, a filter such as --reason, or --open for all open")
    return selection


# Commands -------------------------------------------------------------------------------------


async def _list(settings: Settings, options: argparse.Namespace) -> int:
    selection = _selection(options, closed=options.all)
    # One more, to know whether there is a next page.
    wanted = selection._replace(limit=selection.limit + 1 if selection.limit else None)
    shown, last, more = 0, 0, False
    async with open_dead_letters(str(settings.database_url)) as letters:
        async for page in letters.pages(wanted):
            rest = page[: options.limit - shown]
            more = len(rest) < len(page)
            if options.json:
                async for some in letters.with_records(rest):
                    for letter, record in some:
                        print(_json(letter, record))
            else:
                if not shown:
                    print(_row("id", "failed at", "state", "reason", "record", "what is wrong"))
                for letter in rest:
                    print(_line(letter))
            shown += len(rest)
            last = rest[-1].id if rest else last
    if not shown:
        print("no dead letters", file=sys.stderr)
    if more:
        print(f"next page: windsor dead-letters {_next_page(options, last)}", file=sys.stderr)
    return _OK


async def _show(settings: Settings, options: argparse.Namespace) -> int:
    async with open_dead_letters(str(settings.database_url)) as letters:
        await letters.require(options.ids)
        blank = False
        async for page in letters.pages(Selection(ids=tuple(options.ids), closed=True)):
            async for some in letters.with_records(page):
                for letter, record in some:
                    if options.json:
                        print(_json(letter, record))
                        continue
                    if blank:
                        print()
                    blank = True
                    for line in _description(letter, record, await letters.same_value(letter)):
                        print(line)
    return _OK


async def _replay(settings: Settings, options: argparse.Namespace) -> int:
    check_kafka(settings)
    # Its errors are told by us, in one line.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    selection = _chosen(options, closed=options.all or bool(options.ids))
    async with open_dead_letters(str(settings.database_url)) as letters:
        counts = await _counted(letters, selection)
        if options.dry_run or not counts.letters:
            _tell_counts(counts, "would send again")
            return _OK
        async with open_sender(kafka_options(settings)) as sender:
            await sender.check_topics(counts.topics)
            with progress("sending", counts.records) as sent:
                done = await replay(letters, sender, selection, sent)
    print(
        f"{done.records} {_plural(done.records, 'record')} sent again;"
        " what still cannot be applied comes back as a new dead letter"
    )
    for id_, reason in list(done.refused.items())[:_REFUSED_SHOWN_MAX]:
        print(f"windsor: dead letter {id_} was not sent: {printable(reason)}", file=sys.stderr)
    if len(done.refused) > _REFUSED_SHOWN_MAX:
        left = len(done.refused) - _REFUSED_SHOWN_MAX
        print(f"windsor: {left} more were not sent either", file=sys.stderr)
    return _FAILED if done.refused else _OK


async def _discard(settings: Settings, options: argparse.Namespace) -> int:
    selection = _chosen(options, closed=False)
    async with open_dead_letters(str(settings.database_url)) as letters:
        counts = await _counted(letters, selection)
        if options.dry_run or not counts.letters:
            _tell_counts(counts, "would discard")
            return _OK
        with progress("discarding", counts.letters) as marked:
            total = await discard(letters, selection, marked)
    print(f"{total} {_plural(total, 'dead letter')} discarded")
    return _OK


async def _counted(letters: DeadLetters, selection: Selection) -> Counts:
    """Count a selection.

    Raises:
        WindsorError: A letter that was named is not there.
    """
    await letters.require(selection.ids)
    return await letters.counts(selection)


def _tell_counts(counts: Counts, verb: str) -> None:
    if not counts.letters:
        print("no such dead letter is open")
        return
    print(
        f"{verb} {counts.records} {_plural(counts.records, 'record')}"
        f" ({counts.letters} {_plural(counts.letters, 'dead letter')})"
    )
    for (topic, reason), letters in counts.by_reason.items():
        print(f"{letters:>8}  {reason:20}  {printable(topic)}")


# What is printed ------------------------------------------------------------------------------


def _row(id_: object, at: str, state: str, reason: str, record: str, detail: str) -> str:
    return f"{id_:>8}  {at:20}  {state:9}  {reason:20}  {record:24}  {detail}"


def _line(letter: DeadLetter) -> str:
    return _row(
        letter.id,
        _time(letter.failed_at),
        letter.state,
        letter.reason,
        _place(letter),
        printable(letter.detail),
    )


def _place(letter: DeadLetter) -> str:
    """Topic, partition and offset, and the call's place in a batch envelope but the first."""
    inside = f"[{letter.position}]" if letter.position else ""
    return f"{printable(letter.topic)}/{letter.partition}/{letter.offset}{inside}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _next_page(options: argparse.Namespace, after: int) -> str:
    """The arguments of the same list from an id on."""
    arguments = ["list"]
    for name in ("reason", "topic", "partition", "offset", "since", "until", "limit"):
        value = getattr(options, name)
        if value is not None:
            text = value.isoformat() if isinstance(value, datetime) else str(value)
            arguments += [f"--{name}", text]
    arguments += [f"--{name}" for name in ("all", "json") if getattr(options, name)]
    return shlex.join([*arguments, "--after", str(after)])


def _description(
    letter: DeadLetter, record: StoredRecord, same_value: list[DeadLetter]
) -> Iterator[str]:
    """A letter for a person, the record's bytes made safe."""
    done = letter.replayed_at if letter.state == "replayed" else letter.discarded_at
    facts = {
        "dead letter": str(letter.id),
        "record": _place(letter),
        "reason": letter.reason,
        "detail": printable(letter.detail),
        "failed at": _time(letter.failed_at),
        "state": letter.state if done is None else f"{letter.state} {_time(done)}",
    }
    if letter.record_timestamp is not None:
        facts["record time"] = letter.record_timestamp.isoformat(timespec="milliseconds")
    facts["key"] = "-" if record.key is None else printable(record.key)
    for name, fact in facts.items():
        yield f"{name:12} {fact}"
    for name, value in record.headers:
        shown = "-" if value is None else printable(value)
        yield f"{'header':12} {printable(name)}: {shown}"
    for other in same_value:
        yield f"{'same value':12} dead letter {other.id} at {_place(other)}, {other.state}"
    value = record.value or b""
    yield f"{'value':12} {len(value)} bytes"
    # Of our own line breaks only the indented ones are the record's.
    for line in value[:_SHOWN_BYTES_MAX].split(b"\n"):
        yield f"    {printable(line)}"
    if len(value) > _SHOWN_BYTES_MAX:
        yield f"    ... {len(value) - _SHOWN_BYTES_MAX} more bytes: --json has them all"


def _json(letter: DeadLetter, record: StoredRecord) -> str:
    """A letter for a program: bytes in base64, and as text where they are UTF-8.

    In ASCII, so that it is safe on a terminal too.
    """
    return json.dumps({
        "id": letter.id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "position": letter.position,
        "reason": letter.reason,
        "detail": letter.detail,
        "state": letter.state,
        "record_timestamp": _iso(letter.record_timestamp),
        "failed_at": _iso(letter.failed_at),
        "replayed_at": _iso(letter.replayed_at),
        "discarded_at": _iso(letter.discarded_at),
        "key": _base64(record.key),
        "key_text": _text(record.key),
        "value": _base64(record.value),
        "value_text": _text(record.value),
        "headers": [
            {"name": name, "value": _base64(value), "value_text": _text(value)}
            for name, value in record.headers
        ],
    })  # fmt: skip


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _text(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None
