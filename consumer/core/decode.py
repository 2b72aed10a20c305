"""Turn a Kafka record into calls, without ever raising.

A record is one call, or an envelope: `{"batch": [...]}`, `{"httpPayload": {...}}`. Each call
is decoded once into `schemas.segment.WireCall`; the parts that are stored as they are stay
raw JSON. What JSON allows and Postgres does not is looked for by cheap scans of the bytes,
and only a suspicious call takes the slow, exact path.

Source: the contract, sections 1.1 to 1.4, 2 and 3.4.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec

from consumer.core.call import (
    AudienceSync,
    Call,
    CallType,
    Clock,
    Identity,
    Outcome,
    Record,
    Rejected,
    RejectReason,
    Skipped,
)
from consumer.core.clock import LATEST_US, clock_of, parse_timestamp
from consumer.core.contacts import claimed_contacts, first_contact
from consumer.core.ids import BLOCKED_IDS, ID_CHARS_MAX, IdError, is_blocked, normalised_id
from schemas.catalogue import category_of
from schemas.segment import WireCall

_CALL_TYPES: Final = frozenset({"identify", "track", "page", "screen", "group", "alias"})
_CONTACT_CATEGORIES: Final = frozenset({"email", "support", "payment", "sms"})
_EXPIRING_TYPES: Final = frozenset({"track", "page", "screen"})

# 0001-01-01T00:00:00Z.
_YEAR_ONE_US: Final = -62_135_596_800_000_000

# A number this large is stored small and read back by the page; no sender means it.
_EXPONENT_MAX: Final = 1_000
# The bounds of Postgres' numeric, before and after the point.
_WHOLE_DIGITS_MAX: Final = 131_072
_DIGITS_MAX: Final = 16_383
# Folds every number to one shape, so that a plain search finds a large exponent: a scan by
# regular expression costs more than decoding.
_NUMBER_SHAPE: Final = bytes.maketrans(b"E123456789-", b"e000000000+")
# Hexadecimal ids look like exponents too, but a number ends where a member does.
_LARGE_EXPONENT: Final = re.compile(rb"\d[eE][+-]?\d{4,}[\s,}\]]")
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"(?P<colon>\s*:)?|-?\d[\d.eE+-]*|[\[\]{}]', re.DOTALL)
_NUL_ESCAPE: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")

_decode_call = msgspec.json.Decoder(WireCall).decode
_decode_calls = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class DecodeRules(NamedTuple):
    """What may be set of the contract's limits; each has the contract's default."""

    blocked_ids: frozenset[str] = BLOCKED_IDS
    phone_region: str | None = None
    record_bytes_max: int = 1024 * 1024
    call_bytes_max: int = 512 * 1024
    depth_max: int = 64
    id_chars_max: int = ID_CHARS_MAX


class _RefusedError(Exception):
    """A call cannot be applied; carried to the one place that makes it a value."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class _Envelope(NamedTuple):
    """What a batch lends its calls."""

    context: bytes | None = None
    sent_at: Any = None
    received_at: Any = None
    integrations: bytes | None = None


_NO_ENVELOPE: Final = _Envelope()


