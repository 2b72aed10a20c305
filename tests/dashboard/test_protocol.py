"""HTTP as the dashboard's port speaks it: uvicorn over raw sockets, with apps of a few lines."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
import uvloop

from consumer.health import serving
from dashboard.protocol import HEADERS_BYTES_MAX, Bounds, bounded

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# uvicorn's own.
KEEP_ALIVE_SECONDS = 5.0

Runner = Callable[[Coroutine[Any, Any, None]], None]
# The dashboard runs on the second where there is one; they tell of full buffers differently.
RUNNERS: list[Runner] = [asyncio.run, uvloop.run]


class Spoken(NamedTuple):
    """A server, and whom it cut off."""

    port: int
    cut_off: list[str]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def speaking(
    app: "ASGIApp", *, receive_seconds: float = 10.0, send_seconds: float = 10.0
) -> AsyncIterator[Spoken]:
    """Serve an app as the dashboard does."""
    cut_off: list[str] = []
    protocol = bounded(Bounds(receive_seconds, 100, cut_off.append, send_seconds))
    async with serving(app, "127.0.0.1", 0, protocol=protocol) as port:
        yield Spoken(port, cut_off)


async def answered(send: "Send", status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def reading(scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Answer with what was sent."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    await answered(send, 200, body or scope["path"].encode())


async def refusing(scope: "Scope", receive: "Receive", send: "Send") -> None:  # noqa: ARG001 - ASGI's
    """Answer before the body has come."""
    await answered(send, 401, b"no")


async def told(reader: asyncio.StreamReader, *, has_body: bool = True) -> tuple[int, bytes]:
    """Read one answer: its status and its body."""
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
        body = await reader.readexactly(length) if has_body else b""
    return int(head.split()[1]), body


async def gone_after(reader: asyncio.StreamReader, seconds_max: float) -> float:
    """How many seconds pass until the server has closed the connection."""
    began = time.perf_counter()
    async with asyncio.timeout(seconds_max):
        with suppress(ConnectionError):
            await reader.read()
    return time.perf_counter() - began


# Answers ----------------------------------------------------------------------------------------


async def test_sender_who_asks_before_it_sends_hears_at_once() -> None:
    async with speaking(reading) as spoken:
        reader, writer = await spoken.connect()
        for _ in range(2):
            writer.write(
                b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
            )
            assert await told(reader) == (100, b"")
            writer.write(b"abc")
            assert await told(reader) == (200, b"abc")
        writer.close()


async def test_head_is_answered_at_once_and_the_connection_goes_on() -> None:
    async with speaking(reading) as spoken:
        reader, writer = await spoken.connect()
        began = time.perf_counter()
        for _ in range(2):
            writer.write(b"HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await told(reader, has_body=False) == (200, b"")
        writer.write(b"HEAD /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await told(reader, has_body=False) == (200, b"")
        assert await told(reader) == (200, b"/b")
        # uvicorn would end the connection then, and send what waits.
        assert time.perf_counter() - began < KEEP_ALIVE_SECONDS - 1
        writer.close()


async def test_upgrade_is_answered_as_any_other_and_the_connection_goes_on() -> None:
    async with speaking(reading) as spoken:
        reader, writer = await spoken.connect()
        for protocol in (b"h2c", b"websocket"):
            writer.write(
                b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: "
                + protocol
                + b"\r\n\r\n"
            )
            assert await told(reader) == (200, b"/a")
        writer.close()


async def test_headers_that_are_too_large_are_refused_once_whatever_follows() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nx-a: "
    async with speaking(reading) as spoken:
        reader, writer = await spoken.connect()
        writer.write(head + b"a" * HEADERS_BYTES_MAX + b"\r\n\r\nabc" + head)
        status, body = await told(reader)
        assert (status, json.loads(body)) == (
            431,
            {
                "success": False,
                "code": "headers_too_large",
                "message": f"headers: at most {HEADERS_BYTES_MAX} bytes",
            },
        )
        await gone_after(reader, 30)
        writer.close()
        assert spoken.cut_off == ["headers"]


async def test_what_is_no_http_is_told_so() -> None:
    async with speaking(reading) as spoken:
        reader, writer = await spoken.connect()
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        status, body = await told(reader)
        assert (status, json.loads(body)) == (
            400,
            {"success": False, "code": "bad_request", "message": "this is no HTTP/1.1 request"},
        )
        assert await reader.read() == b""
        writer.close()
        assert spoken.cut_off == ["malformed"]


# Time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("app", "status"), [(refusing, 401), (reading, 200)])
async def test_connection_is_kept_for_its_next_request_and_not_for_empty_lines(
    app: "ASGIApp", status: int
) -> None:
    async with speaking(app) as spoken:
        reader, writer = await spoken.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        if status == 401:
            assert (await told(reader))[0] == status
            writer.write(b"0123456789")
            await asyncio.sleep(0.1)
        else:
            writer.write(b"0123456789")
            assert (await told(reader))[0] == status

        async def trickle() -> None:
            while True:
                await asyncio.sleep(1)
                writer.write(b"\r\n")

        trickling = asyncio.create_task(trickle())
        seconds = await gone_after(reader, 30)
        trickling.cancel()
        writer.close()
        assert seconds > KEEP_ALIVE_SECONDS - 1


async def test_body_that_comes_after_its_answer_is_waited_for_and_the_next_request_answered() -> (
    None
):
    async with speaking(refusing) as spoken:
        reader, writer = await spoken.connect()
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\n"
        writer.write(head)
        assert await told(reader) == (401, b"no")
        # Longer than a connection is kept for its next request.
        for _ in range(6):
            await asyncio.sleep(1)
            writer.write(b"x")
        writer.write(b"x" + head)
        assert await told(reader) == (401, b"no")
        writer.close()
        assert spoken.cut_off == []


async def test_body_that_never_comes_after_its_answer_ends_the_connection() -> None:
    async with speaking(refusing, receive_seconds=0.5) as spoken:
        reader, writer = await spoken.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        assert await told(reader) == (401, b"no")
        await gone_after(reader, KEEP_ALIVE_SECONDS - 1)
        writer.close()
        assert spoken.cut_off == ["slow"]


async def test_first_request_has_its_time_from_its_first_byte() -> None:
    async with speaking(reading, receive_seconds=4) as spoken:
        reader, writer = await spoken.connect()
        await asyncio.sleep(2.5)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
        await asyncio.sleep(2.5)
        writer.write(b"abc")
        assert await told(reader) == (200, b"abc")
        writer.close()
        assert spoken.cut_off == []


@pytest.mark.parametrize("said", [b"", b"\r\n"])
async def test_connection_that_says_nothing_is_cut_off(said: bytes) -> None:
    async with speaking(reading, receive_seconds=0.5) as spoken:
        reader, writer = await spoken.connect()
        writer.write(said)
        assert await gone_after(reader, 30) > 0.4
        writer.close()
        assert spoken.cut_off == ["slow"]


def connected(port: int, room_bytes: int) -> socket.socket:
    """Connect with so much room for what comes in; the kernel has its least."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_bytes)
    client.connect(("127.0.0.1", port))
    client.settimeout(0)
    return client


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("kept", [b"keep-alive", b"close"])
def test_who_does_not_read_is_cut_off(run: Runner, kept: bytes) -> None:
    async def telling(scope: "Scope", receive: "Receive", send: "Send") -> None:  # noqa: ARG001 - ASGI's
        await answered(send, 200, bytes(16_000_000))

    async def story() -> None:
        async with speaking(telling, send_seconds=0.5) as spoken:
            with connected(spoken.port, 1) as client:
                await asyncio.get_running_loop().sock_sendall(
                    client, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: " + kept + b"\r\n\r\n"
                )
                await until_cut_off(spoken)
            assert spoken.cut_off == ["slow"]

    run(story())


