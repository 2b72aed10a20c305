"""Bad data is a value: no input raises, and each has its outcome, reason and detail.

First tables of inputs, known to be hostile, then what Hypothesis makes of good calls.
"""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.call import (
    Call,
    Clock,
    Identity,
    IdentityKind,
    Outcome,
    Rejected,
    RejectReason,
    Skipped,
    SkipReason,
)
from consumer.core.clock import EARLIEST_US, LATEST_US
from consumer.core.decode import Decoder, DecodeRules
from tests.core.calls import START_US, HandRecord

RECORD_BYTES_MAX = 1024 * 1024
CALL_BYTES_MAX = 512 * 1024


def decode(value: bytes, rules: DecodeRules | None = None) -> Sequence[Outcome]:
    return Decoder(rules or DecodeRules()).decode(HandRecord(value=value))


def decode_call(value: bytes) -> Call:
    (outcome,) = decode(value)
    assert isinstance(outcome, Call), outcome
    return outcome


def refusals(value: bytes, rules: DecodeRules | None = None) -> list[tuple[int, str, str]]:
    """Position, reason and detail of each outcome; there is no good one among them."""
    outcomes = decode(value, rules)
    assert all(isinstance(outcome, Rejected) for outcome in outcomes), outcomes
    return [(o.position, o.reason, o.detail) for o in outcomes if isinstance(o, Rejected)]


def identify(**fields: bytes) -> bytes:
    """An identify of Jane's, each field as raw JSON; by these a field is said twice or retyped."""
    written = {"type": b'"identify"', "userId": b'"jane"', "messageId": b'"m"', **fields}
    return b"{%s}" % b",".join(b'"%s":%s' % (key.encode(), raw) for key, raw in written.items())


def nested(levels: int) -> bytes:
    """An object of so many levels."""
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


def nested_arrays(levels: int) -> bytes:
    """An object of so many levels, arrays but for the first."""
    return b'{"a":%s%s}' % (b"[" * (levels - 1), b"]" * (levels - 1))


# No JSON ----------------------------------------------------------------------------------------

CALL = b'{"type":"identify","userId":"jane","messageId":"m"}'


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        pytest.param(b"", "Input data was truncated", id="empty"),
        pytest.param(b" \n", "Input data was truncated", id="blank"),
        pytest.param(CALL[:-1], "Input data was truncated", id="truncated"),
        pytest.param(b'"x', "Input data was truncated", id="truncated text"),
        pytest.param(
            CALL + b" {}", "JSON is malformed: trailing characters (byte 53)", id="two calls"
        ),
        pytest.param(
            b"\xef\xbb\xbf" + CALL, "JSON is malformed: invalid character (byte 0)", id="BOM"
        ),
        pytest.param(
            CALL.decode().encode("utf-16"), "invalid UTF-8 (byte 0)", id="UTF-16 with BOM"
        ),
        pytest.param(
            CALL.decode().encode("utf-16-le"),
            "JSON is malformed: object keys must be strings (byte 1)",
            id="UTF-16",
        ),
        pytest.param(
            b"\x00\x00\x00\x00\x01\x08jane\x02",
            "JSON is malformed: invalid character (byte 0)",
            id="Avro of a schema registry",
        ),
        pytest.param(
            b"Obj\x01\x04\x14avro.codec\x08null",
            "JSON is malformed: invalid character (byte 0)",
            id="Avro file",
        ),
        pytest.param(b"\x1f\x8b\x08\x00", "invalid UTF-8 (byte 1)", id="gzip"),
        pytest.param(b"NaN", "JSON is malformed: invalid character (byte 0)", id="NaN"),
        pytest.param(
            b"{'type':'identify'}",
            "JSON is malformed: object keys must be strings (byte 1)",
            id="single quotes",
        ),
        pytest.param(
            b'{"type":"identify",}',
            "JSON is malformed: trailing comma in object (byte 19)",
            id="trailing comma",
        ),
        pytest.param(b"<call/>", "JSON is malformed: invalid character (byte 0)", id="XML"),
    ],
)
def test_what_is_no_json_is_malformed(value: bytes, detail: str) -> None:
    assert refusals(value) == [(0, "malformed_json", detail)]


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(lambda raw: identify(userId=raw), id="an id"),
        pytest.param(lambda raw: identify(name=raw), id="a field of another call"),
        pytest.param(lambda raw: identify(timestamp=raw), id="a time"),
        pytest.param(lambda raw: identify(traits=b'{"a":%s}' % raw), id="a trait"),
        pytest.param(lambda raw: identify(context=b'{"a":[{"b":%s}]}' % raw), id="deep in a part"),
        pytest.param(lambda raw: identify(unknown=raw), id="an unknown field"),
        pytest.param(lambda raw: identify(unknown=b"[%s]" % raw), id="deep in an unknown field"),
        pytest.param(lambda raw: b'{"batch":[%s]}' % identify(userId=raw), id="a call of a batch"),
        pytest.param(lambda raw: b'{"httpPayload":%s}' % identify(traits=raw), id="a payload"),
        pytest.param(
            lambda raw: b'{"context":{"a":%s},"batch":[%s]}' % (raw, CALL), id="a lent context"
        ),
    ],
)
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b"Infinity", id="Infinity"),
        pytest.param(b"-Infinity", id="-Infinity"),
        pytest.param(b"undefined", id="undefined"),
        pytest.param(b"01", id="leading zero"),
        pytest.param(b"1.", id="no fraction"),
        pytest.param(b".5", id="no integer"),
        pytest.param(b"+1", id="plus"),
        pytest.param(b"1e", id="no exponent"),
        pytest.param(b"0x1", id="hexadecimal"),
        pytest.param(b"'x'", id="single quotes"),
        pytest.param(b'"\xff"', id="invalid UTF-8"),
        pytest.param(b'"\xc0\x80"', id="NUL in overlong UTF-8"),
        pytest.param(b'"\xed\xa0\x80"', id="surrogate in UTF-8"),
        pytest.param(b'"\xf4\x90\x80\x80"', id="beyond Unicode"),
        pytest.param(b'"\xf0\x9f\x98"', id="cut within a character"),
        pytest.param(b'"\x00"', id="raw NUL"),
        pytest.param(b'"\x01"', id="control character"),
        pytest.param(b'"\n"', id="raw newline"),
        pytest.param(b'"\\x41"', id="unknown escape"),
        pytest.param(b'"\\u00zz"', id="escape of no digits"),
        pytest.param(b'"\\u00"', id="short escape"),
        pytest.param(b'"\\ud83d"', id="first half of a surrogate pair"),
        pytest.param(b'"\\ude00"', id="second half of a surrogate pair"),
        pytest.param(b'"\\ude00\\ud83d"', id="surrogate pair in the wrong order"),
        pytest.param(b'"\\ud83d\\ud83d\\ude00"', id="a half before a surrogate pair"),
        pytest.param(b'"\\ud83d\\u0041"', id="a half before a letter"),
        pytest.param(b'"\\ud83d12345678"', id="a half before digits"),
        pytest.param(b'{"\\ud83d":1}', id="half of a surrogate pair in a key"),
        pytest.param(b"{1:2}", id="number as key"),
        pytest.param(b"[1,]", id="trailing comma"),
    ],
)
def test_broken_json_is_malformed_wherever_it_is(
    place: Callable[[bytes], bytes], raw: bytes
) -> None:
    ((position, reason, _),) = refusals(place(raw))

    assert (position, reason) == (0, "malformed_json")


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (identify(userId=b'"\xff"'), "invalid UTF-8 (byte 29)"),
        (identify(traits=b'{"a":"\xff"}'), "invalid UTF-8 (byte 66)"),
        (identify(traits=b'{"a":NaN}'), "JSON is malformed: invalid character (byte 65)"),
        (identify(traits=b'{"a":"\x00"}'), "JSON is malformed: invalid character (byte 66)"),
        (
            identify(traits=b'{"a":"\\ude00"}'),
            "a lone surrogate in a text",
        ),
    ],
)
def test_detail_of_broken_json_says_where(value: bytes, detail: str) -> None:
    assert refusals(value) == [(0, "malformed_json", detail)]


