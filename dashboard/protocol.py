"""HTTP as the dashboard's port speaks it: uvicorn's, with bounds that it lacks.

A request must have come whole within a time of its first byte, its headers within a size, and
there are so many connections and no more. Whoever is beyond is cut off.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_BYTES_MAX: Final = 16 * 1024
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Bounds(NamedTuple):
    """What a connection may take."""

    receive_timeout_seconds: float
    connections_max: int
    cut_off: Callable[[str], None]
    """Told of each connection that was cut off: `slow`, `headers`, `malformed`, `connections`."""


def bounded(bounds: Bounds) -> type[asyncio.Protocol]:
    """Make the protocol's class, as uvicorn wants it."""
    return type("BoundedProtocol", (_BoundedProtocol,), {"bounds": bounds})


class _OneWrite:
    """A transport that sends an answer's head along with the beginning of its body.

    uvicorn writes them apart, and a write of the socket takes as long as reading ten calls.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 ") and not self._head:
            self._head = data
            return
        data, self._head = self._head + data, b""
        if data:
            self._transport.write(data)

    def close(self) -> None:
        self.write(b"")
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the transport's own
        return getattr(self._transport, name)


class _BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, bounded."""

    bounds: ClassVar[Bounds]
    _deadline: asyncio.TimerHandle | None = None
    _headers_bytes = 0
    _in_headers = False
    _in_message = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(cast("asyncio.Transport", _OneWrite(transport)))
        if len(self.connections) > self.bounds.connections_max:
            self._cut_off("connections")
            return
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            # uvicorn would log a warning for each.
            self._cut_off("malformed", _BAD_REQUEST)
        except httptools.HttpParserUpgrade:
            # We speak HTTP alone; the request itself is answered as any other.
            self._in_message = False
        if self.transport.is_closing():
            return
        if self._in_headers:
            self._headers_bytes += len(data)
            if self._headers_bytes > HEADERS_BYTES_MAX:
                self._cut_off("headers", _TOO_LARGE)
                return
        if self._in_message and self._deadline is None:
            self._set_deadline()

    def on_message_begin(self) -> None:
        self._in_message = self._in_headers = True
        self._headers_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        # They may have come in one piece.
        if sum(len(name) + len(value) for name, value in self.headers) > HEADERS_BYTES_MAX:
            self._cut_off("headers", _TOO_LARGE)
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        self._clear_deadline()
        if self.transport.is_closing():
            return
        super().on_message_complete()

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(
            self.bounds.receive_timeout_seconds, self._cut_off, "slow"
        )

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_off(self, reason: str, answer: bytes | None = None) -> None:
        self._clear_deadline()
        self.bounds.cut_off(reason)
        transport: Any = self.transport
        if answer is None:
            transport.abort()
        else:
            transport.write(answer)
            # Closing sends what waits.
            transport.close()
