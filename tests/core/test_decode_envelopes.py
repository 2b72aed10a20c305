"""Envelopes: what they hold, what they lend, and which call of them fell.

Sentence by sentence of the contract; what must be refused is in `hostile.py`.
"""

import json
from typing import Any

import pytest

from consumer.core.call import AudienceSync, Call, Clock, Rejected, Skipped
from tests.core.calls import START_US, HandRecord
from tests.core.outcomes import EMAIL, EMAIL_OPENED, JANE, a_call, decode, decode_call

SECOND_US = 1_000_000


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