# No call ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [b"null", b"true", b"0", b"-1.5e3", b'"identify"', b"[]", b"[[]]", b"[%s]" % CALL, b"1e999"],
)
def test_json_that_is_no_object_is_no_call(value: bytes) -> None:
    assert refusals(value) == [(0, "not_a_call", "must be a JSON object")]


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (b'{"batch":5}', "batch: must be an array of calls"),
        (b'{"batch":"x"}', "batch: must be an array of calls"),
        (b'{"batch":{"type":"identify"}}', "batch: must be an array of calls"),
        (b'{"batch":[{"batch":[]}]}', "batch[0]: an envelope within an envelope"),
        (b'{"batch":[{"httpPayload":{}}]}', "batch[0]: an envelope within an envelope"),
        (b'{"batch":[[%s]]}' % CALL, "batch[0]: must be a JSON object"),
        (b'{"batch":[1e999]}', "batch[0]: must be a JSON object"),
        (b'{"httpPayload":{"httpPayload":%s}}' % CALL, "an envelope within an envelope"),
    ],
)
def test_envelope_of_no_calls_is_no_call(value: bytes, detail: str) -> None:
    assert refusals(value) == [(0, "not_a_call", detail)]


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (b"{}", "type: missing"),
        (b'{"userId":"jane"}', "type: missing"),
        (b'{"TYPE":"identify"}', "type: missing"),
        (b'{"httpPayload":{}}', "type: missing"),
        (b'{"httpPayload":[%s]}' % CALL, "type: missing"),
        (b'{"type":""}', "type: '' is none of Segment's calls"),
        (b'{"type":"","action":"identify"}', "type: '' is none of Segment's calls"),
        (b'{"type":"log\\u0000in"}', "type: 'log\\x00in' is none of Segment's calls"),
        (b'{"type":"%s"}' % (b"x" * 99), f"type: '{'x' * 64}' is none of Segment's calls"),
        (b'{"type":"\\u0131dentify"}', "type: '\u0131dentify' is none of Segment's calls"),
        (b'{"type":1}', "type: must be a string"),
        (b'{"type":true}', "type: must be a string"),
        (b'{"type":["identify"]}', "type: must be a string"),
        (b'{"type":{"a":1e999}}', "type: must be a string"),
        (b'{"action":1e999}', "type: must be a string"),
    ],
)
def test_call_of_no_known_type_is_refused(value: bytes, detail: str) -> None:
    assert refusals(value) == [(0, "unknown_type", detail)]


# Fields of wrong types --------------------------------------------------------------------------