class Decoder:
    """Decodes records by fixed rules; stateless, so one serves all partitions."""

    def __init__(self, rules: DecodeRules | None = None) -> None:
        self._rules = rules or DecodeRules()

    def decode(self, record: Record, expired_before: int | None = None) -> Sequence[Outcome]:
        """Decode one record.

        Args:
            record: As Kafka delivered it.
            expired_before: Microseconds; an older track, page or screen is skipped.

        Returns:
            One outcome a call, in the order of the envelope; an empty batch has none.
        """
        value = record.value
        if value is None:
            return (Skipped("tombstone"),)
        try:
            self._check_bytes(value)
            wire = _read(value)
            if wire.http_payload or wire.batch:
                return list(self._envelope(record, wire, expired_before))
            return (self._call(record, 0, wire, value, _NO_ENVELOPE, expired_before),)
        except _RefusedError as refused:
            return (Rejected(record, 0, refused.reason, refused.detail),)
        except IdError as error:
            return (Rejected(record, 0, cast("RejectReason", error.reason), error.detail),)

    # Records and envelopes ------------------------------------------------------------------

    def _check_bytes(self, value: bytes) -> None:
        """Refuse what no JSON parser should see."""
        if len(value) > self._rules.record_bytes_max:
            raise _RefusedError(
                "too_large",
                f"record of {len(value)} bytes, at most {self._rules.record_bytes_max}",
            )
        if not value.isascii():
            try:
                value.decode()
            except UnicodeDecodeError as error:
                raise _RefusedError(
                    "malformed_json", f"byte {error.start}: invalid UTF-8"
                ) from error
        # Room for the levels that envelopes add; each call is held to the rule itself.
        self._check_depth(value, self._rules.depth_max + 8, "")

    def _check_depth(self, value: bytes, depth_max: int, place: str) -> None:
        if value.count(b"{") + value.count(b"[") <= depth_max:
            return
        depth = 0
        for token in _TOKEN.finditer(value):
            mark = value[token.start()]
            if mark in b"[{":
                depth += 1
                if depth > depth_max:
                    raise _RefusedError("too_deep", f"{place}deeper than {depth_max} levels")
            elif mark in b"]}":
                depth -= 1

    def _envelope(
        self, record: Record, wire: WireCall, expired_before: int | None
    ) -> Iterator[Outcome]:
        """Unwrap `httpPayload` and `batch`; each call stands or falls alone."""
        value = record.value or b""
        if wire.http_payload:
            value = bytes(wire.http_payload)
            wire = _read(value)
        if not wire.batch:
            yield self._outcome(record, 0, value, _NO_ENVELOPE, expired_before, "")
            return
        try:
            calls = _decode_calls(wire.batch)
        except msgspec.MsgspecError as error:
            raise _RefusedError("not_a_call", "batch: must be an array of calls") from error
        lent = _Envelope(
            _object(wire.context, "context"),
            wire.sent_at or wire.sent_at_snake,
            wire.received_at or wire.received_at_snake,
            bytes(wire.integrations) or None,
        )
        for position, raw in enumerate(calls):
            yield self._outcome(
                record, position, bytes(raw), lent, expired_before, f"batch[{position}]."
            )

    def _outcome(
        self,
        record: Record,
        position: int,
        value: bytes,
        envelope: _Envelope,
        expired_before: int | None,
        place: str,
    ) -> Outcome:
        """Decode one call of an envelope; what is wrong with it is its own."""
        try:
            wire = _read(value)
            if wire.batch or wire.http_payload:
                return Rejected(
                    record, position, "not_a_call", f"{place}an envelope within an envelope"
                )
            return self._call(record, position, wire, value, envelope, expired_before)
        except _RefusedError as refused:
            return Rejected(record, position, refused.reason, place + refused.detail)
        except IdError as error:
            return Rejected(
                record, position, cast("RejectReason", error.reason), place + error.detail
            )

    # One call -------------------------------------------------------------------------------

    def _call(
        self,
        record: Record,
        position: int,
        wire: WireCall,
        value: bytes,
        envelope: _Envelope,
        expired_before: int | None,
    ) -> Call | Skipped:
        self._check_call(value)
        if _is_filtered(bytes(wire.integrations) or envelope.integrations):
            return Skipped("integrations")
        call_type = _type(wire)
        received_at = parse_timestamp(
            wire.received_at or wire.received_at_snake or envelope.received_at
        )
        at, replaced = clock_of(_time(wire, envelope, received_at), record.timestamp)
        if expired_before is not None and at < expired_before and call_type in _EXPIRING_TYPES:
            return Skipped("expired")
        ids = self._ids(wire, call_type)
        properties = _object(wire.properties, "properties")
        context = _merged(_object(wire.context, "context"), envelope.context)
        traits = _object(wire.traits, "traits")
        name = _name(wire, call_type)
        category = _category(call_type, name)
        trait_values = audience = None
        claims: tuple[Identity, ...] = ()
        if call_type == "identify":
            traits, trait_values = _identify_traits(traits, context)
            if trait_values and context is not None and b'"personas"' in context:
                audience = _audience(context, trait_values)
            if ids.user is not None:
                claims = claimed_contacts(
                    ids.user, _contact_fields(trait_values), self._rules.phone_region
                )
        elif call_type == "group":
            trait_values = _values(traits)
        identity = self._identity(ids, category, properties, context, traits)
        message_id = normalised_id(
            _either(wire.message_id, wire.message_id_snake),
            "messageId",
            self._rules.id_chars_max,
            trim=False,
        ) or _hashed_message_id(record.value or b"", position)
        return Call(
            type=call_type,
            clock=Clock(at, message_id),
            message_key=hashlib.blake2b(message_id.encode(), digest_size=16).digest(),
            identity=identity,
            record=record,
            position=position,
            received_at=_storable(received_at, record.timestamp),
            user_id=ids.user,
            anonymous_id=ids.anonymous,
            previous_id=ids.previous,
            group_id=ids.group,
            name=name,
            category=category,
            properties=properties,
            context=context,
            traits=traits,
            trait_values=trait_values,
            claims=claims,
            audience=audience,
            timestamp_replaced=replaced,
            size=len(value),
        )

    def _check_call(self, value: bytes) -> None:
        """Refuse what Postgres could not store, or not give back."""
        if len(value) > self._rules.call_bytes_max:
            raise _RefusedError(
                "too_large", f"call of {len(value)} bytes, at most {self._rules.call_bytes_max}"
            )
        self._check_depth(value, self._rules.depth_max, "")
        if b"\\u" in value and _SURROGATE_ESCAPE.search(value):
            try:
                _decode_any(value)
            except (msgspec.MsgspecError, UnicodeError) as error:
                raise _RefusedError("malformed_json", f"invalid text: {error}") from error
        shape = value.translate(_NUMBER_SHAPE)
        exponent = b"0e0000" in shape or b"0e+0000" in shape
        if len(value) > _DIGITS_MAX or (exponent and _LARGE_EXPONENT.search(value)):
            _check_numbers(value)

    def _ids(self, wire: WireCall, call_type: CallType) -> "_Ids":
        chars_max, blocked = self._rules.id_chars_max, self._rules.blocked_ids
        user = normalised_id(_either(wire.user_id, wire.user_id_snake), "userId", chars_max)
        anonymous = normalised_id(
            _either(wire.anonymous_id, wire.anonymous_id_snake), "anonymousId", chars_max
        )
        junk = None
        if anonymous is not None and is_blocked(anonymous, blocked):
            junk = f"anonymousId: {anonymous[:32]!r} names nobody"
            anonymous = None
        if user is not None and is_blocked(user, blocked):
            junk = f"userId: {user[:32]!r} names nobody"
            user = None
        group = previous = None
        if call_type == "group":
            group = normalised_id(_either(wire.group_id, wire.group_id_snake), "groupId", chars_max)
            if group is None:
                raise _RefusedError("missing_field", "groupId: missing")
        elif call_type == "alias":
            if junk is not None and junk.startswith("userId"):
                raise _RefusedError("blocked_id", junk)
            previous = normalised_id(
                _either(wire.previous_id, wire.previous_id_snake), "previousId", chars_max
            )
            if previous is not None and is_blocked(previous, blocked):
                raise _RefusedError("blocked_id", f"previousId: {previous[:32]!r} names nobody")
            if user is None:
                raise _RefusedError("missing_field", "userId: missing")
            previous = previous or anonymous
            if previous is None:
                raise _RefusedError("missing_field", "previousId: missing, and no anonymousId")
        return _Ids(user, anonymous, previous, group, junk)

    def _identity(
        self,
        ids: "_Ids",
        category: str | None,
        properties: bytes | None,
        context: bytes | None,
        traits: bytes | None,
    ) -> Identity:
        """Whom the call points at; fixed by the call alone."""
        if ids.user is not None:
            return Identity("user", ids.user)
        by_contact = category in _CONTACT_CATEGORIES
        if ids.anonymous is not None and not by_contact:
            return Identity("anonymous", ids.anonymous)
        contact = first_contact(
            (
                _contact_fields(_values(_member(context, "traits"))),
                _contact_fields(_values(properties)),
                _contact_fields(_values(traits)),
            ),
            self._rules.phone_region,
        )
        if contact is not None:
            return contact
        if ids.anonymous is not None:
            return Identity("anonymous", ids.anonymous)
        if ids.junk is not None:
            raise _RefusedError("blocked_id", ids.junk)
        raise _RefusedError("missing_id", "userId, anonymousId: missing, and no email or phone")


