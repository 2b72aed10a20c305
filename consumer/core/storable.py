"""What JSON allows and Postgres does not, looked for by cheap scans of the bytes.

A call is scanned once (`check_call`), and each part that is stored for large exponents; only one
that may hold something that jsonb refuses takes the slow, exact path.

Source: docs/contract.md, "What is refused".
"""

import re
from typing import Final

import msgspec

from consumer.core.call import RefusedError

# Postgres stores 1e131071 in 22 bytes and reads it back as 131,072: no sender means it.
_EXPONENT_MAX: Final = 1_000
# The bounds of Postgres' numeric, before and after the point.
_WHOLE_DIGITS_MAX: Final = 131_072
_FRACTION_DIGITS_MAX: Final = 16_383
# A number of fewer digits is within the bounds, whatever its exponent.
_DIGITS_SAFE: Final = _FRACTION_DIGITS_MAX - _EXPONENT_MAX
_MANY_DIGITS: Final = b"0" * _DIGITS_SAFE
_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
# Digits and signs alike, so that one search finds what may be a large exponent.
_EXPONENTS_ALIKE: Final = bytes.maketrans(b"123456789+-E", b"00000000000e")
_EXPONENT: Final = b"e0000"
# Hexadecimal ids look like exponents too, but a number ends where its member does.
_LARGE_EXPONENT: Final = re.compile(rb"[eE][+-]?\d{4,}[\s,}\]]")

_STRING: Final = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_BRACKETS: Final = re.compile(_STRING + rb"|([\[{])|[\]}]", re.DOTALL)
_NUMBERS: Final = re.compile(_STRING + rb"|(-?\d[\d.eE+-]*)", re.DOTALL)
_KEYS: Final = re.compile(rb"(" + _STRING + rb")(\s*:)?", re.DOTALL)

_BACKSLASH: Final = ord("\\")
_QUOTE: Final = ord('"')
OBJECT: Final = ord("{")
ARRAY: Final = ord("[")
_NUL_ESCAPE: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE_PAIR: Final = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..")

_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def check_call(value: bytes, depth_max: int) -> bool:
    """Refuse a call that is nested too deep, and tell whether its parts need the exact check.

    Raises:
        RefusedError: It is deeper than `depth_max`.
    """
    check_depth(value, depth_max)
    # One byte is looked for far faster than two.
    return (_BACKSLASH in value and b"\\u" in value) or len(value) > _DIGITS_SAFE


def check_depth(value: bytes, depth_max: int, field: str = "", *, above: int = 0) -> None:
    """Refuse what is nested too deep.

    Args:
        value: JSON that parsed, or the parser's own limit has caught it.
        depth_max: Levels of objects and arrays.
        field: Where it is in the call.
        above: Levels around it.

    Raises:
        RefusedError: It is deeper.
    """
    # Most calls have fewer brackets than they may have levels.
    if above + value.count(b"{") + value.count(b"[") <= depth_max:
        return
    depth = above
    for token in _BRACKETS.finditer(value):
        if token.lastindex:
            depth += 1
            if depth > depth_max:
                raise RefusedError("too_deep", field, f"deeper than {depth_max} levels")
        elif value[token.start()] != _QUOTE:
            depth -= 1


def stored_object(raw: msgspec.Raw, field: str, *, suspicious: bool) -> bytes | None:
    """A part that is stored as it is: its own copy, safe for jsonb; None where absent."""
    if not raw:
        return None
    value = bytes(raw)
    if value[0] != OBJECT:
        # PHP has no empty object: it sends an empty array.
        if value == b"null" or (value[0] == ARRAY and not value[1:-1].strip()):
            return None
        raise RefusedError("invalid_field", field, "must be an object")
    if suspicious or _has_large_exponent(value):
        return _storable_json(value, field)
    return value


def _has_large_exponent(value: bytes) -> bool:
    alike = value.translate(_EXPONENTS_ALIKE)
    found = alike.find(_EXPONENT)
    while found >= 0:
        if _LARGE_EXPONENT.match(value, found):
            return True
        found = alike.find(_EXPONENT, found + 1)
    return False


def _storable_json(value: bytes, field: str) -> bytes:
    """Make an object safe for jsonb, or refuse it."""
    if b"\\u0000" in value:
        for token in _KEYS.finditer(value):
            if token.group(2) is not None and _NUL_ESCAPE.search(token.group(1)):
                raise RefusedError("invalid_field", field, "a key holds a NUL character")
        value = _NUL_ESCAPE.sub(rb"\1\\ufffd", value)
    if _LARGE_EXPONENT.search(value) or (
        len(value) > _DIGITS_SAFE and _MANY_DIGITS in value.translate(_DIGITS_AS_ZEROS)
    ):
        # Token by token, for a key that comes twice is stored once but read twice.
        for token in _NUMBERS.finditer(value):
            if token.lastindex and _is_beyond_numeric(token.group()):
                place = _place_of_number(value, field) or field
                raise RefusedError("invalid_field", place, "number beyond numeric")
    return value


def _is_beyond_numeric(number: bytes) -> bool:
    digits, _, exponent = number.lower().partition(b"e")
    exponent = exponent.lstrip(b"+-0")
    if len(exponent) > len(str(_EXPONENT_MAX)) or int(exponent or b"0") > _EXPONENT_MAX:
        return True
    whole, _, fraction = digits.lstrip(b"-").partition(b".")
    shift = int(exponent or b"0")
    return len(whole) + shift > _WHOLE_DIGITS_MAX or len(fraction) + shift > _FRACTION_DIGITS_MAX


def _place_of_number(value: bytes, place: str) -> str | None:
    """The path of the first number beyond numeric, None where a later key hides it."""
    if value[0] == OBJECT:
        members = [(f".{key}", bytes(raw)) for key, raw in _decode_object(value).items()]
    elif value[0] == ARRAY:
        members = [(f"[{index}]", bytes(raw)) for index, raw in enumerate(_decode_array(value))]
    else:
        is_number = value[:1] in b"-0123456789"
        return place if is_number and _is_beyond_numeric(value) else None
    return next(
        (found for step, raw in members if (found := _place_of_number(raw, place + step))), None
    )


def has_lone_surrogate(value: bytes) -> bool:
    """Tell whether JSON holds half of a surrogate pair: its grammar has it, but it is no text."""
    unescaped = value.replace(b"\\\\", b"")
    return _SURROGATE.search(_SURROGATE_PAIR.sub(b"", unescaped)) is not None


def may_hold(value: bytes, key: bytes) -> bool:
    """Tell by a scan whether an object may hold a key, be it spelled with escapes."""
    return key in value or (_BACKSLASH in value and b"\\u" in value)