ID_DETAILS = {
    b"true": "a boolean, must be a string or integer",
    b"false": "a boolean, must be a string or integer",
    b"1.5": "a fraction, must be a string or integer",
    b"1.0": "a fraction, must be a string or integer",
    b"-0.0": "a fraction, must be a string or integer",
    b"1e3": "a fraction, must be a string or integer",
    b"1e999": "a fraction, must be a string or integer",
    b"[]": "an array, must be a string or integer",
    b'["jane"]': "an array, must be a string or integer",
    b"{}": "an object, must be a string or integer",
    b'{"$oid":"5"}': "an object, must be a string or integer",
    b'"a\\u0000b"': "holds a NUL character",
    b'"\\u0000"': "holds a NUL character",
}
ID_FIELDS = {
    "userId": b'"identify"',
    "anonymousId": b'"identify"',
    "messageId": b'"identify"',
    "previousId": b'"alias"',
    "groupId": b'"group"',
}


@pytest.mark.parametrize("raw", ID_DETAILS)
@pytest.mark.parametrize("field", ID_FIELDS)
def test_id_of_a_wrong_type_is_an_invalid_field(field: str, raw: bytes) -> None:
    value = identify(type=ID_FIELDS[field], **{field: raw})

    assert refusals(value) == [(0, "invalid_field", f"{field}: {ID_DETAILS[raw]}")]


@pytest.mark.parametrize("field", ID_FIELDS)
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(b'"%s"' % (b"a" * 513), "513 characters, at most 512", id="letters"),
        pytest.param(
            b'"%s"' % ("\U0001f600" * 513).encode(), "513 characters, at most 512", id="emoji"
        ),
        pytest.param(b"1" * 513, "longer than 512 characters", id="digits"),
        pytest.param(b"9" * 4_000, "longer than 512 characters", id="thousands of digits"),
    ],
)
def test_id_of_more_than_512_characters_is_too_long(field: str, raw: bytes, words: str) -> None:
    value = identify(type=ID_FIELDS[field], **{field: raw})

    assert refusals(value) == [(0, "id_too_long", f"{field}: {words}")]


@pytest.mark.parametrize(
    ("raw", "user_id"),
    [
        pytest.param(b'"%s"' % (b"a" * 512), "a" * 512, id="512 letters"),
        pytest.param(b'"  %s\\n"' % (b"a" * 512), "a" * 512, id="512 letters and blanks"),
        pytest.param(
            b'"%s"' % ("\U0001f600" * 512).encode(), "\U0001f600" * 512, id="512 emoji"
        ),
        pytest.param(b'"\\ud83d\\ude00"', "\U0001f600", id="emoji by escapes"),
        pytest.param(b"1" * 512, "1" * 512, id="512 digits"),
        pytest.param(b"18446744073709551616", "18446744073709551616", id="beyond 64 bits"),
        pytest.param(b"-9223372036854775809", "-9223372036854775809", id="below 64 bits"),
        pytest.param('"\u202ejane"'.encode(), "\u202ejane", id="right-to-left mark"),
        pytest.param('"\u200b"'.encode(), "\u200b", id="zero-width space"),
        pytest.param('"\ufeffjane"'.encode(), "\ufeffjane", id="BOM"),
        pytest.param('"e\u0301"'.encode(), "e\u0301", id="not normalised"),
        pytest.param(b'"\\njane\\r\\n"', "jane", id="newlines around"),
        pytest.param(b'"ja\\nne"', "ja\nne", id="newline within"),
        pytest.param(b'"\\\\u0000"', "\\u0000", id="no NUL but its escape's text"),
        pytest.param(b"\"'; drop table users; --\"", "'; drop table users; --", id="SQL"),
        pytest.param(b'"__proto__"', "__proto__", id="prototype"),
    ],
)  # fmt: skip
def test_odd_ids_are_ids(raw: bytes, user_id: str) -> None:
    decoded = decode_call(identify(userId=raw))

    assert (decoded.user_id, decoded.identity) == (user_id, Identity("user", user_id))


@pytest.mark.parametrize(
    ("type_", "field"), [(b'"track"', "event"), (b'"page"', "name"), (b'"screen"', "name")]
)
@pytest.mark.parametrize("raw", [b"true", b"1", b"1.5", b"1e999", b"[]", b'["x"]', b"{}"])
def test_name_of_a_wrong_type_is_an_invalid_field(type_: bytes, field: str, raw: bytes) -> None:
    value = identify(type=type_, **{field: raw})

    assert refusals(value) == [(0, "invalid_field", f"{field}: must be a string")]


@pytest.mark.parametrize("field", ["properties", "context", "traits"])
@pytest.mark.parametrize(
    "raw", [b"true", b"0", b"1e999", b'""', b'"text"', b"[1]", b"[[]]", b"[{}]"]
)
def test_part_of_a_wrong_type_is_an_invalid_field(field: str, raw: bytes) -> None:
    assert refusals(identify(**{field: raw})) == [
        (0, "invalid_field", f"{field}: must be an object")
    ]


