"""Hostile inputs and the outcome of each: one table, held against the decoder and the worker.

A row is a record's value and what becomes of it, call by call. `jane` names a person whose
name may be swapped for another of four letters, so that rows do not meet in one database.
"""

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from consumer.core.call import AudienceSync, Identity, Skipped
from consumer.core.clock import LATEST_US
from tests.core.calls import START_US
from tests.core.outcomes import Refused

RECORD_BYTES_MAX = 1024 * 1024
CALL_BYTES_MAX = 512 * 1024
LENT_BYTES_MAX = 32 * 1024 * 1024

Expected = Refused | Skipped | Mapping[str, Any]


class Hostile(NamedTuple):
    """One record's value, and what becomes of each of its calls.

    A call that is kept is given by those of its fields that matter.
    """

    name: str
    value: bytes | None
    outcomes: tuple[Expected, ...]


def said(type_: bytes = b"identify", **fields: bytes) -> bytes:
    """A call of Jane's, each field as raw JSON: so a field is said twice, retyped or broken."""
    written = {"type": b'"%s"' % type_, "userId": b'"jane"', **fields}
    return b"{%s}" % b",".join(b'"%s":%s' % (key.encode(), raw) for key, raw in written.items())


def batch(*calls: bytes, **fields: bytes) -> bytes:
    """A batch of calls, and what it lends them."""
    written = {**fields, "batch": b"[%s]" % b",".join(calls)}
    return b"{%s}" % b",".join(b'"%s":%s' % (key.encode(), raw) for key, raw in written.items())


def nested(levels: int) -> bytes:
    """An object of so many levels."""
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


def nested_arrays(levels: int) -> bytes:
    """An object of so many levels, arrays but for the first."""
    return b'{"a":%s%s}' % (b"[" * (levels - 1), b"]" * (levels - 1))


def padded(bytes_count: int) -> bytes:
    """A call of so many bytes."""
    start = said(traits=b'{"a":"')[:-1]
    return start + b"x" * (bytes_count - len(start) - 3) + b'"}}'


def incompressible(count: int, seed: int = 0) -> str:
    """Characters of four bytes each that an index cannot make smaller."""
    rng = random.Random(seed)
    return "".join(chr(rng.randrange(0x10000, 0x110000)) for _ in range(count))


def text(value: str) -> bytes:
    """A text as JSON, without escapes."""
    return json.dumps(value, ensure_ascii=False).encode()


CALL = said()
KEPT: Mapping[str, Any] = {"user_id": "jane"}
PARTS = ("properties", "context", "traits")


def _short(raw: bytes) -> str:
    """A name for a value: its ends, and its size where there is more."""
    text = ascii(raw)[2:-1]
    return text if len(text) <= 40 else f"{text[:20]}...{text[-10:]} of {len(raw)}"


# No JSON ----------------------------------------------------------------------------------------

TRUNCATED = "Input data was truncated"
INVALID = "JSON is malformed: invalid character (byte 0)"
NO_KEY = "JSON is malformed: object keys must be strings (byte 1)"

NO_JSON = {
    "empty": (b"", TRUNCATED),
    "blank": (b" \n", TRUNCATED),
    "truncated": (CALL[:-1], TRUNCATED),
    "truncated text": (b'"x', TRUNCATED),
    "two calls": (CALL + b" {}", "JSON is malformed: trailing characters (byte 37)"),
    "BOM": (b"\xef\xbb\xbf" + CALL, INVALID),
    "UTF-16 with BOM": (CALL.decode().encode("utf-16"), "invalid UTF-8 (byte 0)"),
    "UTF-16": (CALL.decode().encode("utf-16-le"), NO_KEY),
    "Avro of a schema registry": (b"\x00\x00\x00\x00\x01\x08jane\x02", INVALID),
    "Avro file": (b"Obj\x01\x04\x14avro.codec\x08null", INVALID),
    "gzip": (b"\x1f\x8b\x08\x00", "invalid UTF-8 (byte 1)"),
    "NaN": (b"NaN", INVALID),
    "single quotes": (b"{'type':'identify'}", NO_KEY),
    "trailing comma": (
        b'{"type":"identify",}', "JSON is malformed: trailing comma in object (byte 19)",
    ),
    "XML": (b"<call/>", INVALID),
}  # fmt: skip

