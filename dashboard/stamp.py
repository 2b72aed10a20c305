"""From the body of a request to records for the topic. Pure.

Each call is stamped as Segment stamps it, and then read by the worker's own decoder: what is
accepted here is no dead letter there. Of a call only its top level is taken apart; what lies
below is copied as it was sent.

Source: https://segment.com/docs/connections/spec/common/; docs/endpoint.md, "What is stamped".
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from consumer.core.call import Call, RejectReason
from consumer.core.clock import parse_timestamp
from consumer.core.decode import Decoder, DecodeRules
from consumer.core.storable import may_hold
from consumer.ports import Outgoing

CALL_BYTES_MAX: Final = 32 * 1024
BODY_BYTES_MAX: Final = 500 * 1024
BATCH_CALLS_MAX: Final = 2_500
# What a batch's context may grow to by being lent to each of its calls; some 2,500 calls with
# a browser's context take 4 MiB.
STAMPED_BYTES_MAX: Final = 8 * 1024 * 1024

# Without a zone, so that its text has none: it is UTC.
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - see above
_NULL: Final = b"null"
_EMPTY: Final = (b"", _NULL)
_NO_ID: Final = (b"", _NULL, b'""')
_NO_ID_BYTES: Final = 4

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class BadCallError(Exception):
    """A request cannot be accepted; the endpoint makes it an answer, it goes no further."""

    def __init__(self, code: RejectReason, message: str) -> None:
        """Say why.

        Args:
            code: A dead letter's reason, `too_large` included.
            message: With the place in the body, for a person.
        """
        super().__init__(message)
        self.code = code
        self.message = message


class Sent(NamedTuple):
    """A request's body, its calls not yet looked into."""

    calls: Sequence[bytes]
    write_key: str | None
    is_batch: bool
    context: bytes = b""
    """What a batch lends its calls, as raw JSON; empty where nothing."""
    integrations: bytes = b""
    sent_at: Any = None


class Stamped(Outgoing, gc=False, frozen=True):
    """A call as it goes to the topic."""

    type: str


class Arrival(NamedTuple):
    """When and whence a request came."""

    at: int
    """Microseconds since the epoch."""
    ip: str | None


class _Record(msgspec.Struct, gc=False, frozen=True):
    """What the decoder wants to know of a record."""

    value: bytes | None
    timestamp: int
    topic: str = ""
    partition: int = 0
    offset: int = 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


