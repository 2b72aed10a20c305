"""Decoding, sentence by sentence of the contract, sections 1.1 to 1.4, 2 and 3.4.

What must be refused is in `test_hostile_inputs.py`; what a text means as a time, an id or a
contact is in the tests of those modules.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pytest

from consumer.core.call import AudienceSync, Call, Clock, Identity, Outcome, Rejected, Skipped
from consumer.core.decode import Decoder, DecodeRules
from tests.core.calls import START_US, HandRecord

Fields = dict[str, Any]

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US

JANE = Identity("user", "jane")
EMAIL = Identity("email", "jane@example.com")
PHONE = Identity("phone", "+16502530000")


def decode(
    fields: Fields, *, rules: DecodeRules | None = None, expired_before: int | None = None
) -> Sequence[Outcome]:
    """Decode a record of JSON that was delivered at the start."""
    record = HandRecord(value=json.dumps(fields).encode())
    return Decoder(rules or DecodeRules()).decode(record, expired_before)


def decode_call(fields: Fields, *, rules: DecodeRules | None = None) -> Call:
    """Decode a record that holds one good call."""
    (outcome,) = decode(fields, rules=rules)
    assert isinstance(outcome, Call), outcome
    return outcome


def refusal(fields: Fields, *, rules: DecodeRules | None = None) -> tuple[str, str]:
    """Decode a record that holds one bad call, for its reason and detail."""
    (outcome,) = decode(fields, rules=rules)
    assert isinstance(outcome, Rejected), outcome
    return outcome.reason, outcome.detail


def a_call(type_: str = "track", **fields: Any) -> Fields:  # noqa: ANN401 - a call's own fields
    """A call of Jane's, as a sender writes it; None leaves a field out."""
    written = {"type": type_, "userId": "jane", "messageId": "m", **fields}
    if type_ == "track":
        written.setdefault("event", "Clicked")
    return {key: value for key, value in written.items() if value is not None}


# The six calls ----------------------------------------------------------------------------------


def test_track_becomes_a_call() -> None:
    value = (
        b'{"type": "track", "event": "Clicked", "userId": " jane ", "anonymousId": "phone",'
        b' "messageId": "m", "timestamp": "2026-10-05T00:00:01Z",'
        b' "receivedAt": "2026-10-05T00:00:02Z", "properties": {"price": 1.50},'
        b' "context": {"ip": "::1"}}'
    )
    record = HandRecord(value=value)

    assert Decoder().decode(record) == (
        Call(
            type="track",
            clock=Clock(START_US + SECOND_US, "m"),
            message_key=hashlib.blake2b(b"m", digest_size=16).digest(),
            identity=JANE,
            record=record,
            position=0,
            received_at=START_US + 2 * SECOND_US,
            user_id="jane",
            anonymous_id="phone",
            name="Clicked",
            category="analytics",
            properties=b'{"price": 1.50}',
            context=b'{"ip": "::1"}',
            size=len(value),
        ),
    )


def test_identify_becomes_a_call() -> None:
    fields = a_call("identify", traits={"plan": "pro", "email": "Jane@Example.com", "age": None})
    value = json.dumps(fields).encode()

    assert decode_call(fields) == Call(
        type="identify",
        clock=Clock(START_US, "m"),
        message_key=hashlib.blake2b(b"m", digest_size=16).digest(),
        identity=JANE,
        record=HandRecord(value=value),
        position=0,
        received_at=START_US,
        user_id="jane",
        traits=b'{"plan": "pro", "email": "Jane@Example.com", "age": null}',
        trait_values={"plan": b'"pro"', "email": b'"Jane@Example.com"', "age": b"null"},
        claims=(EMAIL,),
        size=len(value),
    )


def test_group_becomes_a_call_with_the_traits_of_the_group() -> None:
    fields = a_call("group", groupId=" acme ", traits={"seats": 5, "plan": None})
    value = json.dumps(fields).encode()

    assert decode_call(fields) == Call(
        type="group",
        clock=Clock(START_US, "m"),
        message_key=hashlib.blake2b(b"m", digest_size=16).digest(),
        identity=JANE,
        record=HandRecord(value=value),
        position=0,
        received_at=START_US,
        user_id="jane",
        group_id="acme",
        traits=b'{"seats": 5, "plan": null}',
        trait_values={"seats": b"5", "plan": b"null"},
        size=len(value),
    )


