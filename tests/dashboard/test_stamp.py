"""How a request's calls become records."""

import json
import re
from typing import Any

import pytest

from consumer.core.decode import DecodeRules
from dashboard.stamp import (
    BATCH_CALLS_MAX,
    CALL_BYTES_MAX,
    Arrival,
    BadCallError,
    Stamped,
    Stamper,
    read_body,
)

AT = 1_793_750_400_000_000  # 2026-11-04T00:00:00Z
RECEIVED = "2026-11-04T00:00:00.000000Z"
RANDOM = bytes(range(16))


def stamp(
    body: dict[str, Any] | bytes, type_: str | None = None, ip: str | None = None
) -> list[Stamped]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = read_body(raw, is_batch=type_ is None)
    return list(Stamper(DecodeRules()).stamp(sent, type_, Arrival(AT, ip), RANDOM))


def stamped(
    body: dict[str, Any] | bytes, type_: str = "track", ip: str | None = None
) -> dict[str, Any]:
    """The one call of a request, as it goes to the topic."""
    (call,) = stamp(body, type_, ip)
    found: dict[str, Any] = json.loads(call.value)
    return found


def refusal(body: dict[str, Any] | bytes, type_: str | None = None) -> tuple[str, str]:
    with pytest.raises(BadCallError) as refused:
        stamp(body, type_)
    return refused.value.code, refused.value.message


TRACK = {"userId": "u1", "event": "E", "messageId": "m1"}


def test_a_plain_call_is_stamped_with_type_and_times() -> None:
    assert stamped(TRACK) == {
        **TRACK, "type": "track", "receivedAt": RECEIVED, "timestamp": RECEIVED,
    }  # fmt: skip


def test_what_was_not_changed_is_copied_as_sent() -> None:
    odd = rb'{"b" : 1.50,"a":[ 1e2 , "\u00e9\/" ],"b":2}'
    (call,) = stamp(
        b'{"userId":"u1","event":"E","messageId":"m1","properties":' + odd + b"}", "track"
    )

    assert odd in call.value


def test_the_path_says_the_type_whatever_the_call_says() -> None:
    assert stamped({**TRACK, "type": "page"}, "track")["type"] == "track"


def test_times_and_ids_of_ours_replace_what_a_sender_claims() -> None:
    call = stamped({**TRACK, "receivedAt": "2001-01-01", "received_at": "2001-01-01"})

    assert call["receivedAt"] == RECEIVED
    assert "received_at" not in call


def test_a_token_never_reaches_the_topic() -> None:
    (call,) = stamp({"writeKey": "ws_1", "batch": [{**TRACK, "type": "track", "writeKey": "ws_1"}]})

    assert b"ws_1" not in call.value


@pytest.mark.parametrize("absent", [{}, {"messageId": None}, {"messageId": ""}])
def test_a_call_without_a_message_id_gets_one_of_its_own(absent: dict[str, Any]) -> None:
    calls = stamp({"batch": [{"type": "track", "userId": "u1", "event": "E", **absent}] * 2})
    ids = [json.loads(call.value)["messageId"] for call in calls]

    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id_) for id_ in ids)


@pytest.mark.parametrize("field", ["messageId", "message_id"])
def test_a_message_id_is_kept(field: str) -> None:
    call = stamped({"userId": "u1", "event": "E", field: " m 7"})

    assert {name: call[name] for name in call if name.startswith("message")} == {field: " m 7"}


def test_a_clock_that_is_wrong_is_set_right_by_sent_at() -> None:
    # The sender's clock is an hour ahead, and the call happened ten seconds before it was sent.
    call = stamped({
        **TRACK, "timestamp": "2026-11-04T00:59:50.000Z", "sentAt": "2026-11-04T01:00:00.000Z",
    })  # fmt: skip

    assert call["timestamp"] == "2026-11-03T23:59:50.000000Z"
    assert call["originalTimestamp"] == "2026-11-04T00:59:50.000Z"


def test_a_batch_lends_its_sent_at_to_calls_without_one() -> None:
    calls = stamp({
        "sentAt": "2026-11-04T01:00:00Z",
        "batch": [
            {**TRACK, "type": "track", "timestamp": "2026-11-04T00:59:50Z"},
            {**TRACK, "type": "track", "timestamp": "2026-11-04T00:59:50Z",
             "sentAt": "2026-11-04T00:59:50Z"},
        ],
    })  # fmt: skip
    found = [json.loads(call.value) for call in calls]

    assert [call["timestamp"] for call in found] == [
        "2026-11-03T23:59:50.000000Z", RECEIVED,
    ]  # fmt: skip
    assert [call["sentAt"] for call in found] == ["2026-11-04T01:00:00Z", "2026-11-04T00:59:50Z"]