BROKEN = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "undefined": b"undefined",
    "leading zero": b"01",
    "no fraction": b"1.",
    "no integer": b".5",
    "plus": b"+1",
    "no exponent": b"1e",
    "hexadecimal": b"0x1",
    "single quotes": b"'x'",
    "invalid UTF-8": b'"\xff"',
    "NUL in overlong UTF-8": b'"\xc0\x80"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "cut within a character": b'"\xf0\x9f\x98"',
    "raw NUL": b'"\x00"',
    "control character": b'"\x01"',
    "raw newline": b'"\n"',
    "unknown escape": b'"\\x41"',
    "escape of no digits": b'"\\u00zz"',
    "short escape": b'"\\u00"',
    "first half of a surrogate pair": b'"\\ud83d"',
    "second half of a surrogate pair": b'"\\ude00"',
    "surrogate pair in the wrong order": b'"\\ude00\\ud83d"',
    "a half before a surrogate pair": b'"\\ud83d\\ud83d\\ude00"',
    "a half before a letter": b'"\\ud83d\\u0041"',
    "a half before digits": b'"\\ud83d12345678"',
    "half of a surrogate pair in a key": b'{"\\ud83d":1}',
    "number as key": b"{1:2}",
    "trailing comma": b"[1,]",
}


BROKEN_DETAILS = {
    ("invalid UTF-8", "an id"): "invalid UTF-8 (byte 29)",
    ("invalid UTF-8", "a trait"): "invalid UTF-8 (byte 50)",
    ("NaN", "a trait"): "JSON is malformed: invalid character (byte 49)",
    ("raw NUL", "a trait"): "JSON is malformed: invalid character (byte 50)",
    ("second half of a surrogate pair", "a trait"): "a lone surrogate in a text",
}


def _broken_in_places(raw: bytes) -> dict[str, bytes]:
    return {
        "an id": said(userId=raw),
        "a field of another call": said(name=raw),
        "a time": said(timestamp=raw),
        "a trait": said(traits=b'{"a":%s}' % raw),
        "deep in a part": said(context=b'{"a":[{"b":%s}]}' % raw),
        "an unknown field": said(unknown=raw),
        "deep in an unknown field": said(unknown=b"[%s]" % raw),
        "a call of a batch": batch(said(userId=raw)),
        "a payload": b'{"httpPayload":%s}' % said(traits=raw),
        "a lent context": batch(CALL, context=b'{"a":%s}' % raw),
    }


def _no_json() -> Iterator[Hostile]:
    for name, (value, detail) in NO_JSON.items():
        yield Hostile(f"no JSON: {name}", value, (Refused("malformed_json", detail),))
    for name, raw in BROKEN.items():
        for place, value in _broken_in_places(raw).items():
            refused = Refused("malformed_json", BROKEN_DETAILS.get((name, place)))
            yield Hostile(f"broken: {name} as {place}", value, (refused,))


# No call ----------------------------------------------------------------------------------------

NO_OBJECT = [
    b"null", b"true", b"0", b"-1.5e3", b'"identify"', b"[]", b"[[]]", b"[%s]" % CALL, b"1e999",
]  # fmt: skip

NO_CALL = {
    b'{"batch":5}': "batch: must be an array of calls",
    b'{"batch":"x"}': "batch: must be an array of calls",
    b'{"batch":{"type":"identify"}}': "batch: must be an array of calls",
    b'{"batch":[{"batch":[]}]}': "batch[0]: an envelope within an envelope",
    b'{"batch":[{"httpPayload":{}}]}': "batch[0]: an envelope within an envelope",
    b'{"batch":[[%s]]}' % CALL: "batch[0]: must be a JSON object",
    b'{"batch":[1e999]}': "batch[0]: must be a JSON object",
    b'{"httpPayload":{"httpPayload":%s}}' % CALL: "an envelope within an envelope",
}

NO_TYPE = {
    b"{}": "type: missing",
    b'{"userId":"jane"}': "type: missing",
    b'{"TYPE":"identify"}': "type: missing",
    b'{"httpPayload":{}}': "type: missing",
    b'{"httpPayload":[%s]}' % CALL: "type: missing",
    b'{"type":""}': "type: '' is none of Segment's calls",
    b'{"type":"","action":"identify"}': "type: '' is none of Segment's calls",
    b'{"type":"log\\u0000in"}': "type: 'log\\x00in' is none of Segment's calls",
    b'{"type":"%s"}' % (b"x" * 99): f"type: '{'x' * 64}' is none of Segment's calls",
    b'{"type":"\\u0131dentify"}': "type: '\u0131dentify' is none of Segment's calls",
    b'{"type":1}': "type: must be a string",
    b'{"type":true}': "type: must be a string",
    b'{"type":["identify"]}': "type: must be a string",
    b'{"type":{"a":1e999}}': "type: must be a string",
    b'{"action":1e999}': "type: must be a string",
}