class _Ids(NamedTuple):
    user: str | None
    anonymous: str | None
    previous: str | None
    group: str | None
    junk: str | None
    """What was taken as absent, as a detail for a person."""


def _read(value: bytes) -> WireCall:
    try:
        return _decode_call(value)
    except msgspec.ValidationError as error:
        if "out of range" in str(error):
            raise _RefusedError("invalid_field", f"number beyond reach: {error}") from error
        raise _RefusedError("not_a_call", f"must be a JSON object: {error}") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _RefusedError("malformed_json", str(error)) from error


def _either(camel: object, snake: object) -> object:
    return snake if camel is None else camel


def _type(wire: WireCall) -> CallType:
    found = _either(wire.type, wire.action)
    if found is None:
        raise _RefusedError("unknown_type", "type: missing")
    if not isinstance(found, str):
        raise _RefusedError("unknown_type", "type: must be a string")
    lower = found.strip().lower()
    if lower not in _CALL_TYPES:
        raise _RefusedError("unknown_type", f"type: {found[:64]!r} is none of Segment's calls")
    return cast("CallType", lower)


def _time(wire: WireCall, envelope: _Envelope, received_at: int | None) -> int | None:
    """The call's own time, corrected for a skewed client clock where it says how."""
    at = parse_timestamp(wire.timestamp)
    if at is not None:
        return at
    original = parse_timestamp(_either(wire.original_timestamp, wire.original_timestamp_snake))
    if received_at is None or original is None:
        return original if original is not None else received_at
    sent_at = parse_timestamp(wire.sent_at or wire.sent_at_snake or envelope.sent_at)
    return original if sent_at is None else received_at - (sent_at - original)