@pytest.mark.parametrize("field", ["timestamp", "originalTimestamp", "sentAt", "receivedAt"])
@pytest.mark.parametrize(
    "raw",
    [
        b"true", b"[]", b"{}", b'""', b'"\\u0000"', b"1e999", b"-1e999", b'{"a":1e999}',
        b'"0000-01-01T00:00:00Z"', b'"10000-01-01T00:00:00Z"', b'"2026-02-30"',
    ],
)  # fmt: skip
def test_time_of_a_wrong_type_is_absent(field: str, raw: bytes) -> None:
    decoded = decode_call(identify(**{field: raw}))

    assert (decoded.clock, decoded.received_at, decoded.timestamp_replaced) == (
        Clock(START_US, "m"), START_US, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        b'"1969-12-31T23:59:59Z"', b'"0001-01-01T00:00:00Z"', b'"0001-01-01T00:00:00+23:59"',
        b"0", b"-1", b"1791158400000000", b"1e300", b'"9999-12-31T23:59:59.999999Z"',
        b'"9999-12-31T23:59:60Z"', b'"2126-10-05"', b'"99999999999"',
        pytest.param(b"9" * 4_000, id="4,000 digits"),
        pytest.param(b"9" * 5_000, id="5,000 digits"),
        pytest.param(b'"%s"' % (b"9" * 5_000), id="text of 5,000 digits"),
    ],
)  # fmt: skip
def test_time_before_2000_or_in_the_future_is_replaced(raw: bytes) -> None:
    decoded = decode_call(identify(timestamp=raw))

    assert (decoded.clock, decoded.timestamp_replaced) == (Clock(START_US, "m"), True)


@pytest.mark.parametrize("sent_at", [b"1e300", b"-1e300", b"9" * 4_000, b'"0001-01-01"'])
def test_wild_correction_of_a_clock_is_replaced(sent_at: bytes) -> None:
    value = identify(
        receivedAt=b'"2026-10-05T00:00:10Z"', originalTimestamp=b'"2026-10-05"', sentAt=sent_at
    )

    decoded = decode_call(value)

    assert (decoded.clock, decoded.timestamp_replaced) == (Clock(START_US, "m"), True)


# What JSON allows and Postgres does not ---------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'{"a":"x\\u0000y"}', b'{"a":"x\\ufffdy"}'),
        (b'{"a":["\\u0000",{"b":"\\u0000\\u0000"}]}', b'{"a":["\\ufffd",{"b":"\\ufffd\\ufffd"}]}'),
        (b'{"a":"\\\\u0000"}', b'{"a":"\\\\u0000"}'),
        (b'{"a":"\\\\\\u0000"}', b'{"a":"\\\\\\ufffd"}'),
        (b'{"\\\\u0000":"\\u0000"}', b'{"\\\\u0000":"\\ufffd"}'),
        (b'{"a":"\\":\\u0000"}', b'{"a":"\\":\\ufffd"}'),
    ],
)
@pytest.mark.parametrize("field", ["properties", "context", "traits"])
def test_nul_in_a_value_is_replaced(field: str, sent: bytes, kept: bytes) -> None:
    decoded = decode_call(identify(**{field: sent}))
    lent = decode_call(b'{"context":%s,"batch":[%s]}' % (sent, CALL))

    assert getattr(decoded, field) == kept
    assert lent.context == kept


@pytest.mark.parametrize(
    "raw",
    [
        b'{"\\u0000":1}',
        b'{"a":{"b\\u0000c" : 1}}',
        b'{"a":[[{"b":"\\\\","\\\\\\u0000":1}]]}',
    ],
)
@pytest.mark.parametrize("field", ["properties", "context", "traits"])
def test_nul_in_a_key_is_an_invalid_field(field: str, raw: bytes) -> None:
    assert refusals(identify(**{field: raw})) == [
        (0, "invalid_field", f"{field}: a key holds a NUL character")
    ]