# A number that Python cannot hold hides nothing else that is wrong.
BEHIND_A_NUMBER = {
    b'{"userId":1e999,"properties":NaN}': "malformed_json",
    b'{"userId":1e999,"type":"track"': "malformed_json",
    b'{"userId":1e999} x': "malformed_json",
    b'{"userId":1e999,"x":"\\ud800"}': "malformed_json",
    b'{"userId":1e999,"properties":' + b"[" * 20_000 + b"]" * 20_000 + b"}": "too_deep",
    b"[1,": "malformed_json",
    b"[NaN]": "malformed_json",
    b"12x": "malformed_json",
    b'{"type":"group","userId":"u","groupId":' + b"1" * 4_301 + b"}": "id_too_long",
}


def _no_call() -> Iterator[Hostile]:
    yield Hostile("tombstone", None, (Skipped("tombstone"),))
    yield Hostile("empty batch", b'{"batch":[]}', ())
    for value in NO_OBJECT:
        refused = Refused("not_a_call", "must be a JSON object")
        yield Hostile(f"no object: {_short(value)}", value, (refused,))
    for value, detail in NO_CALL.items():
        yield Hostile(f"no call: {_short(value)}", value, (Refused("not_a_call", detail),))
    for value, detail in NO_TYPE.items():
        yield Hostile(f"no type: {_short(value)}", value, (Refused("unknown_type", detail),))
    for value, reason in BEHIND_A_NUMBER.items():
        yield Hostile(f"behind a number: {_short(value)}", value, (Refused(reason),))
    for kind in (b"type", b"action"):
        value = b'{"%s":"page","userId":"jane","batch":[]}' % kind
        yield Hostile(f"{kind.decode()} beside an empty batch", value, ({**KEPT, "type": "page"},))
    yield Hostile(
        "good and bad calls in one batch",
        batch(CALL, b"5", said(userId=b"1.5"), said(b"page"), b"{}", batch(CALL), said(b"group")),
        (
            {**KEPT, "type": "identify", "position": 0},
            Refused("not_a_call", "batch[1]: must be a JSON object", 1),
            Refused("invalid_field", "batch[2].userId: a fraction, must be a string or integer", 2),
            {**KEPT, "type": "page", "position": 3},
            Refused("unknown_type", "batch[4].type: missing", 4),
            Refused("not_a_call", "batch[5]: an envelope within an envelope", 5),
            Refused("missing_field", "batch[6].groupId: missing", 6),
        ),
    )
    bad = [
        Refused("unknown_type", f"batch[{place}].type: missing", place) for place in range(2_000)
    ]
    yield Hostile("many bad calls in one batch", batch(*[b"{}"] * 2_000), tuple(bad))


# Fields -----------------------------------------------------------------------------------------

