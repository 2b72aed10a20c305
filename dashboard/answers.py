"""The endpoint's answers: a status, and for a refusal its code and what to do about it."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from consumer.core.call import RejectReason
from dashboard.headers import SECURITY_HEADERS

_encode = msgspec.json.Encoder().encode

CORS_HEADERS: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"retry-after"),
)

RefusalCode: TypeAlias = Literal[
    RejectReason,
    "no_token",
    "unknown_token",
    "revoked_token",
    "rate_limited",
    "busy",
    "unavailable",
    "bad_encoding",
    "cut_short",
    "not_found",
    "method_not_allowed",
]
"""Why a request is refused; it labels a metric."""
UnreadCode: TypeAlias = Literal["headers_too_large", "bad_request"]
"""Why a connection is closed before there is a request."""


class Answer(NamedTuple):
    """What a sender is told."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    code: RefusalCode | UnreadCode | Literal["ok"] = "ok"


ACCEPTED: Final = Answer(200, b'{"success":true}')


def refused(
    status: int,
    code: RefusalCode | UnreadCode,
    message: str,
    retry_after_seconds: int | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> Answer:
    """Make a refusal.

    Args:
        status: 400, 401, 404, 405, 413, 429, 431 or 503.
        code: snake_case, for a program.
        message: For a person; it may quote names of fields, never what they hold.
        retry_after_seconds: When it may be tried again.
        headers: Beside the usual ones.
    """
    more = list(headers)
    if retry_after_seconds is not None:
        more.append((b"retry-after", b"%d" % retry_after_seconds))
    if status == 401:  # noqa: PLR2004 - HTTP's word
        more.append((b"www-authenticate", b'Basic realm="windsor", charset="UTF-8"'))
    body = _encode({"success": False, "code": code, "message": message})
    return Answer(status, body, tuple(more), code)


def headers_of(answer: Answer) -> list[tuple[bytes, bytes]]:
    """All headers of an answer, as ASGI wants them."""
    headers = [*CORS_HEADERS, *SECURITY_HEADERS, *answer.headers]
    if answer.body:
        headers.append((b"content-type", b"application/json"))
    return [*headers, (b"content-length", b"%d" % len(answer.body))]
