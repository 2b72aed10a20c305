"""Sends calls to the endpoint over HTTP, as a process of its own: `python -m bench.callers`.

Either as fast as the answers come, over some connections; or at a steady pace, where a request's
time counts from when it was due, however late it was sent. The client speaks just as much HTTP
as it needs: it shares two cores with what it measures. Answers with one line of JSON (`Answered`).
"""

import argparse
import asyncio
import base64
import gc
import itertools
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import msgspec
import uvloop

from bench.calls import calls

_BODIES: Final = 400
_WARM_SHARE: Final = 0.2
_ANSWER_END: Final = b'{"success":true}'


class Answered(msgspec.Struct):
    """What the callers met with; what came while they warmed up is left out."""

    calls_per_second: float
    p50_seconds: float
    p99_seconds: float
    refused_count: int


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, callers: "_Callers") -> None:
        self._callers = callers
        self._answer = b""
        self._due_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._callers.is_free(self)

    def send(self, request: bytes, due_at: float) -> None:
        self._due_at = due_at
        self._answer = b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer.endswith(_ANSWER_END):
            self._callers.answered(time.perf_counter() - self._due_at)
        elif b"\r\n\r\n" in self._answer and not self._answer.startswith(b"HTTP/1.1 200"):
            self._callers.refused += 1
        else:
            return
        self._callers.is_free(self)


class _Callers:
    """All connections, and what they met with."""

    def __init__(self, requests: Sequence[bytes], requests_per_second: float) -> None:
        self._requests: Iterator[bytes] = itertools.cycle(requests)
        self._pace = requests_per_second
        self._free: deque[_Connection] = deque()
        self._late: deque[float] = deque()
        self.seconds: list[float] = []
        self.refused = 0
        self.is_over = False

    def is_free(self, connection: _Connection) -> None:
        if self.is_over:
            return
        if not self._pace:
            connection.send(next(self._requests), time.perf_counter())
        elif self._late:
            connection.send(next(self._requests), self._late.popleft())
        else:
            self._free.append(connection)

    def answered(self, seconds: float) -> None:
        self.seconds.append(seconds)

    async def run(self, seconds: float) -> None:
        """Send for so long."""
        began = time.perf_counter()
        sent = 0
        while (now := time.perf_counter() - began) < seconds:
            if self._pace:
                while sent < now * self._pace:
                    due_at = began + sent / self._pace
                    sent += 1
                    if self._free:
                        self._free.popleft().send(next(self._requests), due_at)
                    else:
                        self._late.append(due_at)
            await asyncio.sleep(0.001 if self._pace else 0.05)


async def send(
    url: str,
    token: str,
    batch_calls: int,
    connections: int,
    calls_per_second: float,
    seconds: float,
) -> Answered:
    """Send for so long.

    Args:
        url: The endpoint's.
        token: Of a source.
        batch_calls: Calls of one request; 1 sends them singly.
        connections: That are kept open.
        calls_per_second: The pace; as fast as the answers come where 0.
        seconds: Of which the first fifth is for warming up.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    callers = _Callers(list(_requests(host, token, batch_calls)), calls_per_second / batch_calls)
    gc.freeze()
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(callers), host, int(port))
    await callers.run(seconds * _WARM_SHARE)
    callers.seconds.clear()
    began = time.perf_counter()
    await callers.run(seconds * (1 - _WARM_SHARE))
    took = time.perf_counter() - began
    callers.is_over = True
    found = sorted(callers.seconds)
    if not found:
        return Answered(0.0, 0.0, 0.0, callers.refused)
    return Answered(
        len(found) * batch_calls / took,
        found[len(found) // 2],
        found[len(found) * 99 // 100],
        callers.refused,
    )


def _requests(host: str, token: str, batch_calls: int) -> Iterator[bytes]:
    """Requests as an SDK makes them, of realistic calls that happen now."""
    path = "/v1/batch" if batch_calls > 1 else "/v1/track"
    authorization = base64.b64encode(f"{token}:".encode()).decode()
    now = datetime.now(UTC)
    made = calls(_BODIES * batch_calls, seed=11, start=now, step=timedelta(microseconds=1))
    bodies = (_as_sent(json.loads(record.value)) for record in made)
    if batch_calls > 1:
        groups = zip(*[bodies] * batch_calls, strict=False)
        whole = ({"batch": list(group), "sentAt": now.isoformat()} for group in groups)
    else:
        whole = ({**call, "sentAt": now.isoformat()} for call in bodies if call["type"] == "track")
    for body in whole:
        raw = json.dumps(body, separators=(",", ":")).encode()
        yield (
            f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Basic {authorization}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        ).encode() + raw


def _as_sent(call: dict[str, Any]) -> dict[str, Any]:
    """A call as it was before an endpoint had stamped it."""
    for stamped in ("receivedAt", "originalTimestamp", "sentAt"):
        call.pop(stamped, None)
    call.get("context", {}).pop("ip", None)
    return call


def main() -> None:
    """Send as the arguments say, and print what was answered."""
    parser = argparse.ArgumentParser(prog="bench.callers", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("--batch-calls", type=int, default=1)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--calls-per-second", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = vars(parser.parse_args())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(msgspec.json.encode(runner.run(send(**options))).decode(), flush=True)


if __name__ == "__main__":
    main()