def test_alias_becomes_a_call() -> None:
    fields = a_call("alias", previousId="old", anonymousId="phone")
    value = json.dumps(fields).encode()

    assert decode_call(fields) == Call(
        type="alias",
        clock=Clock(START_US, "m"),
        message_key=hashlib.blake2b(b"m", digest_size=16).digest(),
        identity=JANE,
        record=HandRecord(value=value),
        position=0,
        received_at=START_US,
        user_id="jane",
        anonymous_id="phone",
        previous_id="old",
        size=len(value),
    )


@pytest.mark.parametrize("type_", ["page", "screen"])
@pytest.mark.parametrize("name", ["Home", "", None])
def test_pages_and_screens_become_calls_named_or_not(type_: str, name: str | None) -> None:
    decoded = decode_call(a_call(type_, name=name, properties={"path": "/"}))

    assert (decoded.type, decoded.name, decoded.category, decoded.properties) == (
        type_, name, "analytics", b'{"path": "/"}',
    )  # fmt: skip


# In the wild, and accepted ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        {"type": "identify"},
        {"type": "Identify"},
        {"type": "IDENTIFY"},
        {"type": " identify\n"},
        {"action": "identify"},
        {"action": "Identify"},
        {"type": None, "action": "identify"},
        {"type": "identify", "action": "track"},
        {"type": "identify", "action": 5},
    ],
)
def test_type_is_taken_in_any_case_or_from_action(written: Fields) -> None:
    assert decode_call({"userId": "jane", **written}).type == "identify"


def test_snake_case_fields_are_taken() -> None:
    alias = decode_call(
        {
            "type": "alias", "user_id": "jane", "anonymous_id": "phone", "previous_id": "old",
            "message_id": "m", "original_timestamp": "2026-10-05T01:00:00Z",
            "sent_at": "2026-10-05T01:00:02Z", "received_at": "2026-10-05T00:00:10Z",
        }
    )  # fmt: skip
    group = decode_call({"type": "group", "user_id": "jane", "group_id": "acme"})

    assert (alias.user_id, alias.anonymous_id, alias.previous_id) == ("jane", "phone", "old")
    assert (alias.clock, alias.received_at) == (
        Clock(START_US + 8 * SECOND_US, "m"),
        START_US + 10 * SECOND_US,
    )
    assert group.group_id == "acme"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"userId": "camel", "user_id": "snake"}, "camel"),
        ({"userId": None, "user_id": "snake"}, "snake"),
    ],
)
def test_camel_case_goes_before_snake_case(written: Fields, expected: str) -> None:
    assert decode_call({"type": "identify", **written}).user_id == expected


@pytest.mark.parametrize("anything", [True, 1, 1.5, "x", [], [1], {}, {"a": 1}])
def test_unknown_fields_of_any_type_are_accepted(anything: object) -> None:
    decoded = decode_call(
        a_call(
            version=anything, integrations=anything, company=anything, writeKey=anything,
            context={"unknown": anything}, properties={"unknown": anything},
        )
    )  # fmt: skip

    kept = json.dumps({"unknown": anything}).encode()
    assert (decoded.context, decoded.properties) == (kept, kept)


@pytest.mark.parametrize("part", ["properties", "context", "traits"])
@pytest.mark.parametrize("empty", [b"[]", b"[ ]", b"null"])
def test_empty_array_of_php_is_an_absent_object(part: str, empty: bytes) -> None:
    value = b'{"type":"identify","userId":"jane","messageId":"m","%s":%s}' % (part.encode(), empty)

    (decoded,) = Decoder().decode(HandRecord(value=value))

    assert isinstance(decoded, Call)
    assert (decoded.properties, decoded.context, decoded.traits) == (None, None, None)


# Whom a call points at --------------------------------------------------------------------------