def test_a_call_that_was_corrected_before_is_left_alone() -> None:
    times = {
        "originalTimestamp": "2026-11-04T05:00:00Z", "sentAt": "2026-11-04T06:00:00Z",
        "timestamp": "2026-11-03T20:00:00Z",
    }  # fmt: skip

    assert stamped({**TRACK, **times}) == {
        **TRACK, **times, "type": "track", "receivedAt": RECEIVED,
    }  # fmt: skip


def test_an_original_timestamp_alone_is_corrected() -> None:
    call = stamped({
        **TRACK, "originalTimestamp": "2026-11-04T00:59:50Z", "sentAt": "2026-11-04T01:00:00Z",
    })  # fmt: skip

    assert call["timestamp"] == "2026-11-03T23:59:50.000000Z"


@pytest.mark.parametrize("timestamp", ["soon", {}, None, "", 10**400])
def test_a_timestamp_that_cannot_be_read_is_now(timestamp: object) -> None:
    assert stamped({**TRACK, "timestamp": timestamp})["timestamp"] == RECEIVED


def test_a_correction_beyond_any_calendar_is_now() -> None:
    call = stamped({**TRACK, "timestamp": "9999-12-31T00:00:00Z", "sentAt": "0001-01-01T00:00:00Z"})

    assert call["timestamp"] == RECEIVED


def test_the_callers_address_is_added_where_there_is_none() -> None:
    assert stamped(TRACK, ip="192.0.2.7")["context"] == {"ip": "192.0.2.7"}
    assert stamped({**TRACK, "context": {"a": 1}}, ip="192.0.2.7")["context"] == {
        "a": 1, "ip": "192.0.2.7",
    }  # fmt: skip
    # Also what a sender has made of it for privacy's sake.
    assert stamped({**TRACK, "context": {"ip": None}}, ip="192.0.2.7")["context"] == {"ip": None}


def test_address_of_something_else_is_not_the_callers() -> None:
    context = {"device": {"ip": "198.51.100.1"}}
    assert stamped({**TRACK, "context": context}, ip="192.0.2.7")["context"] == {
        **context, "ip": "192.0.2.7",
    }  # fmt: skip


def test_address_is_the_senders_however_its_key_is_spelled() -> None:
    raw = b'{"userId": "jane", "event": "E", "context": {"\\u0069p": "198.51.100.1"}}'
    assert stamped(raw, ip="192.0.2.7")["context"] == {"ip": "198.51.100.1"}


def test_a_batch_lends_its_context_and_the_calls_own_keys_win() -> None:
    calls = stamp(
        {
            "context": {"app": {"name": "shop"}, "locale": "de"},
            "messageId": "never",
            "integrations": {"All": True},
            "batch": [
                {**TRACK, "type": "track", "context": {"locale": "fr"}},
                {**TRACK, "type": "track", "context": None, "integrations": {"All": False}},
            ],
        },
        ip="192.0.2.7",
    )
    found = [json.loads(call.value) for call in calls]

    assert [call["context"] for call in found] == [
        {"app": {"name": "shop"}, "locale": "fr", "ip": "192.0.2.7"},
        {"app": {"name": "shop"}, "locale": "de", "ip": "192.0.2.7"},
    ]
    assert [call["integrations"] for call in found] == [{"All": True}, {"All": False}]
    assert [call["messageId"] for call in found] == ["m1", "m1"]


@pytest.mark.parametrize("empty", ["[]", "[ \n ]", "null"])
def test_an_empty_array_is_an_absent_context_as_php_sends_it(empty: str) -> None:
    call = f'{{"userId": "u1", "event": "E", "type": "track", "context": {empty}}}'
    (lent_to,) = stamp(f'{{"context": {{"locale": "de"}}, "batch": [{call}]}}'.encode())
    (alone,) = stamp(f'{{"context": {empty}, "batch": [{call}]}}'.encode(), ip="192.0.2.7")

    assert json.loads(lent_to.value)["context"] == {"locale": "de"}
    assert json.loads(alone.value)["context"] == {"ip": "192.0.2.7"}


@pytest.mark.parametrize("ip", ['1.2.3.4"', "1.2.3.4\\", "1.2.3.4\x1f", "\xff", 'fe80::1%e"0'])
def test_whatever_a_proxy_says_of_the_caller_is_no_part_of_the_json(ip: str) -> None:
    assert stamped(TRACK, ip=ip)["context"] == {"ip": ip}
    assert stamped({**TRACK, "context": {"a": 1}}, ip=ip)["context"] == {"a": 1, "ip": ip}