def test_nul_in_a_name_is_replaced() -> None:
    track = decode_call(identify(type=b'"track"', event=b'"Email\\u0000Opened"'))
    page = decode_call(identify(type=b'"page"', name=b'"\\u0000"'))

    assert (track.name, page.name) == ("Email\ufffdOpened", "\ufffd")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"\\u0000\\ud83d\\ude00"}', b'{"zzz\\u0000":"\\u0000"}', b'"\\u0000"', b"1e999999",
        b"[1e131072]",
    ],
)  # fmt: skip
def test_unknown_field_is_not_stored_so_it_may_hold_anything(raw: bytes) -> None:
    assert decode_call(identify(unknown=raw)).user_id == "jane"


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        pytest.param(b'{"a":1e999999}', ".a", id="1e999999"),
        pytest.param(b'{"a":-1E+999999}', ".a", id="-1E+999999"),
        pytest.param(b'{"a":1e131071}', ".a", id="1e131071"),
        pytest.param(b'{"a":1e-131071}', ".a", id="1e-131071"),
        pytest.param(b'{"a":1e1001}', ".a", id="1e1001"),
        pytest.param(b'{"a":1e000001001}', ".a", id="zeros before the exponent"),
        pytest.param(b'{"a":1e99999999999999999999}', ".a", id="exponent beyond 64 bits"),
        pytest.param(b'{"a":[0,{"b":[1e9999 ]}]}', ".a[1].b[0]", id="deep"),
        pytest.param(b'{"a":"1e9999","b":1e9999}', ".b", id="after a text that looks alike"),
        pytest.param(b'{"a":1e9999,"a":1}', "", id="hidden by the same key"),
        pytest.param(b'{"a":%s}' % (b"9" * 131_073), ".a", id="131,073 digits"),
        pytest.param(b'{"a":-%s}' % (b"9" * 131_073), ".a", id="131,073 digits and a sign"),
        pytest.param(b'{"a":0.%s}' % (b"1" * 16_384), ".a", id="16,384 digits of a fraction"),
        pytest.param(b'{"a":0.%se-9}' % (b"1" * 16_380), ".a", id="more by the exponent"),
    ],
)
@pytest.mark.parametrize("field", ["properties", "context", "traits"])
def test_number_beyond_numeric_is_an_invalid_field(field: str, raw: bytes, place: str) -> None:
    assert refusals(identify(**{field: raw})) == [
        (0, "invalid_field", f"{field}{place}: number beyond numeric")
    ]
    assert refusals(b'{"context":%s,"batch":[%s]}' % (raw, CALL)) == [
        (0, "invalid_field", f"context{place}: number beyond numeric")
    ]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"a":1180591620717411303424}', id="beyond 64 bits"),
        pytest.param(b'{"a":1e1000,"b":1E-1000}', id="beyond a float"),
        pytest.param(b'{"a":"12e99999","b":"1e9999,"}', id="texts like numbers"),
        pytest.param(b'{"12e99999":1}', id="key like a number"),
        pytest.param(b'{"a":%s}' % (b"9" * 5_000), id="5,000 digits"),
        pytest.param(b'{"a":%s}' % (b"9" * 131_072), id="131,072 digits"),
        pytest.param(b'{"a":0.%s}' % (b"1" * 16_383), id="16,383 digits of a fraction"),
        pytest.param(b'{"a":"%s"}' % (b"9" * 200_000), id="text of digits"),
        pytest.param(b'{"a":1,"a":2}', id="a key twice"),
        pytest.param(b'{"a":1,"A":2}', id="keys that differ in case"),
        pytest.param(b'{"__proto__":{"isAdmin":true},"constructor":1}', id="__proto__"),
        pytest.param(b'{"":1," ":2}', id="empty keys"),
        pytest.param('{"\u202e\u200b\U0001f600":"\ufeff\uffff"}'.encode(), id="odd characters"),
        pytest.param(b'{"a":"\\ud83d\\ude00\\\\ud83d"}', id="surrogate pair"),
        pytest.param(b'{"%s":1}' % (b"k" * 300_000), id="long key"),
    ],
)
def test_what_postgres_can_hold_is_kept_as_sent(raw: bytes) -> None:
    assert decode_call(identify(properties=raw)).properties == raw
    assert decode_call(identify(context=raw)).context == raw
    assert decode_call(identify(traits=raw)).traits == raw


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (b'{"a":1,"a":null}', {"a": b"null"}),
        (b'{"a":1,"A":2}', {"a": b"1", "A": b"2"}),
        (b'{"\\u0061":1,"a":2}', {"a": b"2"}),
        (b'{"__proto__":{"a":1}}', {"__proto__": b'{"a":1}'}),
        (b'{"":1}', {"": b"1"}),
        (b'{"a": "\\u0000" }', {"a": b'"\\ufffd"'}),
    ],
)
def test_last_of_the_same_key_counts_as_in_jsonb(raw: bytes, values: dict[str, bytes]) -> None:
    decoded = decode_call(identify(traits=raw))

    assert (decoded.traits, decoded.trait_values) == (raw.replace(b"0000", b"fffd"), values)


def test_last_of_the_same_field_counts() -> None:
    decoded = decode_call(b'{"type":"track","type":"identify","userId":"a","userId":"b"}')

    assert (decoded.type, decoded.user_id) == ("identify", "b")


def test_fields_are_told_by_case() -> None:
    assert refusals(b'{"type":"identify","USERID":"jane","userid":"jane"}') == [
        (0, "missing_id", "neither userId nor anonymousId, and no email or phone")
    ]


def test_contact_with_a_number_that_python_cannot_hold_is_none() -> None:
    digits = b"9" * 5_000
    decoded = decode_call(identify(traits=b'{"email":1e999,"phone":%s}' % digits))
    synced = decode_call(
        identify(
            traits=b'{"vip":true}',
            context=b'{"personas":{"computation_key":1e999,"computation_class":%s}}' % digits,
        )
    )

    assert (decoded.claims, decoded.trait_values) == ((), {"email": b"1e999", "phone": digits})
    assert synced.audience is not None
    assert (synced.audience.name, synced.audience.computation_class) == ("vip", None)


def test_fields_that_an_identify_does_not_have_may_hold_numbers_python_cannot() -> None:
    raw = b'{"a":[1e999]}'

    decoded = decode_call(
        identify(event=raw, name=raw, groupId=raw, previousId=raw, traits=b'{"a":1}')
    )

    assert (decoded.name, decoded.group_id, decoded.traits) == (None, None, b'{"a":1}')


# Too deep, too large ----------------------------------------------------------------------------


@pytest.mark.parametrize("nest", [nested, nested_arrays])
@pytest.mark.parametrize("field", ["properties", "context", "traits"])
def test_call_of_64_levels_is_taken(field: str, nest: Callable[[int], bytes]) -> None:
    raw = nest(63)

    assert getattr(decode_call(identify(**{field: raw})), field) == raw
    assert getattr(decode_call(b'{"batch":[%s]}' % identify(**{field: raw})), field) == raw
    assert decode_call(b'{"context":%s,"batch":[%s]}' % (raw, CALL)).context == raw


