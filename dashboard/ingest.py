"""The endpoint: Segment's HTTP tracking API, so that every official SDK works unchanged.

The way of a request: path → token → body, within bounds → calls, stamped and checked → Kafka
→ 200. A 200 means that Kafka has all of its calls; anything else that it may be sent again.

A plain ASGI app before the pages': routing, parsing and answering by a framework would take
as long as all the rest.

Source: https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/;
docs/endpoint.md, "Answers".
"""

import asyncio
import base64
import binascii
import os
import re
import time
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import msgspec
import structlog

from consumer.errors import RecordRefusedError, SourceError
from consumer.kafka.publisher import Publisher
from dashboard.answers import ACCEPTED, Answer, headers_of, refused
from dashboard.openapi import openapi
from dashboard.sources import KnownSource, Sources
from dashboard.stamp import BODY_BYTES_MAX, Arrival, BadCallError, Sent, Stamped, Stamper, read_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from dashboard.metrics import EndpointMetrics

log = structlog.get_logger()

_TYPES: Final = ("identify", "track", "page", "screen", "group", "alias")
_BATCH: Final = "batch"
_METRICS: Final = "metrics"
# Clients whose host has no `/v1` ask without it, and send to `/b`.
_SETTINGS: Final = re.compile(r"(/v1)?/projects/(?P<token>.*)/settings/*", re.DOTALL)

# Calls that are stamped before others get a turn: some two milliseconds.
_TURN_CALLS: Final = 100
_RETRY_SECONDS: Final = 1
_OUTAGE_RETRY_SECONDS: Final = 5
_PREFLIGHT_HEADERS: Final = (
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"authorization, content-type, x-retry-count"),
    (b"access-control-max-age", b"86400"),
)

NOT_FOUND: Final = refused(404, "not_found", "no such path: see /openapi.json")


def _not_allowed(message: str, allowed: bytes) -> Answer:
    return refused(405, "method_not_allowed", message, headers=((b"allow", allowed),))


CALLS_BY_POST: Final = _not_allowed("calls are sent by POST", b"POST, OPTIONS")
DOCUMENT_BY_GET: Final = _not_allowed("the document is asked for by GET", b"GET, HEAD")
SETTINGS_BY_GET: Final = _not_allowed("settings are asked for by GET", b"GET, HEAD, OPTIONS")
TOO_LARGE: Final = refused(
    413, "too_large", f"body: at most {BODY_BYTES_MAX} bytes, after decompression too"
)
BUSY: Final = refused(503, "busy", "too much is in flight: send again", _RETRY_SECONDS)
KAFKA_AWAY: Final = refused(503, "unavailable", "Kafka is away: send again", _OUTAGE_RETRY_SECONDS)
NO_GZIP: Final = refused(400, "bad_encoding", "body: says gzip, and is none")
UNKNOWN_ENCODING: Final = refused(400, "bad_encoding", "content-encoding: gzip or none")
CUT_SHORT: Final = refused(400, "cut_short", "the body ended early")
_DOCUMENT: Final = Answer(200, msgspec.json.encode(openapi()))
PREFLIGHT: Final = Answer(204, b"", _PREFLIGHT_HEADERS)


def _paths() -> dict[str, str]:
    """What each path takes: a type of call, a batch, or the browser's metrics."""
    paths = {f"/v1/{type_}": type_ for type_ in _TYPES}
    paths |= {f"/v1/{type_[0]}": type_ for type_ in _TYPES}
    paths |= dict.fromkeys(("/v1/batch", "/v1/import", "/v1/b", "/b"), _BATCH)
    paths |= {"/v1/m": _METRICS}
    return paths | {f"{path}/": takes for path, takes in paths.items()}


PATHS: Final = _paths()


def _shown(path: str) -> str:
    """A path as the metrics have it."""
    return path.rstrip("/")


class EndpointOptions(NamedTuple):
    """Limits of the endpoint."""

    bytes_max: int
    """Of requests in flight, all together."""
    url: str | None
    """Where senders reach us; as they say themselves, where None."""