def _storable(received_at: int | None, record_ms: int) -> int:
    if received_at is not None and _YEAR_ONE_US <= received_at <= LATEST_US:
        return received_at
    return clock_of(None, record_ms)[0]


def _name(wire: WireCall, call_type: CallType) -> str | None:
    """The event's name, or the page's or screen's."""
    if call_type == "track":
        if wire.event is None or wire.event == "":
            raise _RefusedError("missing_field", "event: missing")
        return _text(wire.event, "event")
    if call_type in {"page", "screen"} and wire.name is not None:
        return _text(wire.name, "name")
    return None


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise _RefusedError("invalid_field", f"{field}: must be a string")
    return value.replace("\x00", "\ufffd")


def _category(call_type: CallType, name: str | None) -> str | None:
    if call_type == "track" and name is not None:
        return category_of(name)
    return "analytics" if call_type in {"page", "screen"} else None


def _is_filtered(integrations: bytes | None) -> bool:
    if integrations is None or b"Windsor" not in integrations:
        return False
    found = _decode_any(integrations)
    return isinstance(found, dict) and found.get("Windsor") is False


def _object(raw: msgspec.Raw, place: str) -> bytes | None:
    """A part that is stored as it is: its own copy, safe for jsonb; None where absent."""
    value = bytes(raw)
    if not value or value == b"null":
        return None
    if value[0] != ord("{"):
        # PHP has no empty object: it sends an empty array.
        if value[0] == ord("[") and not _decode_any(value):
            return None
        raise _RefusedError("invalid_field", f"{place}: must be an object")
    return _without_nul(value, place) if b"\\u0000" in value else value


def _without_nul(value: bytes, place: str) -> bytes:
    """Put U+FFFD where Postgres takes no NUL: in values; in a key it is an error."""
    for token in _TOKEN.finditer(value):
        if token.group("colon") is not None and _NUL_ESCAPE.search(token.group()):
            raise _RefusedError("invalid_field", f"{place}: a key holds a NUL character")
    return _NUL_ESCAPE.sub(rb"\1\\ufffd", value)


def _check_numbers(value: bytes) -> None:
    for token in _TOKEN.finditer(value):
        text = token.group()
        if text[0] == ord('"') or text in b"[]{}":
            continue
        digits, _, exponent = text.lower().partition(b"e")
        whole, _, fraction = digits.partition(b".")
        if exponent and abs(int(exponent[:12])) > _EXPONENT_MAX:
            raise _RefusedError("invalid_field", "number beyond numeric")
        if len(whole) > _WHOLE_DIGITS_MAX or len(fraction) > _DIGITS_MAX:
            raise _RefusedError("invalid_field", "number beyond numeric")


def _merged(own: bytes | None, lent: bytes | None) -> bytes | None:
    """A call's context over its batch's; the call's own keys win."""
    if own is None or lent is None:
        return own or lent
    return _encode(_decode_object(lent) | _decode_object(own))


def _member(value: bytes | None, key: str) -> bytes | None:
    """One member of a raw object, where it is an object too."""
    if value is None or key.encode() not in value:
        return None
    found = _decode_object(value).get(key)
    raw = None if found is None else bytes(found)
    return raw if raw and raw[0] == ord("{") else None


def _values(value: bytes | None) -> dict[str, bytes]:
    if value is None:
        return {}
    return {key: bytes(raw) for key, raw in _decode_object(value).items()}


def _contact_fields(values: Mapping[str, bytes]) -> dict[str, object]:
    return {key: _decode_any(values[key]) for key in ("email", "phone") if key in values}


def _identify_traits(
    traits: bytes | None, context: bytes | None
) -> tuple[bytes | None, dict[str, bytes]]:
    """The traits that count, raw and by key: `traits`, else those of the context."""
    values = _values(traits)
    if not values:
        of_context = _member(context, "traits")
        if of_context is not None:
            return of_context, _values(of_context)
    return traits, values


def _audience(context: bytes, traits: Mapping[str, bytes]) -> AudienceSync | None:
    """The audience or computed trait that an identify of Engage carries."""
    raw = _member(context, "personas")
    personas = None if raw is None else _decode_any(raw)
    if not isinstance(personas, dict):
        return None
    key, computation_class = personas.get("computation_key"), personas.get("computation_class")
    if not isinstance(key, str) or key not in traits:
        others = [name for name in traits if name != "email"]
        if len(others) != 1:
            return None
        (key,) = others
    return AudienceSync(key, computation_class if isinstance(computation_class, str) else None)


def _hashed_message_id(value: bytes, position: int) -> str:
    """The id of a call without one: the same for a redelivery of the same record."""
    return hashlib.blake2b(value, digest_size=16, salt=position.to_bytes(16, "big")).hexdigest()