@pytest.mark.parametrize("nest", [nested, nested_arrays])
@pytest.mark.parametrize("field", ["properties", "context", "traits", "unknown", "userId", "event"])
@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (64, "deeper than 64 levels"),
        (65, "deeper than 64 levels"),
        (1_000, "deeper than the parser goes"),
        (20_000, "deeper than the parser goes"),
    ],
)
def test_call_of_more_than_64_levels_is_too_deep(
    field: str, nest: Callable[[int], bytes], levels: int, words: str
) -> None:
    assert refusals(identify(**{field: nest(levels)})) == [(0, "too_deep", words)]


def test_brackets_in_texts_nest_nothing() -> None:
    raw = b'{"a":"%s","b":"\\"[{","[[":"\\\\"}' % (b"[{" * 100_000)

    assert decode_call(identify(traits=raw)).traits == raw


def test_siblings_nest_nothing() -> None:
    wide = b'{"a":[%s[]]}' % (b"[{}]," * 1_000)
    deepest = b'{"a":%s,"b":[%s]}' % (nested(62), nested(61))
    too_deep = b'{"a":%s,"b":[%s]}' % (nested(62), nested(62))

    assert decode_call(identify(traits=wide)).traits == wide
    assert decode_call(identify(traits=deepest)).traits == deepest
    assert refusals(identify(traits=too_deep)) == [(0, "too_deep", "deeper than 64 levels")]


def test_lent_context_counts_its_level_within_the_call() -> None:
    assert refusals(b'{"context":%s,"batch":[%s]}' % (nested(64), CALL)) == [
        (0, "too_deep", "context: deeper than 64 levels")
    ]


def padded(bytes_count: int) -> bytes:
    """A call of so many bytes."""
    start = b'{"type":"identify","userId":"jane","traits":{"a":"'
    return start + b"x" * (bytes_count - len(start) - 3) + b'"}}'


@pytest.mark.parametrize("bytes_count", [RECORD_BYTES_MAX + 1, 10 * RECORD_BYTES_MAX])
def test_record_over_1_mib_is_too_large(bytes_count: int) -> None:
    detail = f"record of {bytes_count} bytes, at most 1048576"

    assert refusals(padded(bytes_count)) == [(0, "too_large", detail)]
    assert refusals(b"\xff" * bytes_count) == [(0, "too_large", detail)]


@pytest.mark.parametrize("bytes_count", [CALL_BYTES_MAX + 1, RECORD_BYTES_MAX])
def test_call_over_512_kib_is_too_large(bytes_count: int) -> None:
    assert refusals(padded(bytes_count)) == [
        (0, "too_large", f"call of {bytes_count} bytes, at most 524288")
    ]


def test_record_of_1_mib_holds_calls_of_half_of_it() -> None:
    largest = decode_call(padded(CALL_BYTES_MAX))
    fits = padded(CALL_BYTES_MAX - 20)

    batch = decode(b'{"batch":[%s,%s]}' % (fits, padded(CALL_BYTES_MAX + 1)))

    assert (largest.size, len(largest.traits or b"")) == (CALL_BYTES_MAX, CALL_BYTES_MAX - 45)
    assert [type(outcome) for outcome in batch] == [Call, Rejected]
    assert batch[1] == Rejected(
        batch[1].record,  # type: ignore[union-attr]
        1,
        "too_large",
        "batch[1]: call of 524289 bytes, at most 524288",
    )


def test_ten_thousand_traits_are_ten_thousand_values() -> None:
    traits = {f"key-{number}": number for number in range(10_000)}

    decoded = decode_call(identify(traits=json.dumps(traits).encode()))

    assert decoded.trait_values == {key: str(value).encode() for key, value in traits.items()}


def test_call_is_too_large_with_its_batchs_context() -> None:
    lent = b'{"a":"%s"}' % (b"x" * 100_000)
    small = CALL
    large = padded(CALL_BYTES_MAX - len(lent) + 1)

    outcomes = decode(b'{"context":%s,"batch":[%s,%s]}' % (lent, small, large))

    assert [type(outcome) for outcome in outcomes] == [Call, Rejected]
    assert outcomes[1] == Rejected(
        outcomes[1].record,  # type: ignore[union-attr]
        1,
        "too_large",
        "batch[1]: call of 524289 bytes with its batch's context, at most 524288",
    )


def test_context_lent_too_often_is_too_large() -> None:
    lent = b'{"a":"%s"}' % (b"x" * (400 * 1024))
    calls_count = 100
    fitting = 32 * 1024 * 1024 // len(lent)

    outcomes = decode(b'{"context":%s,"batch":[%s]}' % (lent, b",".join([CALL] * calls_count)))

    assert [type(outcome) for outcome in outcomes] == [Call] * fitting + [Rejected] * (
        calls_count - fitting
    )
    assert outcomes[-1] == Rejected(
        outcomes[-1].record,  # type: ignore[union-attr]
        99,
        "too_large",
        "batch[99]: the batch's context, lent to each call, is over 33554432 bytes by now",
    )


def test_bounds_are_the_rules() -> None:
    rules = DecodeRules(record_bytes_max=200, call_bytes_max=100, depth_max=2, id_chars_max=4)

    assert refusals(padded(201), rules)[0][1] == "too_large"
    assert refusals(padded(101), rules)[0][1] == "too_large"
    assert refusals(b'{"type":"identify","context":{"a":[]}}', rules)[0][1] == "too_deep"
    assert refusals(b'{"type":"identify","userId":"janet"}', rules)[0][1] == "id_too_long"


