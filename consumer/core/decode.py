"""Turn a Kafka record into calls, without ever raising.

A record is one call, or an envelope: `{"batch": [...]}`, `{"httpPayload": {...}}`. Each call
is decoded once into `schemas.segment.WireCall`; the parts that are stored as they are stay
raw JSON. What JSON allows and Postgres does not is looked for by cheap scans of the bytes,
and only a suspicious call takes the slow, exact path.

The path that nearly every call takes is held to some ten microseconds (`make bench`), which
is why a few lines here prefer the interpreter's fast forms; a comment says where.

Source: docs/contract.md, "What the topic accepts"; docs/identity.md, "Calls and identities".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple, cast

import msgspec

from consumer.core.call import (
    AudienceSync,
    Call,
    CallType,
    Identity,
    Outcome,
    Record,
    RefusedError,
    Rejected,
    Skipped,
)
from consumer.core.clock import LATEST_US, clock_of, parse_timestamp
from consumer.core.contacts import claimed_contacts, first_contact
from consumer.core.ids import BLOCKED_IDS, ID_CHARS_MAX, is_blocked, normalised_id
from consumer.core.storable import (
    ARRAY,
    OBJECT,
    check_call,
    check_depth,
    has_lone_surrogate,
    may_hold,
    stored_object,
)
from schemas.catalogue import category_of
from schemas.segment import WireCall

_CALL_TYPES: Final = frozenset({"identify", "track", "page", "screen", "group", "alias"})
_CONTACT_CATEGORIES: Final = frozenset({"email", "support", "payment", "sms"})
_EXPIRING_TYPES: Final = frozenset({"track", "page", "screen"})

# Bytes of an object without members.
_EMPTY: Final = 2

# Stands for an integer that Python does not read: longer than any id may be.
_HUGE: Final = 10**600

# 0001-01-01T00:00:00Z.
_YEAR_ONE_US: Final = -62_135_596_800_000_000

# Ids that are remembered as good, and the longest of them: some 10 MB.
_REMEMBERED_MAX: Final = 65_536
_REMEMBERED_CHARS_MAX: Final = 64

# What a batch's context may grow to by being lent to each of its calls: a record of 1 MiB
# could otherwise ask for gigabytes. Some 4,000 calls with a browser's context take 4 MiB.
_LENT_BYTES_MAX: Final = 32 * 1024 * 1024

_decode_call = msgspec.json.Decoder(WireCall).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_TOMBSTONE: Final = (Skipped("tombstone"),)
_FILTERED: Final = Skipped("integrations")
_EXPIRED: Final = Skipped("expired")


class DecodeRules(NamedTuple):
    """What may be set of the decoder's limits. Source: docs/settings.md, "Limits, and why"."""

    blocked_ids: frozenset[str] = BLOCKED_IDS
    """In lower case."""
    phone_region: str | None = None
    """ISO 3166 code for phones without `+`; None takes none of those."""
    record_bytes_max: int = 1024 * 1024
    call_bytes_max: int = 512 * 1024
    depth_max: int = 64
    id_chars_max: int = ID_CHARS_MAX


class _Envelope(NamedTuple):
    """What a batch lends its calls; raw JSON is safe to store."""

    context: bytes | None = None
    sent_at: Any = None
    received_at: Any = None
    integrations: bytes | None = None


_NO_ENVELOPE: Final = _Envelope()


class _Said(NamedTuple):
    """What identify, group and alias calls say besides; see `Call`."""

    traits: bytes | None = None
    previous_id: str | None = None
    group_id: str | None = None
    trait_values: dict[str, bytes] | None = None
    claims: tuple[Identity, ...] = ()
    audience: AudienceSync | None = None


_NOTHING_SAID: Final = _Said()