EMAIL_OPENED = a_call(event="Email Opened", userId=None)


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        pytest.param(
            {"userId": "jane", "anonymousId": "phone", "properties": {"email": "a@b"}},
            JANE,
            id="the user id goes first",
        ),
        pytest.param(
            {"anonymousId": "made-up", "properties": {"email": " Jane@Example.com "}},
            EMAIL,
            id="then a contact, before the anonymous id",
        ),
        pytest.param(
            {"anonymousId": "made-up", "properties": {"phone": "+1 650 253 0000"}},
            PHONE,
            id="a phone where there is no email",
        ),
        pytest.param(
            {"context": {"traits": {"email": "a@b"}}, "properties": {"email": "c@d"}},
            Identity("email", "a@b"),
            id="of context.traits before properties",
        ),
        pytest.param(
            {"properties": {"email": "c@d"}, "traits": {"email": "e@f"}},
            Identity("email", "c@d"),
            id="of properties before traits",
        ),
        pytest.param(
            {"context": {"traits": {"phone": "+16502530000"}}, "traits": {"email": "e@f"}},
            Identity("email", "e@f"),
            id="an email anywhere before a phone",
        ),
        pytest.param(
            {"context": {"traits": []}, "properties": {"email": "c@d"}},
            Identity("email", "c@d"),
            id="an empty context.traits holds none",
        ),
        pytest.param(
            {"anonymousId": "phone", "properties": {"email": "no email"}},
            Identity("anonymous", "phone"),
            id="the anonymous id where there is no contact",
        ),
        pytest.param(
            {"userId": "undefined", "anonymousId": "phone", "properties": {"email": "a@b"}},
            Identity("email", "a@b"),
            id="a junk user id is absent",
        ),
    ],
)
def test_message_to_a_person_points_at_its_contact(fields: Fields, identity: Identity) -> None:
    decoded = decode_call({**EMAIL_OPENED, **fields})

    assert (decoded.identity, decoded.category) == (identity, "email")


@pytest.mark.parametrize(
    ("event", "category"),
    [
        ("Email Opened", "email"),
        ("email_opened", "email"),
        ("Charge Succeeded", "payment"),
        ("Ticket Created", "support"),
        ("SMS Delivered", "sms"),
    ],
)
def test_category_of_the_event_decides_that_a_contact_goes_first(event: str, category: str) -> None:
    decoded = decode_call(
        {**EMAIL_OPENED, "event": event, "anonymousId": "x", "properties": {"email": EMAIL.value}}
    )

    assert (decoded.category, decoded.identity) == (category, EMAIL)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "track", "event": "Clicked"},
        {"type": "track", "event": "Account Created"},
        {"type": "page"},
        {"type": "screen"},
        {"type": "identify"},
        {"type": "group", "groupId": "acme"},
    ],
)
def test_other_calls_point_at_the_visitor_and_at_a_contact_only_without_one(fields: Fields) -> None:
    with_email = {**fields, "properties": {"email": EMAIL.value}}

    assert decode_call({**with_email, "anonymousId": "phone"}).identity == Identity(
        "anonymous", "phone"
    )
    assert decode_call(with_email).identity == EMAIL


def test_phone_without_plus_needs_a_region() -> None:
    fields = {**EMAIL_OPENED, "properties": {"phone": "(650) 253-0000"}}

    assert refusal(fields)[0] == "missing_id"
    assert decode_call(fields, rules=DecodeRules(phone_region="US")).identity == PHONE


# Ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "id_"), [(" jane\n", "jane"), (42, "42"), ("42", "42")])
def test_ids_are_trimmed_texts_or_integers(sent: object, id_: str) -> None:
    alias = decode_call(a_call("alias", userId=sent, anonymousId=sent, previousId=sent))
    group = decode_call(a_call("group", groupId=sent))

    assert (alias.user_id, alias.anonymous_id, alias.previous_id, group.group_id) == (id_,) * 4


@pytest.mark.parametrize("empty", ["", "  ", "\n\t"])
def test_empty_id_is_absent(empty: str) -> None:
    decoded = decode_call(a_call(userId=empty, anonymousId="phone"))
    alias = decode_call(a_call("alias", previousId=empty, anonymousId="phone"))

    assert (decoded.user_id, decoded.identity) == (None, Identity("anonymous", "phone"))
    assert alias.previous_id == "phone"
    assert refusal(a_call(userId=empty)) == (
        "missing_id", "neither userId nor anonymousId, and no email or phone",
    )  # fmt: skip
    assert refusal(a_call("group", groupId=empty)) == ("missing_field", "groupId: missing")


