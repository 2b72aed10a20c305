"""HTTP as the dashboard's port speaks it: uvicorn's, with bounds that it lacks.

A request must have come whole within a time of its first byte, its headers within a size, and
there are so many connections and no more. What is answered must be taken within a time too.
Whoever is beyond is cut off.

At any moment a connection has one clock, or waits for us: that of the request which is being
read (a fresh connection's begins when it is made), or uvicorn's between requests. What waits to
be sent has its own.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dashboard.answers import Answer, headers_of, refused

if TYPE_CHECKING:
    from dashboard.metrics import CutOff

HEADERS_BYTES_MAX: Final = 16 * 1024
_FINAL: Final = b"HTTP/1.1 "
_INTERIM: Final = b"HTTP/1.1 1"


def _last(answer: Answer) -> bytes:
    """An answer as it is sent, the last of its connection."""
    status = HTTPStatus(answer.status)
    headers = [*headers_of(answer), (b"connection", b"close")]
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, status.phrase.encode(), lines, answer.body)


_TOO_LARGE: Final = _last(
    refused(431, "headers_too_large", f"headers: at most {HEADERS_BYTES_MAX} bytes")
)
_BAD_REQUEST: Final = _last(refused(400, "bad_request", "this is no HTTP/1.1 request"))


class Bounds(NamedTuple):
    """What a connection may take."""

    receive_timeout_seconds: float
    connections_max: int
    cut_off: Callable[["CutOff"], None]
    """Told of each connection that was cut off, and why."""
    send_timeout_seconds: float = 30.0
    """In which what waits to be sent must be taken: nobody reads so slowly who reads at all."""


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
        # An interim answer has no body, and its sender waits for it.
        is_head = data.startswith(_FINAL) and not data.startswith(_INTERIM)
        if is_head and not self._head:
            self._head = data
            return
        data, self._head = self._head + data, b""
        if data:
            self._transport.write(data)

    def flush(self) -> None:
        """Send a head that no body follows."""
        self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the transport's own
        return getattr(self._transport, name)


class _CutOffError(Exception):
    """Ends the parsing: nothing of what follows is looked at."""


class _BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, bounded."""

    bounds: ClassVar[Bounds]
    _receive_deadline: asyncio.TimerHandle | None = None
    """Runs while a request is being read, and until the first begins."""
    _send_deadline: asyncio.TimerHandle | None = None
    """Runs while something waits to be sent."""
    _headers_bytes = 0
    _in_headers = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        # We are told of all that waits, however little: also a closed connection stays until its
        # last byte is taken.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(cast("asyncio.Transport", _OneWrite(transport)))
        if len(self.connections) > self.bounds.connections_max:
            self._cut_off("connections")
            return
        self._receive_deadline = self._deadline(self.bounds.receive_timeout_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_receive_deadline()
        self._clear_send_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            # uvicorn would log a warning for each.
            if not self.transport.is_closing():
                self._cut_off("malformed", _BAD_REQUEST)
        except httptools.HttpParserUpgrade:
            # We speak HTTP alone; the request itself is answered as any other.
            pass
        if self._in_headers and not self.transport.is_closing():
            self._headers_bytes += len(data)
            if self._headers_bytes > HEADERS_BYTES_MAX:
                self._cut_off("headers", _TOO_LARGE)

    def on_message_begin(self) -> None:
        self._in_headers = True
        self._headers_bytes = 0
        # Not with any byte: an empty line between requests begins none.
        self._unset_keepalive_if_required()
        self._clear_receive_deadline()
        self._receive_deadline = self._deadline(self.bounds.receive_timeout_seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        # They may have come in one piece.
        if sum(len(name) + len(value) for name, value in self.headers) > HEADERS_BYTES_MAX:
            self._cut_off("headers", _TOO_LARGE)
            raise _CutOffError
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._clear_receive_deadline()
        super().on_message_complete()
        if self.cycle.response_complete:
            # It was answered before it had come whole: the wait for the next begins now.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        # A HEAD's answer has no body.
        cast("_OneWrite", self.transport).flush()
        super().on_response_complete()
        if self._receive_deadline is not None:
            # There is more to read of this request, or of the next.
            self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_deadline = self._deadline(self.bounds.send_timeout_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._clear_send_deadline()

    def _deadline(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self._cut_off, "slow")

    def _clear_receive_deadline(self) -> None:
        if self._receive_deadline is not None:
            self._receive_deadline.cancel()
            self._receive_deadline = None

    def _clear_send_deadline(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    def _cut_off(self, reason: "CutOff", answer: bytes | None = None) -> None:
        self._clear_receive_deadline()
        self.bounds.cut_off(reason)
        transport: Any = self.transport
        if answer is None:
            transport.abort()
        else:
            transport.write(answer)
            # Closing sends what waits.
            transport.close()