ID_WORDS = {
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
TOO_LONG_WORDS = {
    b'"%s"' % (b"a" * 513): "513 characters, at most 512",
    b'"%s"' % ("\U0001f600" * 513).encode(): "513 characters, at most 512",
    b"1" * 513: "longer than 512 characters",
    b"9" * 4_000: "longer than 512 characters",
    b"9" * 5_000: "longer than 512 characters",
}
ID_FIELDS = {
    "userId": b"identify",
    "anonymousId": b"identify",
    "messageId": b"identify",
    "previousId": b"alias",
    "groupId": b"group",
}
ODD_IDS = {
    "512 letters": (b'"%s"' % (b"a" * 512), "a" * 512),
    "512 letters and blanks": (b'"  b%s\\n"' % (b"a" * 511), "b" + "a" * 511),
    "512 emoji": (b'"%s"' % ("\U0001f600" * 512).encode(), "\U0001f600" * 512),
    "512 incompressible": (text(incompressible(512)), incompressible(512)),
    "emoji by escapes": (b'"\\ud83d\\ude00"', "\U0001f600"),
    "512 digits": (b"1" * 512, "1" * 512),
    "beyond 64 bits": (b"18446744073709551616", "18446744073709551616"),
    "below 64 bits": (b"-9223372036854775809", "-9223372036854775809"),
    "right-to-left mark": ('"\u202ejane"'.encode(), "\u202ejane"),
    "zero-width space": ('"\u200b"'.encode(), "\u200b"),
    "BOM": ('"\ufeffjane"'.encode(), "\ufeffjane"),
    "not normalised": ('"e\u0301"'.encode(), "e\u0301"),
    "newlines around": (b'"\\njane\\r\\n"', "jane"),
    "newline within": (b'"ja\\nne"', "ja\nne"),
    "no NUL but its escape's text": (b'"\\\\u0000"', "\\u0000"),
    "SQL": (b'"\'; drop table users; --"', "'; drop table users; --"),
    "prototype": (b'"__proto__"', "__proto__"),
}
NO_IDS = [b'""', b'"  \\n"', '"\u3000"'.encode(), b"null"]
JUNK_IDS = [b'"null"', b'"Undefined"', b"0", b"-1", b'"00-00"', b'"[object Object]"', b'" NaN "']

NAMES = {b"track": "event", b"page": "name", b"screen": "name"}
NO_NAMES = [b"true", b"1", b"1.5", b"1e999", b"[]", b'["x"]', b"{}"]
NO_PARTS = [b"true", b"0", b"1e999", b'""', b'"text"', b"[1]", b"[[]]", b"[{}]"]
EMPTY_PARTS = [b"null", b"[]", b"[ ]"]


def _ids() -> Iterator[Hostile]:
    for field, type_ in ID_FIELDS.items():
        for raw, words in ID_WORDS.items():
            refused = Refused("invalid_field", f"{field}: {words}")
            yield Hostile(f"{field} of {_short(raw)}", said(type_, **{field: raw}), (refused,))
        for raw, words in TOO_LONG_WORDS.items():
            refused = Refused("id_too_long", f"{field}: {words}")
            yield Hostile(f"{field} of {_short(raw)}", said(type_, **{field: raw}), (refused,))
    for name, (raw, id_) in ODD_IDS.items():
        kept = {"user_id": id_, "identity": Identity("user", id_)}
        yield Hostile(f"id of {name}", said(b"track", event=b'"E"', userId=raw), (kept,))
        visitor = {**KEPT, "anonymous_id": id_}
        yield Hostile(f"visitor of {name}", said(b"page", anonymousId=raw), (visitor,))
        group = {**KEPT, "group_id": id_}
        yield Hostile(f"group of {name}", said(b"group", groupId=raw), (group,))
        alias = {**KEPT, "previous_id": id_}
        yield Hostile(f"previous of {name}", said(b"alias", previousId=raw), (alias,))
    for raw in NO_IDS:
        refused = Refused("missing_id", "neither userId nor anonymousId, and no email or phone")
        yield Hostile(f"no id: {_short(raw)}", said(userId=raw), (refused,))
    for raw in JUNK_IDS:
        shown = str(json.loads(raw)).strip()
        refused = Refused("blocked_id", f"userId: {shown!r} names nobody")
        yield Hostile(f"junk id: {_short(raw)}", said(userId=raw), (refused,))
        refused = Refused("blocked_id", f"previousId: {shown!r} names nobody")
        yield Hostile(f"junk alias: {_short(raw)}", said(b"alias", previousId=raw), (refused,))


def _fields() -> Iterator[Hostile]:
    for type_, field in NAMES.items():
        for raw in NO_NAMES:
            refused = Refused("invalid_field", f"{field}: must be a string")
            name = f"{type_.decode()} {field} of {_short(raw)}"
            yield Hostile(name, said(type_, **{field: raw}), (refused,))
    for field in PARTS:
        for raw in NO_PARTS:
            refused = Refused("invalid_field", f"{field}: must be an object")
            yield Hostile(f"{field} of {_short(raw)}", said(**{field: raw}), (refused,))
        for raw in EMPTY_PARTS:
            yield Hostile(
                f"{field} of {_short(raw)}", said(**{field: raw}), ({**KEPT, field: None},)
            )
    value = said(b"track", event=b'"Email\\u0000Opened"')
    yield Hostile("NUL in an event", value, ({"name": "Email\ufffdOpened"},))
    yield Hostile("NUL as a name", said(b"page", name=b'"\\u0000"'), ({"name": "\ufffd"},))
    long = "e" * 300_000
    yield Hostile("a long event", said(b"track", event=text(long)), ({**KEPT, "name": long},))
    value = b'{"type":"track","type":"identify","userId":"a","userId":"jane"}'
    yield Hostile("last of the same field", value, ({**KEPT, "type": "identify"},))
    missing = Refused("missing_id", "neither userId nor anonymousId, and no email or phone")
    yield Hostile("fields told by case", said(userId=b"null", USERID=b'"joe"'), (missing,))
    for raw in (b'{"a":"\\u0000\\ud83d\\ude00"}', b'{"z\\u0000":1}', b'"\\u0000"', b"[1e131072]"):
        yield Hostile(f"unknown field of {_short(raw)}", said(unknown=raw), (KEPT,))
    yield Hostile("a number as an unknown field", said(unknown=b"1e999999"), (KEPT,))
    raw = b'{"a":[1e999]}'
    others = said(event=raw, name=raw, groupId=raw, previousId=raw, traits=b'{"a":1}')
    kept = {**KEPT, "name": None, "group_id": None, "traits": b'{"a":1}'}
    yield Hostile("fields that an identify does not have", others, (kept,))


# Times ------------------------------------------------------------------------------------------

NO_TIMES = [
    b"true", b"[]", b"{}", b'""', b'"\\u0000"', b"1e999", b"-1e999", b'{"a":1e999}',
    b'"0000-01-01T00:00:00Z"', b'"10000-01-01T00:00:00Z"', b'"2026-02-30"', b'"yesterday"',
    b'"2026-10-05T25:00:00Z"', b'"2026-10-05T00:00:00+99:99"',
]  # fmt: skip
IMPLAUSIBLE_TIMES = [
    b'"1969-12-31T23:59:59Z"', b'"0001-01-01T00:00:00Z"', b'"0001-01-01T00:00:00+23:59"', b"0",
    b"-1", b"1791158400000000", b"1e300", b'"9999-12-31T23:59:59.999999Z"',
    b'"9999-12-31T23:59:60Z"', b'"2126-10-05"', b'"99999999999"', b"9" * 4_000, b"9" * 5_000,
    b'"%s"' % (b"9" * 5_000),
]  # fmt: skip
_SECOND_US = 1_000_000
READ_TIMES = {
    b"1791158399": -_SECOND_US,
    b"1791158399000": -_SECOND_US,
    b"1791158399999.999": -1,
    b'"1791158399"': -_SECOND_US,
    b'"2026-10-04T23:59:59"': -_SECOND_US,
    b'"2026-10-04T23:59:60Z"': 0,
    b'"2026-10-04T24:00:00Z"': 0,
    b'"2026-10-5"': 0,
    b'"2026-10-04T23:59:59.9999999999Z"': -1,
    b'"2026-10-05T01:59:59+02:00"': -_SECOND_US,
}
WILD_SENT = [b"1e300", b"-1e300", b"9" * 4_000, b'"0001-01-01"']
RECEIVED = {
    b'"1969-12-31T23:59:59Z"': -_SECOND_US,
    b'"0001-01-01T00:00:00Z"': -62_135_596_800_000_000,
    b'"0001-01-01T00:00:00+01:00"': START_US,
    b'"9999-12-31T23:59:59.999998Z"': LATEST_US,
    b'"9999-12-31T23:59:59.999999Z"': START_US,
    b"1" + b"0" * 30: START_US,
    b'"junk"': START_US,
}


def _times() -> Iterator[Hostile]:
    def event(**fields: bytes) -> bytes:
        return said(b"screen", **fields)

    for field in ("timestamp", "originalTimestamp", "sentAt", "receivedAt"):
        for raw in NO_TIMES:
            kept = {"at": START_US, "received_at": START_US, "timestamp_replaced": False}
            yield Hostile(f"{field} of {_short(raw)}", event(**{field: raw}), (kept,))
    for raw in IMPLAUSIBLE_TIMES:
        kept = {"at": START_US, "timestamp_replaced": True}
        yield Hostile(f"implausible time {_short(raw)}", event(timestamp=raw), (kept,))
    for raw, shift in READ_TIMES.items():
        kept = {"at": START_US + shift, "timestamp_replaced": False}
        yield Hostile(f"time {_short(raw)}", event(timestamp=raw), (kept,))
    for raw in WILD_SENT:
        times = {"receivedAt": b'"2026-10-05T00:00:10Z"', "originalTimestamp": b'"2026-10-05"'}
        kept = {"at": START_US, "timestamp_replaced": True}
        yield Hostile(f"sent at {_short(raw)}", event(**times, sentAt=raw), (kept,))
    for raw, received_at in RECEIVED.items():
        value = event(receivedAt=raw, timestamp=b'"2026-10-05"')
        yield Hostile(f"received at {_short(raw)}", value, ({"received_at": received_at},))


# What JSON allows and Postgres does not ---------------------------------------------------------

NUL_VALUES = {
    b'{"a":"x\\u0000y"}': b'{"a":"x\\ufffdy"}',
    b'{"a":["\\u0000",{"b":"\\u0000\\u0000"}]}': b'{"a":["\\ufffd",{"b":"\\ufffd\\ufffd"}]}',
    b'{"a":"\\\\u0000"}': b'{"a":"\\\\u0000"}',
    b'{"a":"\\\\\\u0000"}': b'{"a":"\\\\\\ufffd"}',
    b'{"\\\\u0000":"\\u0000"}': b'{"\\\\u0000":"\\ufffd"}',
    b'{"a":"\\":\\u0000"}': b'{"a":"\\":\\ufffd"}',
}
NUL_KEYS = [b'{"\\u0000":1}', b'{"a":{"b\\u0000c" : 1}}', b'{"a":[[{"b":"\\\\","\\\\\\u0000":1}]]}']
NO_NUMERICS = {
    b'{"a":1e999999}': ".a",
    b'{"a":-1E+999999}': ".a",
    b'{"a":1e131071}': ".a",
    b'{"a":1e-131071}': ".a",
    b'{"a":1e1001}': ".a",
    b'{"a":1e000001001}': ".a",
    b'{"a":1e99999999999999999999}': ".a",
    b'{"a":[0,{"b":[1e9999 ]}]}': ".a[1].b[0]",
    b'{"a":"1e9999","b":1e9999}': ".b",
    b'{"a":1e9999,"a":1}': "",
    b'{"a":%s}' % (b"9" * 131_073): ".a",
    b'{"a":-%s}' % (b"9" * 131_073): ".a",
    b'{"a":%se5}' % (b"9" * 131_070): ".a",
    b'{"a":0.%s}' % (b"1" * 16_384): ".a",
    b'{"a":0.%se-9}' % (b"1" * 16_380): ".a",
}
KEPT_AS_SENT = [
    b'{"a":1180591620717411303424}',
    b'{"a":1e1000,"b":1E-1000}',
    b'{"a":"12e99999","b":"1e9999,"}',
    b'{"12e99999":1}',
    b'{"a":%s}' % (b"9" * 5_000),
    b'{"a":%s}' % (b"9" * 131_072),
    b'{"a":-%s}' % (b"9" * 131_072),
    b'{"a":0.%s}' % (b"1" * 16_383),
    b'{"a":"%s"}' % (b"9" * 200_000),
    b'{"a":1,"a":2}',
    b'{"a":1,"A":2}',
    b'{"__proto__":{"isAdmin":true},"constructor":1}',
    b'{"":1," ":2}',
    '{"\u202e\u200b\U0001f600":"\ufeff\uffff"}'.encode(),
    b'{"a":"\\ud83d\\ude00\\\\ud83d"}',
    b'{"%s":1}' % (b"k" * 300_000),
    b'{"a":"%s","b":"\\"[{","[[":"\\\\"}' % (b"[{" * 100_000),
    b'{"a":[%s[]]}' % (b"[{}]," * 1_000),
    b'{"a":%s,"b":[%s]}' % (nested(62), nested(61)),
    nested(63),
    nested_arrays(63),
    json.dumps({f"key-{number}": number for number in range(10_000)}).encode(),
]
TRAIT_VALUES = {
    b'{"a":1,"a":null}': {"a": b"null"},
    b'{"a":1, "A":2}': {"a": b"1", "A": b"2"},
    b'{"\\u0061":1,"a":2}': {"a": b"2"},
    b'{"__proto__":{"a":1}}': {"__proto__": b'{"a":1}'},
    b'{"":1}': {"": b"1"},
    b'{"a": "\\u0000" }': {"a": b'"\\ufffd"'},
}


def part_of_a_call(field: str, raw: bytes) -> bytes:
    """A call with a part, of a type whose view shows that part."""
    return (
        said(**{field: raw}) if field == "traits" else said(b"track", event=b'"E"', **{field: raw})
    )


def _parts() -> Iterator[Hostile]:
    page = said(b"page")
    for field in PARTS:
        for sent, kept in [*NUL_VALUES.items(), *zip(KEPT_AS_SENT, KEPT_AS_SENT, strict=True)]:
            name = f"{field} of {_short(sent)}"
            yield Hostile(name, part_of_a_call(field, sent), ({**KEPT, field: kept},))
        for raw in NUL_KEYS:
            refused = Refused("invalid_field", f"{field}: a key holds a NUL character")
            yield Hostile(f"{field} of {_short(raw)}", said(**{field: raw}), (refused,))
        for raw, place in NO_NUMERICS.items():
            refused = Refused("invalid_field", f"{field}{place}: number beyond numeric")
            yield Hostile(f"{field} of {_short(raw)}", said(**{field: raw}), (refused,))
    for sent, kept in [*NUL_VALUES.items(), (nested(63), nested(63))]:
        lent = batch(page, context=sent)
        yield Hostile(f"lent {_short(sent)}", lent, ({**KEPT, "context": kept},))
    lent_refused = [
        *((raw, "invalid_field", "context: must be an object") for raw in (b"5", b"[1]")),
        *((raw, "invalid_field", "context: a key holds a NUL character") for raw in NUL_KEYS),
        *(
            (raw, "invalid_field", f"context{place}: number beyond numeric")
            for raw, place in NO_NUMERICS.items()
        ),
        (nested(64), "too_deep", "context: deeper than 64 levels"),
    ]
    for raw, reason, detail in lent_refused:
        # A batch that lends a bad context is refused whole.
        lent = batch(page, said(b"screen"), context=raw)
        yield Hostile(f"lent {_short(raw)}", lent, (Refused(reason, detail),))
    for raw, values in TRAIT_VALUES.items():
        kept = raw.replace(b"0000", b"fffd")
        value = said(traits=raw)
        expected = {**KEPT, "traits": kept, "trait_values": values}
        yield Hostile(f"trait values of {_short(raw)}", value, (expected,))
    yield from _indexed()
    digits = b"9" * 5_000
    yield Hostile(
        "contacts of numbers that Python cannot hold",
        said(traits=b'{"email":1e999,"phone":%s}' % digits),
        ({**KEPT, "claims": (), "trait_values": {"email": b"1e999", "phone": digits}},),
    )
    personas = b'{"personas":{"computation_key":1e999,"computation_class":%s}}' % digits
    yield Hostile(
        "an audience of numbers that Python cannot hold",
        said(traits=b'{"vip":true}', context=personas),
        ({**KEPT, "audience": AudienceSync("vip", None)},),
    )


def _indexed() -> Iterator[Hostile]:
    """The longest of whatever becomes a key of an index."""
    message_id, key, email = incompressible(512, 1), incompressible(512, 2), incompressible(510, 3)
    yield Hostile(
        "longest message id of an alias",
        said(b"alias", previousId=text(incompressible(512, 4)), messageId=text(message_id)),
        ({**KEPT, "message_id": message_id},),
    )
    for name, audience in ((key, AudienceSync(key, "audience")), (key + "k", None)):
        value = said(
            traits=b"{%s:true}" % text(name),
            context=b'{"personas":{"computation_class":"audience"}}',
        )
        yield Hostile(f"audience of {len(name)}", value, ({**KEPT, "audience": audience},))
    for local, claims in ((email, (Identity("email", f"{email}@b"),)), (email + "e", ())):
        value = said(traits=b'{"email":%s}' % text(f"{local}@b"))
        yield Hostile(f"email of {len(local) + 2}", value, ({**KEPT, "claims": claims},))


# Too deep, too large ----------------------------------------------------------------------------


def _words_at(levels: int) -> str:
    """What is said of so many levels; where the parser gives up is the interpreter's affair."""
    try:
        msgspec.json.decode(nested(levels), type=msgspec.Raw)
    except RecursionError:
        return "deeper than the parser goes"
    return "deeper than 64 levels"


DEPTH_WORDS = {
    64: "deeper than 64 levels",
    65: "deeper than 64 levels",
    # Python 3.11's parser does not go so far, 3.13's does.
    1_000: _words_at(1_000),
    20_000: "deeper than the parser goes",
}


def _bounds() -> Iterator[Hostile]:
    for nest in (nested, nested_arrays):
        for field in (*PARTS, "unknown", "userId", "event"):
            for levels, words in DEPTH_WORDS.items():
                name = f"{nest.__name__} {field} of {levels} levels"
                value = said(**{field: nest(levels)})
                yield Hostile(name, value, (Refused("too_deep", words),))
        # A batch's own levels are not its calls'.
        for field in PARTS:
            raw = nest(63)
            value = batch(part_of_a_call(field, raw))
            yield Hostile(
                f"batch of a deep {nest.__name__} {field}", value, ({**KEPT, field: raw},)
            )
    siblings = b'{"a":%s,"b":[%s]}' % (nested(62), nested(62))
    refused = Refused("too_deep", "deeper than 64 levels")
    yield Hostile("a deep sibling", said(traits=siblings), (refused,))
    for size in (RECORD_BYTES_MAX + 1, 10 * RECORD_BYTES_MAX):
        refused = Refused("too_large", f"record of {size} bytes, at most 1048576")
        yield Hostile(f"call of {size} bytes", padded(size), (refused,))
        yield Hostile(f"no JSON of {size} bytes", b"\xff" * size, (refused,))
    for size in (CALL_BYTES_MAX + 1, RECORD_BYTES_MAX):
        refused = Refused("too_large", f"call of {size} bytes, at most 524288")
        yield Hostile(f"call of {size} bytes", padded(size), (refused,))
    yield Hostile("largest call", padded(CALL_BYTES_MAX), ({**KEPT, "size": CALL_BYTES_MAX},))
    yield Hostile(
        "largest record",
        batch(padded(CALL_BYTES_MAX - 20), padded(CALL_BYTES_MAX + 1)),
        (
            {**KEPT, "size": CALL_BYTES_MAX - 20},
            Refused("too_large", "batch[1]: call of 524289 bytes, at most 524288", 1),
        ),
    )
    lent = b'{"a":"%s"}' % (b"x" * 100_000)
    words = "batch[1]: call of 524289 bytes with its batch's context, at most 524288"
    yield Hostile(
        "too large with its batch's context",
        batch(CALL, padded(CALL_BYTES_MAX - len(lent) + 1), context=lent),
        (KEPT, Refused("too_large", words, 1)),
    )
    lent = b'{"a":"%s"}' % (b"x" * (400 * 1024))
    fitting = LENT_BYTES_MAX // len(lent)
    words = f"the batch's context, lent to each call, is over {LENT_BYTES_MAX} bytes by now"
    pages = [said(b"page", name=b'"%d"' % number) for number in range(fitting + 3)]
    over = [Refused("too_large", f"batch[{n}]: {words}", n) for n in range(fitting, fitting + 3)]
    yield Hostile(
        "a context lent too often", batch(*pages, context=lent), (*[KEPT] * fitting, *over)
    )


HOSTILE: list[Hostile] = [
    *_no_json(), *_no_call(), *_ids(), *_fields(), *_times(), *_parts(), *_bounds(),
]  # fmt: skip

# Records that would parse together when joined, or that hold a joint themselves; each stands
# for itself, whoever its neighbours are.
NEIGHBOURHOODS: dict[str, list[tuple[bytes | None, tuple[Expected, ...]]]] = {
    "values with a comma between": [
        (b'{"a":1},{"b":2}', (Refused("malformed_json"),)),
        (CALL, (KEPT,)),
        (CALL + b"," + CALL, (Refused("malformed_json"),)),
    ],
    "an array cut in two": [
        (b'{"z":[1', (Refused("malformed_json"),)),
        (b"2]}", (Refused("malformed_json"),)),
        (said(b"page"), ({**KEPT, "type": "page"},)),
    ],
    "a call cut in two": [
        (CALL[:20], (Refused("malformed_json"),)),
        (CALL[20:], (Refused("malformed_json"),)),
        (said(b"screen"), ({**KEPT, "type": "screen"},)),
    ],
    "a text that is opened and one that is closed": [
        (said(traits=b'{"a":"')[:-1], (Refused("malformed_json"),)),
        (b'"}}', (Refused("malformed_json"),)),
    ],
    "as many values, one record with two and one with none": [
        (CALL + b"\n" + CALL, (Refused("malformed_json"),)),
        (b"", (Refused("malformed_json"),)),
        (b" ", (Refused("malformed_json"),)),
    ],
    "two objects, a newline between": [
        (b"{}\n{}", (Refused("malformed_json"),)),
        (b"{}", (Refused("unknown_type", "type: missing"),)),
    ],
    "newlines where JSON allows them": [
        (b'{"type":\n"page",\r\n"userId":"jane"\n}\n', ({**KEPT, "type": "page"},)),
        (b"\n\n" + said(b"screen") + b"\n", ({**KEPT, "type": "screen"},)),
    ],
    "brackets closed that were never opened": [
        (CALL + b"]", (Refused("malformed_json"),)),
        (b"[" + CALL, (Refused("malformed_json"),)),
        (b"]", (Refused("malformed_json"),)),
        (b"," + CALL, (Refused("malformed_json"),)),
        (CALL + b",", (Refused("malformed_json"),)),
    ],
    "nulls and tombstones": [
        (b"null", (Refused("not_a_call", "must be a JSON object"),)),
        (None, (Skipped("tombstone"),)),
        (CALL, (KEPT,)),
    ],
    "a comment": [
        (CALL + b"/*", (Refused("malformed_json"),)),
        (b"*/" + CALL, (Refused("malformed_json"),)),
    ],
    "half a character at the end, and at the beginning": [
        (said(name=b'"\xf0\x9f')[:-1], (Refused("malformed_json"),)),
        (b'\x98\x80"}', (Refused("malformed_json"),)),
    ],
    "one too deep for the parser": [
        (CALL, (KEPT,)),
        (b"[" * 20_000, (Refused("too_deep", "deeper than the parser goes"),)),
        (b"]" * 20_000, (Refused("malformed_json"),)),
        (said(b"page"), ({**KEPT, "type": "page"},)),
    ],
    "a number that Python cannot hold": [
        (CALL, (KEPT,)),
        (said(userId=b"1e999"), (Refused("invalid_field"),)),
        (said(b"page"), ({**KEPT, "type": "page"},)),
    ],
    "arrays of calls": [
        (b"[%s,%s]" % (CALL, CALL), (Refused("not_a_call", "must be a JSON object"),)),
        (CALL, (KEPT,)),
    ],
}  # fmt: skip