def test_junk_id_is_absent_where_another_names_somebody() -> None:
    visitor = decode_call(a_call(userId="null", anonymousId="phone"))
    user = decode_call(a_call(anonymousId="undefined"))
    contact = decode_call(a_call(userId="guest", traits={"email": EMAIL.value}))

    assert (visitor.user_id, visitor.identity) == (None, Identity("anonymous", "phone"))
    assert (user.anonymous_id, user.identity) == (None, JANE)
    assert (contact.user_id, contact.identity) == (None, EMAIL)


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"userId": "Undefined"}, "userId: 'Undefined' names nobody"),
        ({"userId": 0}, "userId: '0' names nobody"),
        ({"userId": None, "anonymousId": "guest"}, "anonymousId: 'guest' names nobody"),
        ({"userId": None, "anonymous_id": "nil"}, "anonymousId: 'nil' names nobody"),
        ({"userId": "null", "anonymousId": "none"}, "userId: 'null' names nobody"),
        ({"userId": "", "anonymousId": -1}, "anonymousId: '-1' names nobody"),
    ],
)
def test_call_left_with_nobody_by_junk_ids_is_blocked(fields: Fields, detail: str) -> None:
    assert refusal(a_call(**fields)) == ("blocked_id", detail)


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"userId": "null", "previousId": "old"}, "userId: 'null' names nobody"),
        ({"userId": "null", "previousId": "nil"}, "userId: 'null' names nobody"),
        ({"previousId": "0"}, "previousId: '0' names nobody"),
        ({"previous_id": "0"}, "previousId: '0' names nobody"),
        ({"previousId": "NaN", "anonymousId": "phone"}, "previousId: 'NaN' names nobody"),
        ({"userId": "", "previousId": "NaN"}, "previousId: 'NaN' names nobody"),
    ],
)
def test_alias_of_a_junk_id_is_blocked(fields: Fields, detail: str) -> None:
    assert refusal(a_call("alias", **fields)) == ("blocked_id", detail)


def test_junk_is_tested_on_the_ids_of_people_only() -> None:
    decoded = decode_call(a_call("group", groupId="null", messageId="undefined"))

    assert (decoded.group_id, decoded.clock.message_id) == ("null", "undefined")


def test_junk_ids_are_configurable() -> None:
    rules = DecodeRules(blocked_ids=frozenset({"test-user"}))

    assert refusal(a_call(userId="Test-User"), rules=rules)[0] == "blocked_id"
    assert decode_call(a_call(userId="null"), rules=rules).user_id == "null"


@pytest.mark.parametrize(
    ("previous", "visitor", "expected"),
    [
        ("old", None, "old"),
        ("old", "phone", "old"),
        (None, "phone", "phone"),
        ("jane", None, "jane"),
    ],
)
def test_anonymous_id_stands_in_for_an_absent_previous_id(
    previous: str | None, visitor: str | None, expected: str
) -> None:
    decoded = decode_call(a_call("alias", previousId=previous, anonymousId=visitor))

    assert (decoded.previous_id, decoded.anonymous_id) == (expected, visitor)


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"type": "alias", "previousId": "old"}, "userId: missing"),
        ({"type": "alias", "previousId": "old", "anonymousId": "phone"}, "userId: missing"),
        ({"type": "alias", "userId": "jane"}, "previousId: missing, and no anonymousId"),
        (
            {"type": "alias", "userId": "jane", "anonymousId": "null"},
            "previousId: missing, and no anonymousId",
        ),
        ({"type": "group", "userId": "jane"}, "groupId: missing"),
        ({"type": "track", "userId": "jane"}, "event: missing"),
        ({"type": "track", "userId": "jane", "event": None}, "event: missing"),
        ({"type": "track", "userId": "jane", "event": ""}, "event: missing"),
    ],
)
def test_call_without_what_it_is_about_misses_a_field(fields: Fields, detail: str) -> None:
    assert refusal(fields) == ("missing_field", detail)


# Message ids ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "id_"), [("m", "m"), ("  m\n", "  m\n"), (" ", " "), (12, "12"), ("ü", "ü")]
)
def test_message_id_is_kept_untrimmed_and_hashed_as_utf8(sent: object, id_: str) -> None:
    decoded = decode_call(a_call(messageId=sent))

    assert decoded.clock == Clock(START_US, id_)
    assert decoded.message_key == hashlib.blake2b(id_.encode(), digest_size=16).digest()