def test_records_are_keyed_by_user_else_by_visitor_else_not() -> None:
    calls = stamp({
        "batch": [
            {"type": "page", "userId": " u1 ", "anonymousId": "v1"},
            {"type": "page", "userId": 7},
            {"type": "page", "user_id": None, "anonymous_id": "v1"},
            {"type": "page", "userId": "null", "anonymousId": "v1"},
            {"type": "track", "event": "Email Opened", "properties": {"email": "a@b.co"}},
            {"type": "page", "userId": "u1", "integrations": {"Windsor": False}},
        ]
    })  # fmt: skip

    assert [call.key for call in calls] == [b"u1", b"7", b"v1", b"v1", None, None]
    assert [call.type for call in calls] == [*["page"] * 4, "track", "integrations"]


def test_a_bad_call_of_a_batch_is_named_by_place_and_field() -> None:
    good = {"type": "track", "userId": "u1", "event": "E"}

    assert refusal({"batch": [good, good, good, {"type": "group", "userId": "u1"}]}) == (
        "missing_field", "batch[3].groupId: missing",
    )  # fmt: skip
    assert refusal({"batch": [good, {"type": "dance", "userId": "u1"}]}) == (
        "unknown_type", "batch[1].type: 'dance' is none of Segment's calls",
    )  # fmt: skip
    assert refusal({"batch": [{"type": "page"}]}) == (
        "missing_id", "batch[0]: neither userId nor anonymousId, and no email or phone",
    )  # fmt: skip
    assert refusal({"batch": [good, 7]}) == ("not_a_call", "batch[1]: must be a JSON object")
    assert refusal(
        {"batch": [good, {**good, "properties": {"a": [1, {"b\0": 1}]}}]}
    )[0] == "invalid_field"  # fmt: skip


def test_a_bad_call_alone_is_named_by_field() -> None:
    assert refusal({"userId": "u1"}, "group") == ("missing_field", "groupId: missing")
    assert refusal(b'{"userId": "u1", "event": "E"', "track")[0] == "malformed_json"
    assert refusal(b'[{"userId": "u1"}]', "track") == ("not_a_call", "must be a JSON object")
    assert refusal(b'{"userId": "\xff"}', "track") == (
        "malformed_json", "invalid UTF-8 (byte 12)",
    )  # fmt: skip
    assert refusal(b"[" * 100_000, "track")[0] in {"malformed_json", "not_a_call"}


def test_a_context_that_is_none_is_refused_by_place() -> None:
    assert refusal({"context": 7, "batch": []} | {"batch": [{**TRACK, "type": "track"}]}) == (
        "invalid_field", "context: must be an object",
    )  # fmt: skip
    code, message = refusal({"batch": [{**TRACK, "type": "track", "context": [1]}]})
    assert code == "invalid_field"
    assert message.startswith("batch[0].context: ")


@pytest.mark.parametrize("inside", [{"batch": []}, {"batch": [{}]}, {"httpPayload": {}}])
def test_an_envelope_is_no_call(inside: dict[str, Any]) -> None:
    call = {**TRACK, "type": "track", **inside}

    assert refusal(call, "track") == ("not_a_call", "an envelope, where a call must be")
    assert refusal({"batch": [call]}) == (
        "not_a_call", "batch[0]: an envelope, where a call must be",
    )  # fmt: skip


@pytest.mark.parametrize("body", [{}, {"batch": None}, {"batch": {}}, {"batch": 7}])
def test_a_batch_without_calls_to_look_at_is_refused(body: dict[str, Any]) -> None:
    assert refusal(body)[0] == "missing_field"


def test_an_empty_batch_is_nothing() -> None:
    assert stamp({"batch": []}) == []


def test_a_call_may_have_32_kb_as_sent_and_no_more() -> None:
    call = {"type": "track", "userId": "u1", "event": "E", "messageId": "m1", "p": ""}
    room = CALL_BYTES_MAX - len(json.dumps(call))
    fits, over = ({**call, "p": "x" * size} for size in (room, room + 1))

    assert len(stamp({"batch": [fits]}, ip="192.0.2.7")) == 1
    assert refusal({"batch": [fits, over]}) == (
        "too_large", f"batch[1]: call of {CALL_BYTES_MAX + 1} bytes, at most {CALL_BYTES_MAX}",
    )  # fmt: skip


def test_a_batch_may_have_2500_calls_and_no_more() -> None:
    call = {"type": "page", "userId": "u1"}

    assert len(stamp({"batch": [call] * BATCH_CALLS_MAX})) == BATCH_CALLS_MAX
    assert refusal({"batch": [call] * (BATCH_CALLS_MAX + 1)}) == (
        "too_large", "batch: 2501 calls, at most 2500",
    )  # fmt: skip


def test_a_large_context_is_not_lent_to_many() -> None:
    batch = {"context": {"a": "x" * 20_000}, "batch": [{"type": "page", "userId": "u1"}] * 2_500}

    assert refusal(batch) == ("too_large", "context: too large to be lent to so many calls")


def test_what_is_wrong_is_told_without_what_was_sent() -> None:
    _, message = refusal({"batch": [{"type": "page", "userId": {"secret": "jane@example.com"}}]})

    assert "jane" not in message
