"""Calls as the contract has them, and as they come in the wild; traits, claims, audiences.

Sentence by sentence of the contract; what must be refused is in `hostile.py`.
"""

import hashlib
import json

import pytest

from consumer.core.call import AudienceSync, Call, Clock, Identity
from consumer.core.decode import Decoder
from tests.core.calls import START_US, HandRecord
from tests.core.outcomes import EMAIL, PHONE, Fields, a_call, decode_call

SECOND_US = 1_000_000

# The six calls ------------------------------------------------------------------------------------


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
            at=START_US + SECOND_US,
            message_id="m",
            message_key=hashlib.blake2b(b"m", digest_size=16).digest(),
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
        at=START_US,
        message_id="m",
        message_key=hashlib.blake2b(b"m", digest_size=16).digest(),
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
        at=START_US,
        message_id="m",
        message_key=hashlib.blake2b(b"m", digest_size=16).digest(),
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
        at=START_US,
        message_id="m",
        message_key=hashlib.blake2b(b"m", digest_size=16).digest(),
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


# In the wild, and accepted ------------------------------------------------------------------------


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


# Traits and claims --------------------------------------------------------------------------------


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


# Audiences ----------------------------------------------------------------------------------------


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