@pytest.mark.parametrize("absent", [{}, {"messageId": None}, {"messageId": ""}, {"message_id": ""}])
def test_absent_message_id_is_a_hash_of_the_value_and_the_position(absent: Fields) -> None:
    call = {"type": "identify", "userId": "jane", **absent}
    batch = {"batch": [call, call]}

    first, again = decode_call(call), decode_call(call)
    other = decode_call({**call, "userId": "joe"})
    ids = [outcome.clock.message_id for outcome in decode(batch) if isinstance(outcome, Call)]
    ids_again = [outcome.clock.message_id for outcome in decode(batch) if isinstance(outcome, Call)]

    assert len(bytes.fromhex(first.clock.message_id)) == 16
    assert first.clock == again.clock
    assert ids == ids_again
    assert len({first.clock.message_id, other.clock.message_id, *ids}) == 4


# Time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        pytest.param({}, 0, id="the record's"),
        pytest.param({"receivedAt": "2026-10-05T00:00:10Z"}, 10, id="receivedAt"),
        pytest.param(
            {"receivedAt": "2026-10-05T00:00:10Z", "sentAt": "2026-10-05T01:00:00Z"},
            10,
            id="receivedAt, where nothing says how old the call is",
        ),
        pytest.param(
            {"receivedAt": "2026-10-05T00:00:10Z", "originalTimestamp": "2026-10-05T00:00:05Z"},
            5,
            id="originalTimestamp before receivedAt",
        ),
        pytest.param(
            {"sentAt": "2026-10-05T00:00:10Z", "originalTimestamp": "2026-10-05T00:00:05Z"},
            5,
            id="originalTimestamp where nothing says when it was received",
        ),
        pytest.param(
            {
                "receivedAt": "2026-10-05T00:00:10Z", "sentAt": "2026-10-05T01:00:02Z",
                "originalTimestamp": "2026-10-05T01:00:00Z",
            },
            8,
            id="corrected for a clock that is an hour ahead",
        ),
        pytest.param(
            {
                "timestamp": "2026-10-05T00:00:07Z", "receivedAt": "2026-10-05T00:00:10Z",
                "sentAt": "2026-10-05T01:00:02Z", "originalTimestamp": "2026-10-05T01:00:00Z",
            },
            7,
            id="timestamp before all",
        ),
        pytest.param(
            {"timestamp": "yesterday", "receivedAt": "2026-10-05T00:00:10Z"},
            10,
            id="an unreadable timestamp is absent",
        ),
        pytest.param(
            {
                "receivedAt": "2026-10-05T00:00:10Z", "sentAt": "soon",
                "originalTimestamp": "2026-10-05T00:00:05Z",
            },
            5,
            id="an unreadable sentAt is absent",
        ),
        pytest.param(
            {"receivedAt": [], "originalTimestamp": {}, "sentAt": True, "timestamp": False},
            0,
            id="times of other types are absent",
        ),
    ],
)  # fmt: skip
def test_time_of_a_call_is_the_first_that_it_has(times: Fields, seconds: int) -> None:
    decoded = decode_call(a_call(**times))

    assert (decoded.clock, decoded.timestamp_replaced) == (
        Clock(START_US + seconds * SECOND_US, "m"),
        False,
    )


@pytest.mark.parametrize(
    ("timestamp", "at", "replaced"),
    [
        ("2026-10-06T00:00:00Z", START_US + DAY_US, False),
        ("2026-10-06T00:00:00.000001Z", START_US, True),
        ("2000-01-01T00:00:00Z", 946_684_800_000_000, False),
        ("1999-12-31T23:59:59.999999Z", START_US, True),
    ],
)
def test_implausible_time_is_replaced_by_the_records_and_said_so(
    timestamp: str, at: int, *, replaced: bool
) -> None:
    decoded = decode_call(a_call(timestamp=timestamp))

    assert (decoded.clock, decoded.timestamp_replaced) == (Clock(at, "m"), replaced)


@pytest.mark.parametrize(
    ("sent", "received_at"),
    [
        ("2026-10-05T00:00:10Z", START_US + 10 * SECOND_US),
        ("1969-12-31T23:59:59Z", -SECOND_US),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("0001-01-01T00:00:00+01:00", START_US),
        ("9999-12-31T23:59:59.999998Z", 253_402_300_799_999_998),
        ("9999-12-31T23:59:59.999999Z", START_US),
        (10**30, START_US),
        ("junk", START_US),
        (None, START_US),
    ],
)
def test_received_at_is_the_senders_where_it_can_be_stored(sent: object, received_at: int) -> None:
    decoded = decode_call(a_call(receivedAt=sent, timestamp="2026-10-05T00:00:00Z"))

    assert decoded.received_at == received_at