@pytest.mark.parametrize(
    ("context", "reason", "detail"),
    [
        (b"5", "invalid_field", "context: must be an object"),
        (b"[1]", "invalid_field", "context: must be an object"),
        (b'{"\\u0000":1}', "invalid_field", "context: a key holds a NUL character"),
        (b'{"a":[1e9999]}', "invalid_field", "context.a[0]: number beyond numeric"),
    ],
)
def test_batch_that_lends_a_bad_context_is_refused_whole(
    context: bytes, reason: str, detail: str
) -> None:
    assert refusals(b'{"context":%s,"batch":[%s,%s]}' % (context, CALL, CALL)) == [
        (0, reason, detail)
    ]


def test_many_bad_calls_of_a_batch_have_each_a_dead_letter() -> None:
    outcomes = refusals(b'{"batch":[%s{}]}' % (b"{}," * 9_999))

    assert outcomes == [
        (position, "unknown_type", f"batch[{position}].type: missing") for position in range(10_000)
    ]


# Whatever comes ---------------------------------------------------------------------------------

REJECT_REASONS = frozenset(get_args(RejectReason))
SKIP_REASONS = frozenset(get_args(SkipReason))
KINDS = frozenset(get_args(IdentityKind))


def refuse_constant(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def assert_storable_part(part: bytes | None) -> None:
    """An object in JSON's strictest sense, without a NUL in any key or value."""
    if part is None:
        return
    pairs: list[tuple[str, object]] = []

    def keep(members: list[tuple[str, object]]) -> dict[str, object]:
        pairs.extend(members)
        return dict(members)

    whole = json.loads(
        part, parse_constant=refuse_constant, parse_int=str, parse_float=str, object_pairs_hook=keep
    )
    assert isinstance(whole, dict)
    for key, value in pairs:
        assert "\x00" not in key
        key.encode()
        texts = value if isinstance(value, list) else [value]
        assert not any("\x00" in text for text in texts if isinstance(text, str))


def assert_storable_call(call: Call) -> None:
    """A call that Postgres will take."""
    assert call.identity.kind in KINDS
    ids = (call.identity.value, call.user_id, call.anonymous_id, call.previous_id, call.group_id)
    for text in (*ids, call.clock.message_id, *(contact.value for contact in call.claims)):
        if text is not None:
            assert 0 < len(text) <= 512
            assert "\x00" not in text
            text.encode()
    assert EARLIEST_US <= call.clock.at <= LATEST_US
    assert "\x00" not in (call.name or "")
    for part in (call.properties, call.context, call.traits):
        assert_storable_part(part)
    for key, raw in (call.trait_values or {}).items():
        assert_storable_part(b"{%s:%s}" % (json.dumps(key).encode(), raw))


def assert_outcomes(value: bytes) -> Sequence[Outcome]:
    """The same outcomes each time, each a value, of the fixed reasons, in order."""
    outcomes = decode(value)
    assert list(decode(value)) == list(outcomes)
    positions = []
    for outcome in outcomes:
        if isinstance(outcome, Skipped):
            assert outcome.reason in SKIP_REASONS
            continue
        positions.append(outcome.position)
        if isinstance(outcome, Rejected):
            assert outcome.reason in REJECT_REASONS - {"rejected_by_database"}
            assert outcome.detail
            outcome.detail.encode()
        else:
            assert_storable_call(outcome)
    assert positions == sorted(set(positions))
    return outcomes


@given(st.binary())
def test_no_bytes_raise(value: bytes) -> None:
    assert_outcomes(value)


ODD_TEXTS = st.sampled_from(
    ["", " ", "null", "0", "jane", "\x00", "a\x00", "\u200b", "\U0001f600", "x" * 513, "a@b",
     "1e9999", "\\u0000", "\\", '"', "+16502530000", "2026-10-05", "9999-12-31T23:59:59.999999Z"]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ODD_TEXTS
    | st.text(max_size=8)
)
KEYS = st.sampled_from(["email", "phone", "traits", "personas", "computation_key", "Windsor", "a"])
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | ODD_TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)

GOOD_CALLS: list[dict[str, Any]] = [
    {
        "type": "track", "event": "Email Opened", "userId": "jane", "anonymousId": "phone",
        "messageId": "m", "timestamp": "2026-10-05T00:00:00Z", "properties": {"email": "a@b"},
        "context": {"traits": {"phone": "+16502530000"}}, "integrations": {"All": True},
    },
    {
        "type": "identify", "userId": "jane", "messageId": "m", "receivedAt": 1791158400000,
        "sentAt": "2026-10-05T00:00:00Z", "originalTimestamp": 1791158400,
        "traits": {"email": "a@b", "vip": True, "nested": {"a": [1, {"b": None}]}},
        "context": {"personas": {"computation_class": "audience", "computation_key": "vip"}},
    },
    {"action": "Page", "user_id": "jane", "name": "Home", "properties": []},
    {"type": "group", "anonymousId": "phone", "groupId": 5, "traits": {"seats": 5}},
    {"type": "alias", "userId": "jane", "previousId": "old", "anonymousId": "phone"},
]  # fmt: skip
ENVELOPES: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda call: call,
    lambda call: {"httpPayload": call},
    lambda call: {
        "batch": [GOOD_CALLS[0], call, GOOD_CALLS[1]],
        "context": {"ip": "::1", "traits": {"email": "a@b"}},
        "integrations": {"Windsor": True}, "sentAt": "2026-10-05T00:00:00Z",
    },
]  # fmt: skip


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything within a value."""
    if isinstance(value, dict):
        steps = [(key, value[key]) for key in value]
    elif isinstance(value, list):
        steps = list(enumerate(value))
    else:
        return []
    found = []
    for step, inner in steps:
        found.append((*path, step))
        found.extend(places(inner, (*path, step)))
    return found


def at_place(record: dict[str, Any], path: Sequence[Any]) -> Any:  # noqa: ANN401 - any JSON
    """What is at a path of a record."""
    found: Any = record
    for step in path:
        found = found[step]
    return found


def drop(parent: Any, step: Any, _value: object) -> None:  # noqa: ANN401 - any JSON
    del parent[step]


def retype(parent: Any, step: Any, value: object) -> None:  # noqa: ANN401 - any JSON
    parent[step] = value


def double(parent: Any, step: Any, _value: object) -> None:  # noqa: ANN401 - any JSON
    """Say an element twice, or a field under another's name too."""
    if isinstance(parent, list):
        parent.insert(step, copy.deepcopy(parent[step]))
    else:
        for name in ("batch", "httpPayload", "userId", "traits", step.swapcase()):
            parent.setdefault(name, copy.deepcopy(parent[step]))