@pytest.mark.parametrize("run", RUNNERS)
def test_who_does_not_read_is_cut_off_however_little_waits(run: Runner) -> None:
    waiting_bytes = 0

    async def telling(scope: "Scope", receive: "Receive", send: "Send") -> None:  # noqa: ARG001 - ASGI's
        nonlocal waiting_bytes
        await answered(send, 200, bytes(20_000))
        # Nobody else knows what the kernel has not taken.
        waiting_bytes = cast("Any", receive).__self__.transport.get_write_buffer_size()

    async def story() -> None:
        async with speaking(telling, send_seconds=0.5) as spoken:
            with connected(spoken.port, 1) as client:
                while not waiting_bytes:
                    await asyncio.get_running_loop().sock_sendall(
                        client, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
                    )
                    await asyncio.sleep(0.01)
                assert waiting_bytes <= 20_500
                await until_cut_off(spoken)
            assert spoken.cut_off == ["slow"]

    run(story())


async def until_cut_off(spoken: Spoken) -> None:
    async with asyncio.timeout(10):
        while not spoken.cut_off:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("run", RUNNERS)
def test_who_reads_slowly_is_not_cut_off(run: Runner) -> None:
    piece, pieces = bytes(64 * 1024), 800

    async def streaming(scope: "Scope", receive: "Receive", send: "Send") -> None:  # noqa: ARG001 - ASGI's
        headers = [(b"content-length", b"%d" % (len(piece) * pieces))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(pieces):
            more = number + 1 < pieces
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def story() -> None:
        async with speaking(streaming, send_seconds=2) as spoken:
            loop = asyncio.get_running_loop()
            with connected(spoken.port, 64 * 1024) as client:
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                began, found = time.perf_counter(), 0
                while found < len(piece) * pieces:
                    received = len(await loop.sock_recv(client, 64 * 1024))
                    assert received
                    found += received
                    await asyncio.sleep(received / 8_000_000)
            assert time.perf_counter() - began > 4
            assert spoken.cut_off == []

    run(story())