# Skipped calls ----------------------------------------------------------------------------------


def test_tombstone_is_skipped() -> None:
    assert Decoder().decode(HandRecord(value=None)) == (Skipped("tombstone"),)


@pytest.mark.parametrize(
    "integrations",
    [{"Windsor": False}, {"All": True, "Windsor": False}, {"Windsor": False, "x": 1}],
)
def test_call_that_leaves_windsor_out_is_skipped(integrations: Fields) -> None:
    assert decode(a_call(integrations=integrations)) == (Skipped("integrations"),)


def test_integration_may_be_spelled_with_escapes() -> None:
    value = b'{"type":"identify","userId":"jane","integrations":{"\\u0057indsor":false}}'

    assert Decoder().decode(HandRecord(value=value)) == (Skipped("integrations"),)


@pytest.mark.parametrize(
    "integrations",
    [
        {}, [], "Windsor", ["Windsor"], {"All": False}, {"Windsor": True}, {"Windsor": None},
        {"Windsor": {}}, {"Windsor": "false"}, {"Windsor": 0}, {"windsor": False},
        {"Mixpanel": {"Windsor": False}},
    ],
)  # fmt: skip
def test_other_integrations_filter_nothing(integrations: object) -> None:
    assert decode_call(a_call(integrations=integrations)).identity == JANE


@pytest.mark.parametrize(
    ("type_", "expires"),
    [
        ("track", True),
        ("page", True),
        ("screen", True),
        ("identify", False),
        ("group", False),
        ("alias", False),
    ],
)
def test_old_events_are_expired(type_: str, *, expires: bool) -> None:
    fields = a_call(type_, groupId="acme", previousId="old")

    (older,) = decode(fields, expired_before=START_US + 1)
    (kept,) = decode(fields, expired_before=START_US)

    assert (older == Skipped("expired")) is expires
    assert isinstance(kept, Call)


# Traits and claims ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("traits", "of_context", "raw", "values"),
    [
        ({"a": 1}, {"b": 2}, b'{"a": 1}', {"a": b"1"}),
        (None, {"b": 2}, b'{"b": 2}', {"b": b"2"}),
        ({}, {"b": None}, b'{"b": null}', {"b": b"null"}),
        ([], {"b": 2}, b'{"b": 2}', {"b": b"2"}),
        (None, None, None, {}),
        (None, [], None, {}),
        (None, "text", None, {}),
        ({}, None, b"{}", {}),
    ],
)
def test_traits_of_an_identify_come_from_its_context_where_it_has_none(
    traits: object, of_context: object, raw: bytes | None, values: dict[str, bytes]
) -> None:
    decoded = decode_call(a_call("identify", traits=traits, context={"traits": of_context}))

    assert (decoded.traits, decoded.trait_values) == (raw, values)


def test_context_of_other_calls_sets_no_traits() -> None:
    context = {"traits": {"plan": "pro"}, "groupId": "acme"}

    track = decode_call(a_call(context=context))
    group = decode_call(a_call("group", groupId="acme", context=context))

    assert (track.trait_values, track.group_id) == (None, None)
    assert group.trait_values == {}


@pytest.mark.parametrize(
    ("user_id", "traits", "claims"),
    [
        ("jane", {"email": " Jane@Example.com "}, (EMAIL,)),
        ("jane", {"phone": "+1 (650) 253-0000"}, (PHONE,)),
        ("jane", {"phone": "+16502530000", "email": "jane@example.com"}, (EMAIL, PHONE)),
        ("Jane@Example.com", {}, (EMAIL,)),
        ("Jane@Example.com", {"phone": "+16502530000"}, (EMAIL, PHONE)),
        ("joe@example.com", {"email": "jane@example.com"}, (EMAIL,)),
        ("Jane@Example.com", {"email": None}, ()),
        ("Jane@Example.com", {"email": "none"}, ()),
        ("jane", {"Email": "jane@example.com", "mobile": "+16502530000"}, ()),
        ("jane", {"email": ["jane@example.com"], "phone": 1.5}, ()),
        ("jane", {}, ()),
    ],
)  # fmt: skip
def test_identify_with_a_user_id_claims_its_contacts(
    user_id: str, traits: Fields, claims: tuple[Identity, ...]
) -> None:
    assert decode_call(a_call("identify", userId=user_id, traits=traits)).claims == claims