def rename(parent: Any, step: Any, value: object) -> None:  # noqa: ANN401 - any JSON
    if isinstance(parent, dict) and isinstance(value, str):
        parent[value] = parent.pop(step)


def nest(parent: Any, step: Any, _value: object) -> None:  # noqa: ANN401 - any JSON
    parent[step] = [{"a": parent[step]}]


def deepen(parent: Any, step: Any, _value: object) -> None:  # noqa: ANN401 - any JSON
    for _ in range(62):
        parent[step] = [parent[step]]


MUTATIONS = [drop, retype, double, rename, nest, deepen]


@st.composite
def mutated_records(draw: st.DrawFn) -> dict[str, Any]:
    """Good records of which a few things were dropped, retyped, doubled, renamed or nested."""
    call = copy.deepcopy(draw(st.sampled_from(GOOD_CALLS)))
    record: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(ENVELOPES))(call))
    for _ in range(draw(st.integers(1, 3))):
        paths = places(record)
        if paths:
            *above, step = draw(st.sampled_from(paths))
            mutate = draw(st.sampled_from(MUTATIONS))
            mutate(at_place(record, above), step, draw(JSON_VALUES))
    return record


@given(mutated_records())
def test_no_mutation_of_good_calls_raises(record: dict[str, Any]) -> None:
    assert_outcomes(json.dumps(record).encode())
    assert_outcomes(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode())


BEYOND_PYTHON = [b"1e999", b"-1e999", b"9" * 4_301, b"1e-9999", b"[1e999999]", b'{"a":1e131072}']


@given(mutated_records(), st.data())
def test_no_number_raises_in_any_place(record: dict[str, Any], data: st.DataObject) -> None:
    paths = places(record)
    if paths:
        *above, step = data.draw(st.sampled_from(paths))
        at_place(record, above)[step] = "<number>"
    number = data.draw(st.sampled_from(BEYOND_PYTHON))

    assert_outcomes(json.dumps(record).encode().replace(b'"<number>"', number))


INSERTIONS = st.sampled_from(
    [b'"', b"\\", b"{", b"[", b"}", b"]", b",", b":", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\u0000",
     b"\\ud83d", b"NaN", b"1e999", b"9" * 4_301, b"\n", b"-", b"0", b"null", b"\xef\xbb\xbf"]
) | st.binary(min_size=1, max_size=3)  # fmt: skip


@given(mutated_records(), st.data())
def test_no_damage_to_the_bytes_of_good_calls_raises(
    record: dict[str, Any], data: st.DataObject
) -> None:
    value = json.dumps(record).encode()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(value)))
        damage = data.draw(st.sampled_from(["truncate", "insert", "replace", "remove"]))
        if damage == "truncate":
            value = value[:at]
        else:
            inserted = b"" if damage == "remove" else data.draw(INSERTIONS)
            removed = 0 if damage == "insert" else len(inserted) or 1
            value = value[:at] + inserted + value[at + removed :]

    assert_outcomes(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"userId":1e999,"properties":NaN}', "malformed_json"),
        (b'{"userId":1e999,"type":"track"', "malformed_json"),
        (b'{"userId":1e999} x', "malformed_json"),
        (b'{"userId":1e999,"x":"\\ud800"}', "malformed_json"),
        (b'{"userId":1e999,"properties":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "too_deep"),
        (b"[1,", "malformed_json"),
        (b"[NaN]", "malformed_json"),
        (b"12x", "malformed_json"),
        (b'{"type":"group","userId":"u","groupId":' + b"1" * 4_301 + b"}", "id_too_long"),
    ],
)
def test_number_that_python_cannot_hold_hides_nothing_else(value: bytes, reason: str) -> None:
    (outcome,) = Decoder().decode(HandRecord(value=value))

    assert isinstance(outcome, Rejected)
    assert outcome.reason == reason


@pytest.mark.parametrize("kind", ["type", "action"])
def test_call_with_an_empty_batch_beside_its_fields_is_a_call(kind: str) -> None:
    value = json.dumps({kind: "page", "userId": "jane", "batch": []}).encode()
    (outcome,) = Decoder().decode(HandRecord(value=value))

    assert isinstance(outcome, Call)
    assert (outcome.type, outcome.user_id) == ("page", "jane")
