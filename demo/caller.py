"""The part of the story that its senders send over HTTP, with a token as anybody's."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg

from consumer.errors import WindsorError
from dashboard.setup import snippets
from dashboard.tokens import SourceNameError, generate, list_sources, revoke, source_id_of
from demo.story import StoryRecord

_SOURCE: Final = "windsor run"
_BATCH_CALLS: Final = 200
_TIMEOUT_SECONDS: Final = 30.0
_READY_SECONDS_MAX: Final = 60.0
_SENT_TYPES: Final = frozenset({"track", "page", "screen"})


class Caller(NamedTuple):
    """Where calls are sent to, and by whose token."""

    url: str
    token: str

    def curl(self) -> str:
        """A line to paste."""
        return snippets(self.url, self.token)[0].code


async def kept_token(dsn: str, folder: Path) -> str:
    """The token of earlier runs, else a new one: it is kept in the folder, for its owner alone."""
    kept = folder / "token"
    connection = await asyncpg.connect(dsn)
    try:
        if kept.exists():
            token = kept.read_text().strip()
            in_use = [s.source_id for s in await list_sources(connection) if s.revoked_at is None]
            if source_id_of(token) in in_use:
                return token
        with suppress(SourceNameError):
            # The token of another folder's run is known to nobody any more.
            await revoke(connection, _SOURCE)
        _, token = await generate(connection, _SOURCE)
    finally:
        await connection.close()
    _keep(kept, token)
    return token


def _keep(file: Path, token: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(token)


def parted(
    records: Sequence[StoryRecord], now_ms: int
) -> tuple[list[StoryRecord], list[StoryRecord]]:
    """Part the story: what is sent over HTTP, and what is put on the topic as it is.

    Over HTTP go tracks, pages and screens that name their id and time, and so are the same calls
    each time. A call's record has the time at which it is sent, so none may be ahead of it.
    """
    parts: tuple[list[StoryRecord], list[StoryRecord]] = ([], [])
    for record in records:
        parts[0 if _is_sent(record, now_ms) else 1].append(record)
    return parts


async def send(caller: Caller, records: Sequence[StoryRecord]) -> None:
    """Send calls in batches, as an SDK does: again where it is told to.

    Raises:
        WindsorError: The endpoint does not take them.
    """
    for first in range(0, len(records), _BATCH_CALLS):
        values = [record.value or b"" for record in records[first : first + _BATCH_CALLS]]
        await asyncio.to_thread(_post, caller, b'{"batch":[' + b",".join(values) + b"]}")


def _is_sent(record: StoryRecord, now_ms: int) -> bool:
    if record.expect is not None or record.timestamp_ms > now_ms:
        return False
    try:
        call = json.loads(record.value or b"")
    except ValueError:
        return False
    return (
        isinstance(call, dict)
        and call.get("type") in _SENT_TYPES
        and "messageId" in call
        and "timestamp" in call
    )


def _post(caller: Caller, body: bytes) -> None:
    request = urllib.request.Request(  # noqa: S310 - our own endpoint, over http
        f"{caller.url}/v1/batch",
        body,
        {"authorization": f"Bearer {caller.token}", "content-type": "application/json"},
    )
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while True:
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310 - likewise
                return
        except urllib.error.HTTPError as error:
            if error.code not in {429, 503} or time.monotonic() > deadline:
                raise WindsorError(
                    f"the endpoint answers {error.code}: {error.read().decode()}"
                ) from error
            error.close()
        time.sleep(0.1)