def test_claims_come_from_the_traits_that_count() -> None:
    decoded = decode_call(a_call("identify", context={"traits": {"email": EMAIL.value}}))

    assert decoded.claims == (EMAIL,)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "identify", "userId": None, "anonymousId": "phone"},
        {"type": "identify", "userId": "null", "anonymousId": "phone"},
        {"type": "group", "groupId": "acme"},
        {"type": "track"},
        {"type": "page"},
    ],
)
def test_nothing_else_claims_a_contact(fields: Fields) -> None:
    written = a_call(event="Clicked", traits={"email": EMAIL.value}) | fields

    assert decode_call(written).claims == ()


# Audiences --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("traits", "personas", "audience"),
    [
        pytest.param(
            {"vip": True, "plan": "pro"},
            {"computation_class": "audience", "computation_key": "vip", "computation_id": "x"},
            AudienceSync("vip", "audience"),
            id="named by its key",
        ),
        pytest.param(
            {"vip": True, "email": "a@b"},
            {"computation_class": "audience", "computation_key": "VIP!"},
            AudienceSync("vip", "audience"),
            id="the only trait beside email",
        ),
        pytest.param(
            {"ltv": 9.5},
            {"computation_class": "trait"},
            AudienceSync("ltv", "trait"),
            id="without a key",
        ),
        pytest.param(
            {"email": "a@b"},
            {"computation_class": "trait", "computation_key": "email"},
            AudienceSync("email", "trait"),
            id="a computed email",
        ),
        pytest.param(
            {"vip": True},
            {"computation_class": 5, "computation_key": 5},
            AudienceSync("vip", None),
            id="key and class of other types are absent",
        ),
        pytest.param(
            {"vip": True, "plan": "pro"},
            {"computation_class": "audience", "computation_key": "other"},
            None,
            id="no telling which of two traits",
        ),
        pytest.param({"email": "a@b"}, {"computation_class": "audience"}, None, id="email alone"),
        pytest.param({"vip": True}, {}, None, id="personas empty"),
        pytest.param({"vip": True}, [], None, id="personas an empty array"),
        pytest.param({"vip": True}, None, None, id="no personas"),
        pytest.param({}, {"computation_key": "vip"}, None, id="no traits"),
        pytest.param({"k" * 512: 1}, {"x": 1}, AudienceSync("k" * 512, None), id="longest name"),
        pytest.param({"k" * 513: 1}, {"x": 1}, None, id="too long for a name"),
    ],
)
def test_identify_of_engage_names_its_audience(
    traits: Fields, personas: object, audience: AudienceSync | None
) -> None:
    decoded = decode_call(a_call("identify", traits=traits, context={"personas": personas}))

    assert (decoded.audience, set(decoded.trait_values or {})) == (audience, set(traits))


def test_only_an_identify_syncs_an_audience() -> None:
    context = {"personas": {"computation_class": "audience", "computation_key": "vip"}}

    decoded = decode_call(a_call("group", groupId="acme", traits={"vip": True}, context=context))

    assert decoded.audience is None


# Envelopes --------------------------------------------------------------------------------------


def test_empty_batch_has_no_outcome() -> None:
    assert list(decode({"batch": []})) == []


@pytest.mark.parametrize(
    "wrap", [lambda call: {"httpPayload": call}, lambda call: {"batch": [call]}]
)
def test_envelope_gives_the_call_that_it_holds(wrap: Any) -> None:  # noqa: ANN401 - a lambda
    call = a_call("identify", timestamp="2026-10-05T00:00:01Z", traits={"plan": "pro"})
    enveloped = wrap(call)

    (decoded,) = decode(enveloped)
    expected = decode_call(call)
    expected.record = HandRecord(value=json.dumps(enveloped).encode())

    assert decoded == expected


def test_http_payload_goes_before_the_call_around_it() -> None:
    decoded = decode_call(a_call("track", httpPayload=a_call("identify", userId="joe")))

    assert (decoded.type, decoded.user_id) == ("identify", "joe")


def test_http_payload_may_hold_a_batch() -> None:
    outcomes = decode({"httpPayload": {"batch": [a_call(), a_call(messageId="n")]}})

    assert [(o.position, o.clock.message_id) for o in outcomes if isinstance(o, Call)] == [
        (0, "m"), (1, "n"),
    ]  # fmt: skip