class Decoder:
    """Decodes records by fixed rules; one serves all partitions."""

    def __init__(self, rules: DecodeRules | None = None) -> None:
        self._rules = rules or DecodeRules()
        # Ids met lately that name somebody: the same people come again and again.
        self._people: dict[str, str] = {}

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
            return _TOMBSTONE
        try:
            if len(value) > self._rules.record_bytes_max or not value.isascii():
                self._check_record(value)
            wire = _read(value)
            if wire.batch or wire.http_payload:
                return list(self._envelope(record, wire, value, expired_before))
            return (self._call(record, 0, wire, value, _NO_ENVELOPE, expired_before),)
        except RefusedError as refused:
            return (_rejected(record, 0, "", refused),)

    # Records and envelopes ------------------------------------------------------------------

    def _check_record(self, value: bytes) -> None:
        """Refuse what no JSON parser should see."""
        if len(value) > self._rules.record_bytes_max:
            raise RefusedError(
                "too_large",
                "",
                f"record of {len(value)} bytes, at most {self._rules.record_bytes_max}",
            )
        # The parser leaves the parts that stay raw unchecked.
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise RefusedError(
                "malformed_json", "", f"invalid UTF-8 (byte {error.start})"
            ) from error

    def _envelope(
        self, record: Record, wire: WireCall, value: bytes, expired_before: int | None
    ) -> Iterator[Outcome]:
        """Unwrap `httpPayload` and `batch`; each call stands or falls alone."""
        if _is(wire.http_payload, OBJECT):
            value = bytes(wire.http_payload)
            wire = _read(value)
        if not _is(wire.batch, ARRAY):
            yield self._outcome(record, 0, value, _NO_ENVELOPE, expired_before, "")
            return
        calls = _decode_array(wire.batch)
        if not calls and (wire.type is not None or wire.action is not None):
            # A call that has an empty batch beside its own fields is a call all the same.
            yield self._call(record, 0, wire, value, _NO_ENVELOPE, expired_before)
            return
        lent = self._lent(wire)
        lent_bytes = 0
        for position, raw in enumerate(calls):
            place = f"batch[{position}]"
            lent_bytes += len(lent.context or b"")
            if lent_bytes > _LENT_BYTES_MAX:
                yield Rejected(
                    record,
                    position,
                    "too_large",
                    f"{place}: the batch's context, lent to each call, is over "
                    f"{_LENT_BYTES_MAX} bytes by now",
                )
            else:
                yield self._outcome(record, position, bytes(raw), lent, expired_before, place)

    def _lent(self, wire: WireCall) -> _Envelope:
        """What a batch lends its calls, checked once."""
        # A call's context is one level down.
        check_depth(bytes(wire.context), self._rules.depth_max, "context", above=1)
        return _Envelope(
            stored_object(wire.context, "context", suspicious=True),
            _either(wire.sent_at, wire.sent_at_snake),
            _either(wire.received_at, wire.received_at_snake),
            bytes(wire.integrations) or None,
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
            if _is(wire.batch, ARRAY) or _is(wire.http_payload, OBJECT):
                raise RefusedError("not_a_call", "", "an envelope within an envelope")  # noqa: TRY301 - where all refusals become values
            return self._call(record, position, wire, value, envelope, expired_before)
        except RefusedError as refused:
            return _rejected(record, position, place, refused)

    # One call -------------------------------------------------------------------------------

    def _call(  # noqa: C901 - the way of every call, top to bottom
        self,
        record: Record,
        position: int,
        wire: WireCall,
        value: bytes,
        envelope: _Envelope,
        expired_before: int | None,
    ) -> Call | Skipped:
        suspicious = self._check_call(value)
        # `{}` and nothing say nothing.
        if (len(wire.integrations) > _EMPTY or envelope.integrations) and _is_filtered(
            wire.integrations, envelope.integrations
        ):
            return _FILTERED
        call_type: CallType = wire.type
        if call_type.__class__ is not str or call_type not in _CALL_TYPES:
            call_type = _type(wire)
        received_at = parse_timestamp(
            wire.received_at or wire.received_at_snake or envelope.received_at
        )
        at = parse_timestamp(wire.timestamp)
        if at is None:
            at = _senders_time(wire, envelope, received_at)
        at, replaced = clock_of(at, record.timestamp)
        if expired_before is not None and at < expired_before and call_type in _EXPIRING_TYPES:
            return _EXPIRED
        given = wire.user_id if wire.user_id is not None else wire.user_id_snake
        user_id = None if given is None else self._person(given, "userId")
        given = wire.anonymous_id if wire.anonymous_id is not None else wire.anonymous_id_snake
        anonymous_id = None if given is None else self._person(given, "anonymousId")
        properties = context = traits = None
        if wire.properties:
            properties = stored_object(wire.properties, "properties", suspicious=suspicious)
        if wire.context:
            context = stored_object(wire.context, "context", suspicious=suspicious)
        if wire.traits:
            traits = stored_object(wire.traits, "traits", suspicious=suspicious)
        if envelope.context is not None:
            context = self._with_lent(context, envelope.context, len(value))
        name = category = contact = None
        said = _NOTHING_SAID
        if call_type == "track":
            name = _event(wire.event)
            category = category_of(name)
        elif call_type in _EXPIRING_TYPES:
            name = None if wire.name is None else _text(wire.name, "name")
            category = "analytics"
        else:
            said = self._said(call_type, wire, user_id, anonymous_id, (context, traits))
            traits = said.traits
        if user_id is None and (anonymous_id is None or category in _CONTACT_CATEGORIES):
            contact = self._contact(wire, anonymous_id, (context, properties, traits))
        message_id = self._message_id(wire, record, position)
        # By position, in the order of the fields: by keyword it takes a microsecond more.
        return Call(
            call_type,
            at,
            message_id,
            blake2b(message_id.encode(), digest_size=16).digest(),
            record,
            position,
            received_at
            if received_at is not None and _YEAR_ONE_US <= received_at <= LATEST_US
            else clock_of(None, record.timestamp)[0],
            user_id,
            anonymous_id,
            contact,
            said.previous_id,
            said.group_id,
            name,
            category,
            properties,
            context,
            traits,
            said.trait_values,
            said.claims,
            said.audience,
            replaced,
            len(value) if envelope.context is None else len(value) + len(envelope.context),
        )

    def _said(
        self,
        call_type: CallType,
        wire: WireCall,
        user_id: str | None,
        anonymous_id: str | None,
        places: tuple[bytes | None, bytes | None],
    ) -> "_Said":
        """What an identify, group or alias says.

        Args:
            call_type: One of these.
            wire: The call.
            user_id: As it names somebody.
            anonymous_id: Likewise.
            places: `context` and `traits`.
        """
        context, traits = places
        if call_type == "group":
            return _Said(traits, group_id=self._group_id(wire), trait_values=_values(traits))
        if call_type == "alias":
            return _Said(traits, previous_id=self._previous_id(wire, user_id, anonymous_id))
        traits, values = _identify_traits(traits, context)
        audience = _audience(context, values)
        return _Said(
            traits,
            trait_values=values,
            claims=self._claims(user_id, values),
            audience=audience,
        )

    def _check_call(self, value: bytes) -> bool:
        """Refuse a call that is too much, and tell whether its parts need the exact check."""
        if len(value) > self._rules.call_bytes_max:
            raise RefusedError(
                "too_large", "", f"call of {len(value)} bytes, at most {self._rules.call_bytes_max}"
            )
        return check_call(value, self._rules.depth_max)

    def _id(self, value: object, field: str) -> str | None:
        return normalised_id(value, field, self._rules.id_chars_max)

    def _person(self, value: object, field: str) -> str | None:
        """An id that names somebody; None where it is absent or junk."""
        if isinstance(value, str) and (found := self._people.get(value)) is not None:
            return found
        text = normalised_id(value, field, self._rules.id_chars_max)
        if text is None or is_blocked(text, self._rules.blocked_ids):
            return None
        if len(text) <= _REMEMBERED_CHARS_MAX and text == value:
            if len(self._people) >= _REMEMBERED_MAX:
                self._people.clear()
            self._people[text] = text
        return text

    def _claims(
        self, user_id: str | None, trait_values: Mapping[str, bytes]
    ) -> tuple[Identity, ...]:
        if user_id is None:
            return ()
        return claimed_contacts(user_id, _contact_fields(trait_values), self._rules.phone_region)

    def _group_id(self, wire: WireCall) -> str:
        group_id = self._id(_either(wire.group_id, wire.group_id_snake), "groupId")
        if group_id is None:
            raise RefusedError("missing_field", "groupId", "missing")
        return group_id

    def _previous_id(self, wire: WireCall, user_id: str | None, anonymous_id: str | None) -> str:
        """Who an alias merges into its `userId`'s user."""
        if user_id is None:
            self._refuse_junk(wire.user_id, wire.user_id_snake, "userId")
        value = _either(wire.previous_id, wire.previous_id_snake)
        previous_id = self._person(value, "previousId")
        if previous_id is None:
            self._refuse_junk(value, None, "previousId")
        if user_id is None:
            raise RefusedError("missing_field", "userId", "missing")
        previous_id = previous_id or anonymous_id
        if previous_id is None:
            raise RefusedError("missing_field", "previousId", "missing, and no anonymousId")
        return previous_id

    def _refuse_junk(self, camel: object, snake: object, field: str) -> None:
        """Refuse an id that is there and names nobody."""
        text = self._id(_either(camel, snake), field)
        if text is not None and is_blocked(text, self._rules.blocked_ids):
            raise RefusedError("blocked_id", field, f"{text[:32]!r} names nobody")

    def _contact(
        self, wire: WireCall, anonymous_id: str | None, places: tuple[bytes | None, ...]
    ) -> Identity | None:
        """The contact that a call without `userId` came by; None where it came by a visitor.

        Args:
            wire: The call, for what is wrong with its ids.
            anonymous_id: Stands in where there is no contact.
            places: `context`, `properties`, `traits`.
        """
        context, properties, traits = places
        contact = first_contact(
            [
                _contact_fields(_values(part))
                for part in (_member(context, "traits"), properties, traits)
            ],
            self._rules.phone_region,
        )
        if contact is None and anonymous_id is None:
            self._refuse_junk(wire.user_id, wire.user_id_snake, "userId")
            self._refuse_junk(wire.anonymous_id, wire.anonymous_id_snake, "anonymousId")
            raise RefusedError(
                "missing_id", "", "neither userId nor anonymousId, and no email or phone"
            )
        return contact

    def _with_lent(self, own: bytes | None, lent: bytes, call_bytes: int) -> bytes:
        """A call's context over its batch's; the call's own keys win."""
        if call_bytes + len(lent) > self._rules.call_bytes_max:
            raise RefusedError(
                "too_large",
                "",
                f"call of {call_bytes + len(lent)} bytes with its batch's context, "
                f"at most {self._rules.call_bytes_max}",
            )
        if own is None:
            return lent
        return _encode(_decode_object(lent) | _decode_object(own))

    def _message_id(self, wire: WireCall, record: Record, position: int) -> str:
        value = _either(wire.message_id, wire.message_id_snake)
        if (
            isinstance(value, str)
            and 0 < len(value) <= self._rules.id_chars_max
            and "\x00" not in value
        ):
            # Nearly every call's.
            return value
        sent = normalised_id(value, "messageId", self._rules.id_chars_max, trim=False)
        if sent is not None:
            return sent
        # The same for a redelivery of the same record.
        salt = position.to_bytes(16, "big")
        return blake2b(record.value or b"", digest_size=16, salt=salt).hexdigest()


def _rejected(record: Record, position: int, place: str, refused: RefusedError) -> Rejected:
    """Make a refusal a value, with the place in the record where it arose."""
    where = f"{place}.{refused.field}" if place and refused.field else place or refused.field
    detail = f"{where}: {refused.words}" if where else refused.words
    return Rejected(record, position, refused.reason, detail)


def _read(value: bytes) -> WireCall:
    try:
        try:
            return _decode_call(value)
        except msgspec.ValidationError:
            return _read_exactly(value)
    except msgspec.ValidationError as error:
        raise RefusedError("not_a_call", "", "must be a JSON object") from error
    except RecursionError as error:
        raise RefusedError("too_deep", "", "deeper than the parser goes") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        words = "a lone surrogate in a text" if has_lone_surrogate(value) else str(error)
        raise RefusedError("malformed_json", "", words) from error


def _read_exactly(value: bytes) -> WireCall:
    """Read a call with a number in one of its fields that Python cannot hold.

    As infinity it is no id and no timestamp, which is what such a number is; an integer stays
    one that is far too long.

    Raises:
        msgspec.DecodeError: It is no JSON.
        msgspec.ValidationError: It is no object.
        RecursionError: It is too deep to tell.
    """
    _decode_raw(value)
    fields = _decode_object(value)
    wire = WireCall()
    for field in msgspec.structs.fields(WireCall):
        raw = fields.get(field.encode_name)
        if raw is not None:
            # What stays raw is kept by its own copy.
            setattr(wire, field.name, raw if field.type is msgspec.Raw else _bounded(raw))
    return wire


def _bounded(raw: msgspec.Raw) -> object:
    return _scalar(raw, _HUGE if bytes(raw).lstrip(b"-").isdigit() else math.inf)


def _scalar(raw: msgspec.Raw | bytes, beyond: object = None) -> object:
    """Decode a raw value; `beyond` if it holds a number that Python cannot."""
    try:
        return _decode_any(raw)
    except msgspec.ValidationError:
        return beyond


def _is(raw: msgspec.Raw, first: int) -> bool:
    """Tell whether a raw value is there and begins so."""
    return bool(raw) and bytes(raw)[0] == first


def _either(camel: object, snake: object) -> object:
    return snake if camel is None else camel


def _type(wire: WireCall) -> CallType:
    found = wire.action if wire.type is None else wire.type
    if not isinstance(found, str):
        if wire.batch and found is None:
            raise RefusedError("not_a_call", "batch", "must be an array of calls")
        words = "missing" if found is None else "must be a string"
        raise RefusedError("unknown_type", "type", words)
    if found in _CALL_TYPES:
        return cast("CallType", found)
    lower = found.strip().lower()
    if lower not in _CALL_TYPES:
        raise RefusedError("unknown_type", "type", f"{found[:64]!r} is none of Segment's calls")
    return cast("CallType", lower)


def _senders_time(wire: WireCall, envelope: _Envelope, received_at: int | None) -> int | None:
    """The time of a call without `timestamp`, by what its sender's clock said."""
    original = parse_timestamp(_either(wire.original_timestamp, wire.original_timestamp_snake))
    if received_at is None or original is None:
        return original if original is not None else received_at
    sent_at = parse_timestamp(wire.sent_at or wire.sent_at_snake or envelope.sent_at)
    return original if sent_at is None else received_at - (sent_at - original)


def _event(value: object) -> str:
    if value is None or value == "":
        raise RefusedError("missing_field", "event", "missing")
    return _text(value, "event")


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise RefusedError("invalid_field", field, "must be a string")
    return value.replace("\x00", "\ufffd") if "\x00" in value else value


def _is_filtered(own: msgspec.Raw, lent: bytes | None) -> bool:
    """Tell whether a call's `integrations`, else its batch's, leave Windsor out."""
    value = bytes(own)
    if not value or value == b"null":
        value = lent or b""
    if not may_hold(value, b"Windsor") or value[0] != OBJECT:
        return False
    found = _decode_object(value).get("Windsor")
    return found is not None and bytes(found) == b"false"


# What is looked for inside --------------------------------------------------------------------


def _member(value: bytes | None, key: str) -> bytes | None:
    """One member of a raw object, where it is an object too."""
    if value is None or not may_hold(value, key.encode()):
        return None
    found = _decode_object(value).get(key)
    raw = None if found is None else bytes(found)
    return raw if raw and raw[0] == OBJECT else None


def _values(value: bytes | None) -> dict[str, bytes]:
    if value is None:
        return {}
    return {key: bytes(raw) for key, raw in _decode_object(value).items()}


def _contact_fields(values: Mapping[str, bytes]) -> dict[str, object]:
    return {key: _scalar(values[key]) for key in ("email", "phone") if key in values}


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


def _audience(context: bytes | None, traits: Mapping[str, bytes]) -> AudienceSync | None:
    """The audience or computed trait that an identify of Engage carries."""
    if not traits:
        return None
    personas = _values(_member(context, "personas"))
    if not personas:
        return None
    name = _scalar(personas.get("computation_key", b"null"))
    computation_class = _scalar(personas.get("computation_class", b"null"))
    if not isinstance(name, str) or name not in traits:
        others = [trait for trait in traits if trait != "email"]
        if len(others) != 1:
            return None
        name = others[0]
    # A longer one is a trait like any other: an index could not hold it.
    if len(name) > ID_CHARS_MAX:
        return None
    return AudienceSync(name, computation_class if isinstance(computation_class, str) else None)
