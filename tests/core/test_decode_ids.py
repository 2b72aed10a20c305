"""Whom a call points at, by which id, and which message it is.

Sentence by sentence of the contract; what must be refused is in `hostile.py`.
"""

import hashlib
import json

import pytest

from consumer.core.call import Call, Clock, Identity
from consumer.core.decode import Decoder, DecodeRules
from tests.core.calls import START_US, HandRecord
from tests.core.outcomes import (
    EMAIL,
    EMAIL_OPENED,
    JANE,
    PHONE,
    Fields,
    a_call,
    decode,
    decode_call,
    refusal,
)

# Whom a call points at ----------------------------------------------------------------------------


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


# Ids ----------------------------------------------------------------------------------------------


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


# Message ids --------------------------------------------------------------------------------------


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


def test_ids_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.core.decode._REMEMBERED_MAX", 2)
    decoder = Decoder()
    sent = [f"user-{number}" for number in (1, 2, 3, 1, 1)]

    outcomes = [
        outcome
        for user_id in sent
        for outcome in decoder.decode(HandRecord(value=json.dumps(a_call(userId=user_id)).encode()))
    ]

    assert [outcome.user_id for outcome in outcomes if isinstance(outcome, Call)] == sent