@pytest.mark.parametrize("no_envelope", [None, 5, "x", {}, {"a": 1}, False])
def test_call_with_a_batch_that_is_none_is_a_call(no_envelope: object) -> None:
    fields = {**a_call(), "batch": no_envelope}

    assert decode_call(fields).identity == JANE


@pytest.mark.parametrize(
    ("own", "context"),
    [
        (None, b'{"ip": "::1", "page": {"path": "/"}}'),
        ([], b'{"ip": "::1", "page": {"path": "/"}}'),
        ({"page": {}, "os": 1}, b'{"ip":"::1","page":{},"os":1}'),
    ],
)
def test_batch_lends_its_context_and_the_calls_own_keys_win(own: object, context: bytes) -> None:
    lent = {"ip": "::1", "page": {"path": "/"}}

    decoded = decode_call({"context": lent, "batch": [a_call(context=own)]})

    assert json.loads(decoded.context or b"") == json.loads(context)


def test_lent_context_brings_traits_contacts_and_personas() -> None:
    context = {
        "traits": {"vip": True, "email": EMAIL.value},
        "personas": {"computation_class": "audience", "computation_key": "vip"},
    }

    identify, opened = decode({"context": context, "batch": [a_call("identify"), EMAIL_OPENED]})

    assert isinstance(identify, Call)
    assert (identify.claims, identify.audience) == ((EMAIL,), AudienceSync("vip", "audience"))
    assert isinstance(opened, Call)
    assert opened.identity == EMAIL


def test_batch_lends_times_and_integrations_but_no_ids() -> None:
    envelope = {
        "messageId": "never", "userId": "never", "timestamp": "2026-10-01", "type": "never",
        "sentAt": "2026-10-05T01:00:02Z", "receivedAt": "2026-10-05T00:00:10Z",
        "integrations": {"Windsor": False},
        "batch": [
            a_call(originalTimestamp="2026-10-05T01:00:00Z", integrations={}),
            a_call(integrations={"All": True}, receivedAt="2026-10-05T00:00:03Z"),
            a_call(messageId=None, integrations={"Windsor": True}),
            a_call(),
            a_call(integrations=[], userId=None),
        ],
    }  # fmt: skip

    corrected, own, hashed, filtered, nobody = decode(envelope)

    assert isinstance(corrected, Call)
    assert corrected.clock == Clock(START_US + 8 * SECOND_US, "m")
    assert isinstance(own, Call)
    assert (own.clock.at, own.received_at) == (START_US + 3 * SECOND_US,) * 2
    assert isinstance(hashed, Call)
    assert len(hashed.clock.message_id) == 32
    assert filtered == Skipped("integrations")
    assert isinstance(nobody, Rejected)
    assert (nobody.position, nobody.reason) == (4, "missing_id")


def test_good_calls_of_a_batch_land_and_each_bad_one_has_its_place() -> None:
    envelope = {
        "batch": [
            a_call(),
            {"type": "login", "userId": "jane"},
            a_call(userId=True),
            7,
            None,
            [],
            "text",
            {},
            {"batch": [a_call()]},
            {"httpPayload": a_call()},
            a_call(properties="none"),
            a_call("page"),
        ]
    }

    outcomes = decode(envelope)

    assert [outcome.position for outcome in outcomes if isinstance(outcome, Call)] == [0, 11]
    assert [
        (outcome.position, outcome.reason, outcome.detail)
        for outcome in outcomes
        if isinstance(outcome, Rejected)
    ] == [
        (1, "unknown_type", "batch[1].type: 'login' is none of Segment's calls"),
        (2, "invalid_field", "batch[2].userId: a boolean, must be a string or integer"),
        (3, "not_a_call", "batch[3]: must be a JSON object"),
        (4, "not_a_call", "batch[4]: must be a JSON object"),
        (5, "not_a_call", "batch[5]: must be a JSON object"),
        (6, "not_a_call", "batch[6]: must be a JSON object"),
        (7, "unknown_type", "batch[7].type: missing"),
        (8, "not_a_call", "batch[8]: an envelope within an envelope"),
        (9, "not_a_call", "batch[9]: an envelope within an envelope"),
        (10, "invalid_field", "batch[10].properties: must be an object"),
    ]


def test_size_counts_what_the_batch_lent() -> None:
    call = a_call()
    context = {"ip": "::1"}

    decoded = decode_call({"context": context, "batch": [call]})

    assert decoded.size == len(json.dumps(call)) + len(json.dumps(context))