def read_body(body: bytes, *, is_batch: bool) -> Sent:
    """Take a body apart as far as its calls.

    Args:
        body: JSON, as sent, within `BODY_BYTES_MAX`.
        is_batch: Whether it holds calls, or is one.

    Raises:
        BadCallError: It is no JSON object, or no batch.
    """
    try:
        if not body.isascii():
            # The parser leaves the parts that stay raw unchecked.
            body.decode()
        fields = _decode_object(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        is_other = isinstance(error, msgspec.ValidationError)
        words = "must be a JSON object" if is_other else _words(error)
        raise BadCallError("not_a_call" if is_other else "malformed_json", words) from error
    write_key = _scalar(fields.get("writeKey"))
    key = write_key if isinstance(write_key, str) else None
    if not is_batch:
        return Sent((body,), key, is_batch=False)
    batch = bytes(fields.get("batch", b""))
    if batch[:1] != b"[":
        words = "must be an array of calls" if batch else "missing"
        raise BadCallError("missing_field", f"batch: {words}")
    calls = _decode_array(batch)
    if len(calls) > BATCH_CALLS_MAX:
        raise BadCallError("too_large", f"batch: {len(calls)} calls, at most {BATCH_CALLS_MAX}")
    return Sent(
        [bytes(call) for call in calls],
        key,
        is_batch=True,
        context=bytes(fields.get("context", b"")),
        integrations=bytes(fields.get("integrations", b"")),
        sent_at=_scalar(fields.get("sentAt", fields.get("sent_at"))),
    )


class Stamper:
    """Stamps calls, and checks them as the worker will."""

    def __init__(self, rules: DecodeRules) -> None:
        self._decoder = Decoder(rules)

    def stamp(
        self, sent: Sent, type_: str | None, arrival: Arrival, random: bytes
    ) -> Iterator[Stamped]:
        """Stamp the calls of a request, one by one.

        Args:
            sent: The request.
            type_: The type that the path says; None where each call says its own.
            arrival: When and whence it came.
            random: 16 random bytes, from which message ids are made where there are none.

        Raises:
            BadCallError: A call cannot be accepted, or all of them are too much.
        """
        lent = self._lent(sent)
        received_at = _raw_time(arrival.at)
        sent_at = parse_timestamp(sent.sent_at)
        # A proxy passes on what it was told, which need be no address.
        ip = None if arrival.ip is None else _encode(arrival.ip)
        stamped_bytes = 0
        for position, raw in enumerate(sent.calls):
            place = f"batch[{position}]" if sent.is_batch else ""
            fields = _fields_of(raw, place)
            fields.pop("writeKey", None)
            if type_ is not None:
                fields["type"] = msgspec.Raw(b'"%s"' % type_.encode())
            fields["receivedAt"] = received_at
            fields.pop("received_at", None)
            _stamp_id(fields, random, position)
            _stamp_time(fields, arrival.at, sent_at, sent)
            _stamp_context(fields, lent, ip)
            if sent.integrations and bytes(fields.get("integrations", b"")) in _EMPTY:
                fields["integrations"] = msgspec.Raw(sent.integrations)
            value = _encode(fields)
            stamped_bytes += len(value)
            if stamped_bytes > STAMPED_BYTES_MAX:
                raise BadCallError("too_large", "context: too large to be lent to so many calls")
            yield self._checked(value, arrival, place)

    def _lent(self, sent: Sent) -> dict[str, msgspec.Raw]:
        """The context that a batch lends its calls."""
        if _is_absent(sent.context):
            return {}
        if sent.context[:1] != b"{":
            raise BadCallError("invalid_field", "context: must be an object")
        return _decode_object(sent.context)

    def _checked(self, value: bytes, arrival: Arrival, place: str) -> Stamped:
        """Read a stamped call as the worker will; what is refused there is refused here."""
        timestamp_ms = arrival.at // 1000
        (outcome,) = self._decoder.decode(_Record(value, timestamp_ms))
        if isinstance(outcome, Call):
            id_ = outcome.user_id or outcome.anonymous_id
            return Stamped(None if id_ is None else id_.encode(), value, outcome.type)
        reason: RejectReason | None = getattr(outcome, "reason", None)
        detail = getattr(outcome, "detail", None)
        if reason is None or detail is None:
            # Skipped, as its sender wishes: the worker counts it.
            return Stamped(None, value, str(reason))
        if place:
            # The decoder knows how to name a place, and what is a field and what is words.
            within = b'{"batch":[%s]}' % value
            (outcome,) = self._decoder.decode(_Record(within, timestamp_ms))
            detail = str(getattr(outcome, "detail", detail)).replace("batch[0]", place, 1)
        raise BadCallError(reason, detail)


def _fields_of(raw: bytes, place: str) -> dict[str, msgspec.Raw]:
    """The top level of a call."""
    where = f"{place}: " if place else ""
    if len(raw) > CALL_BYTES_MAX:
        words = f"call of {len(raw)} bytes, at most {CALL_BYTES_MAX}"
        raise BadCallError("too_large", f"{where}{words}")
    try:
        fields = _decode_object(raw)
    except msgspec.ValidationError as error:
        raise BadCallError("not_a_call", f"{where}must be a JSON object") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadCallError("malformed_json", f"{where}{_words(error)}") from error
    if ("batch" in fields or "httpPayload" in fields) and (
        bytes(fields.get("batch", b"")).startswith(b"[")
        or bytes(fields.get("httpPayload", b"")).startswith(b"{")
    ):
        # As a record it would be an envelope, whose calls nobody has checked.
        raise BadCallError("not_a_call", f"{where}an envelope, where a call must be")
    return fields


def _stamp_id(fields: dict[str, msgspec.Raw], random: bytes, position: int) -> None:
    """Give a call without a message id one that no other has."""
    raw = fields.get("messageId") or fields.get("message_id")
    # Longer than what stands for none: nearly every call's.
    if raw and len(raw) > _NO_ID_BYTES:
        return
    if (
        bytes(fields.get("messageId", b"")) in _NO_ID
        and bytes(fields.get("message_id", b"")) in _NO_ID
    ):
        number = (int.from_bytes(random, "big") + position) % (1 << 128)
        fields["messageId"] = msgspec.Raw(b'"%s"' % str(UUID(int=number, version=4)).encode())


def _stamp_time(
    fields: dict[str, msgspec.Raw], received_at: int, lent_sent_at: int | None, sent: Sent
) -> None:
    """Set `timestamp` right by how far the sender's clock is from ours.

    What was sent is kept as `originalTimestamp`. A call that has both was corrected before,
    by whoever passes it on.
    """
    raw = fields.get("timestamp")
    at = parse_timestamp(_scalar(raw))
    original = fields.get("originalTimestamp", fields.get("original_timestamp"))
    own_sent_at = fields.get("sentAt", fields.get("sent_at"))
    sent_at = parse_timestamp(_scalar(own_sent_at)) if own_sent_at is not None else lent_sent_at
    if own_sent_at is None and sent.sent_at is not None:
        fields["sentAt"] = msgspec.Raw(_encode(sent.sent_at))
    if at is not None and original is not None:
        return
    if at is None:
        raw, at = original, parse_timestamp(_scalar(original))
    if at is None:
        fields["timestamp"] = _raw_time(received_at)
        return
    if raw is not None and original is None:
        fields["originalTimestamp"] = raw
    corrected = at if sent_at is None else received_at - (sent_at - at)
    fields["timestamp"] = _raw_time(corrected) or _raw_time(received_at)


def _stamp_context(
    fields: dict[str, msgspec.Raw], lent: dict[str, msgspec.Raw], ip: bytes | None
) -> None:
    """Lend a call its batch's context, its own keys winning, and the caller's address as JSON."""
    own = bytes(fields.get("context", b""))
    if ip is not None and not lent and own[:2] == b'{"' and not may_hold(own, b'"ip"'):
        # Nearly every call's: nothing of it is read, nothing written anew.
        fields["context"] = msgspec.Raw(b'{"ip":%s,%s' % (ip, own[1:]))
        return
    if _is_absent(own):
        context = dict(lent)
    elif own[:1] == b"{":
        context = lent | _decode_object(own) if lent else _decode_object(own)
    else:
        # No object: the decoder says so.
        return
    if ip is not None and "ip" not in context:
        context["ip"] = msgspec.Raw(ip)
    elif not lent:
        return
    fields["context"] = msgspec.Raw(_encode(context))


def _is_absent(part: bytes) -> bool:
    """Whether a part stands for none, as the worker sees it: PHP sends an empty array."""
    return part in _EMPTY or (part[:1] == b"[" and not part[1:-1].strip())


def _raw_time(at: int) -> msgspec.Raw:
    """A moment as JSON; empty where no calendar has it."""
    seconds, microseconds = divmod(at, 1_000_000)
    try:
        return msgspec.Raw(b'"%s.%06dZ"' % (_second(seconds), microseconds))
    except OverflowError:
        return msgspec.Raw(b"")


# The calls of a while share their seconds.
@lru_cache(maxsize=4096)
def _second(seconds: int) -> bytes:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().encode()


def _scalar(raw: msgspec.Raw | None) -> Any:  # noqa: ANN401 - whatever was sent
    """Decode a field; None where it is absent, or a number that Python cannot hold."""
    if raw is None:
        return None
    try:
        return _decode_any(raw)
    except msgspec.MsgspecError:
        return None


def _words(error: Exception) -> str:
    """What is wrong with a body's JSON, without what it holds."""
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 (byte {error.start})"
    if isinstance(error, RecursionError):
        return "deeper than the parser goes"
    return str(error)