class _RefusedError(Exception):
    """A request is answered otherwise than by 200."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.code)
        self.answer = answer


class _Request(NamedTuple):
    """What the headers of a request say."""

    takes: str
    authorization: bytes | None
    encoding: bytes
    length: bytes | None
    traceparent: bytes | None
    ip: str | None


class Ingest:
    """Takes calls; what has another path is the pages'."""

    def __init__(
        self,
        pages: "ASGIApp",
        sources: Sources,
        publisher: Publisher,
        stamper: Stamper,
        metrics: "EndpointMetrics",
        options: EndpointOptions,
    ) -> None:
        self._pages = pages
        self._sources = sources
        self._publisher = publisher
        self._stamper = stamper
        self._metrics = metrics
        self._options = options
        self._bytes = 0
        metrics.show_bytes(lambda: self._bytes)
        metrics.expect({_shown(path) for path in PATHS})

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """See ASGI."""
        path = scope.get("path", "")
        takes = PATHS.get(path)
        if takes is not None:
            answer = await self._answer(takes, scope, receive)
        elif (asked := _SETTINGS.fullmatch(path)) is not None:
            path = f"{asked[1] or ''}/projects/TOKEN/settings"
            answer = await self._settings(scope, asked["token"])
        elif path == "/openapi.json":
            answer = _DOCUMENT if scope["method"] in {"GET", "HEAD"} else DOCUMENT_BY_GET
        elif path.startswith("/v1/"):
            path = "other"
            answer = NOT_FOUND
        else:
            await self._pages(scope, receive, send)
            return
        # Not for what was sent along by somebody whom we do not know.
        self._metrics.answered(_shown(path), answer.status, answer.code)
        await _send(send, answer)

    async def _answer(self, takes: str, scope: "Scope", receive: "Receive") -> Answer:
        method = scope["method"]
        if method == "OPTIONS":
            return PREFLIGHT
        if method != "POST":
            return CALLS_BY_POST
        begun_at = time.perf_counter()
        reserved = _Reserved(self)
        try:
            stamped = await self._take(_request_of(takes, scope), receive, reserved)
        except _RefusedError as refusal:
            return refusal.answer
        except BadCallError as bad:
            return refused(413 if bad.code == "too_large" else 400, bad.code, bad.message)
        finally:
            reserved.release()
        self._metrics.accepted([call.type for call in stamped], time.perf_counter() - begun_at)
        return ACCEPTED

    async def _take(
        self, request: _Request, receive: "Receive", reserved: "_Reserved"
    ) -> list[Stamped]:
        """Take a request's calls; Kafka has them when this returns.

        Raises:
            _RefusedError: With the answer.
            BadCallError: The body is none, or a call of it is none.
        """
        token = _token_of(request.authorization)
        # Before the body is read, where the headers tell.
        source = await self._source_of(token) if token is not None else None
        body = await _body(request, receive, reserved, is_known=source is not None)
        if request.takes == _METRICS:
            # The browser's own; they say nothing of customers.
            return []
        sent = read_body(body, is_batch=request.takes == _BATCH)
        if source is None:
            source = await self._source_of(sent.write_key)
        if (too_fast := self._sources.take(source, len(sent.calls))) is not None:
            raise _RefusedError(too_fast)
        at = time.time_ns() // 1000
        stamped = await self._stamped(sent, request, at, reserved)
        if stamped:
            headers = [("source", source.source_id.encode())]
            if request.traceparent is not None:
                headers.append(("traceparent", request.traceparent))
            await self._publish(stamped, at // 1000, headers)
            self._sources.used(source)
        return stamped

    async def _source_of(self, token: str | None) -> KnownSource:
        found = await self._sources.source_of(token)
        if isinstance(found, Answer):
            raise _RefusedError(found)
        return found

    async def _stamped(
        self, sent: Sent, request: _Request, at: int, reserved: "_Reserved"
    ) -> list[Stamped]:
        type_ = None if request.takes == _BATCH else request.takes
        stamped: list[Stamped] = []
        for call in self._stamper.stamp(sent, type_, Arrival(at, request.ip), os.urandom(16)):
            stamped.append(call)
            if not len(stamped) % _TURN_CALLS:
                await asyncio.sleep(0)
        reserved.add(sum(len(call.value) for call in stamped))
        return stamped

    async def _publish(
        self, stamped: list[Stamped], timestamp_ms: int, headers: list[tuple[str, bytes]]
    ) -> None:
        try:
            await self._publisher.publish(stamped, timestamp_ms, headers)
        except SourceError as error:
            raise _RefusedError(KAFKA_AWAY) from error
        except RecordRefusedError as error:
            raise _RefusedError(refused(413, "too_large", str(error))) from error

    async def _settings(self, scope: "Scope", token: str) -> Answer:
        """What a browser's or a phone's SDK asks for before it sends anything."""
        if scope["method"] == "OPTIONS":
            return PREFLIGHT
        if scope["method"] not in {"GET", "HEAD"}:
            return SETTINGS_BY_GET
        found = await self._sources.source_of(token)
        if isinstance(found, Answer):
            return found
        scheme, host = self._address(scope)
        return Answer(200, settings_of(token, scheme, host), ((b"cache-control", b"no-store"),))

    def _address(self, scope: "Scope") -> tuple[str, str]:
        """The scheme and the host by which this sender reaches us."""
        if self._options.url is not None:
            scheme, _, host = self._options.url.rstrip("/").partition("://")
            return scheme, host
        for name, value in scope["headers"]:
            if name == b"host":
                return scope["scheme"], value.decode("latin-1")
        return scope["scheme"], "{}:{}".format(*scope["server"])

    # What is in flight ----------------------------------------------------------------------

    def reserve(self, count: int) -> None:
        """Count bytes as in flight.

        Raises:
            _RefusedError: There are too many.
        """
        if self._bytes + count > self._options.bytes_max:
            raise _RefusedError(BUSY)
        self._bytes += count

    def release(self, count: int) -> None:
        """Count them no more."""
        self._bytes -= count


class _Reserved:
    """What one request has in flight."""

    __slots__ = ("_count", "_ingest")

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._count = 0

    def add(self, count: int) -> None:
        self._ingest.reserve(count)
        self._count += count

    def release(self) -> None:
        self._ingest.release(self._count)
        self._count = 0


def settings_of(token: str, scheme: str, host: str) -> bytes:
    """What Segment's CDN says of a source: where its calls go, and nothing else to load.

    Args:
        token: The source's.
        scheme: http or https, as this request came.
        host: With the port, as its sender knows us.
    """
    return msgspec.json.encode(
        {
            "integrations": {
                "Segment.io": {
                    "apiKey": token,
                    "apiHost": f"{host}/v1",
                    "protocol": scheme,
                    "unbundledIntegrations": [],
                    "addBundledMetadata": True,
                    "maybeBundledConfigIds": {},
                    "versionSettings": {"version": "4.4.7", "componentTypes": ["browser"]},
                }
            },
            "plan": {
                "track": {"__default": {"enabled": True, "integrations": {}}},
                "identify": {"__default": {"enabled": True}},
                "group": {"__default": {"enabled": True}},
            },
            "edgeFunction": {},
            "analyticsNextEnabled": True,
            "middlewareSettings": {},
            "enabledMiddleware": {},
            "metrics": {"sampleRate": 0, "host": f"{host}/v1"},
            "legacyVideoPluginsEnabled": False,
            "remotePlugins": [],
        }
    )


def _request_of(takes: str, scope: "Scope") -> _Request:
    authorization = length = traceparent = None
    encoding = b""
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"content-encoding":
            encoding = value.strip().lower()
        elif name == b"content-length":
            length = value
        elif name == b"traceparent":
            traceparent = value
    client = scope.get("client")
    return _Request(
        takes, authorization, encoding, length, traceparent, client[0] if client else None
    )


# Senders come again and again.
@lru_cache(maxsize=1024)
def _token_of(authorization: bytes | None) -> str | None:
    """The token of a header: Basic's user name, or Bearer's; None where it has none."""
    if authorization is None:
        return None
    scheme, _, rest = authorization.decode("latin-1").partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest or None
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(rest, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return pair.partition(":")[0] or None


async def _body(
    request: _Request, receive: "Receive", reserved: _Reserved, *, is_known: bool
) -> bytes:
    """Read a body within its bounds, and decompress it within them.

    What is left unread of one that is refused, the server reads and throws away. Room is kept
    for what a sender announces only if we know whose it is: to announce costs nothing.

    Raises:
        _RefusedError: It is too large, cut short, or not what it says.
    """
    if request.encoding not in {b"", b"identity", b"gzip"}:
        raise _RefusedError(UNKNOWN_ENCODING)
    # The server has seen to it that it is a number.
    length = None if request.length is None else int(request.length)
    if length is not None and length > BODY_BYTES_MAX:
        raise _RefusedError(TOO_LARGE)
    if length is not None and is_known:
        reserved.add(length)
        body = await _read_whole(receive, None)
    else:
        body = await _read_whole(receive, reserved)
    if request.encoding == b"gzip":
        body = _unzipped(body)
        reserved.add(len(body))
    return body


async def _read_whole(receive: "Receive", reserved: _Reserved | None) -> bytes:
    """Read to the end; what was not reserved before is as it comes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            # Nobody listens any more; the answer is for the metrics.
            raise _RefusedError(CUT_SHORT)
        chunk = cast("bytes", message.get("body", b""))
        if reserved is not None:
            reserved.add(len(chunk))
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise _RefusedError(TOO_LARGE)
        if not message.get("more_body", False):
            return bytes(body)


def _unzipped(body: bytes) -> bytes:
    """Decompress, never beyond what a body may be.

    Raises:
        _RefusedError: It is no gzip, or it is a bomb.
    """
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, BODY_BYTES_MAX + 1)
    except zlib.error as error:
        raise _RefusedError(NO_GZIP) from error
    if len(plain) > BODY_BYTES_MAX:
        raise _RefusedError(TOO_LARGE)
    if not unzip.eof or unzip.unused_data:
        raise _RefusedError(NO_GZIP)
    return plain


_SUCCESS_HEADERS: Final = headers_of(ACCEPTED)


async def _send(send: "Send", answer: Answer) -> None:
    headers = _SUCCESS_HEADERS if answer is ACCEPTED else headers_of(answer)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
