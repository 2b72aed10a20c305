"""Timestamps in all the shapes that senders use, as microseconds since the epoch.

Source: the contract, section 1.2.
"""

import re
from datetime import UTC, datetime
from typing import Final

EARLIEST_US: Final = 946_684_800_000_000
"""2000-01-01T00:00:00Z: nothing was tracked before."""

# Postgres reads the last microsecond of the year 9999 as infinity.
LATEST_US: Final = 253_402_300_799_999_998

_DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_BELOW: Final = 10**11
_EPOCH_DIGITS_MIN: Final = 10

_ISO: Final = re.compile(
    r"(?P<year>\d{4})(?:-?(?P<month>\d{1,2})(?:-?(?P<day>\d{1,2}))?)?"
    r"(?:[T ]+(?P<hour>\d{1,2})(?::?(?P<minute>\d{1,2})(?::?(?P<second>\d{1,2})"
    r"(?:[.,](?P<fraction>\d+))?)?)?)?"
    r"\s*(?P<zone>[Zz]|UTC|GMT|[+-]\d{1,2}(?::?\d{2})?)?",
    re.ASCII,
)
_NUMBER: Final = re.compile(r"-?\d{10,}(?:\.\d*)?", re.ASCII)


def parse_timestamp(value: object) -> int | None:
    """Read a timestamp: ISO 8601, however incomplete, or epoch seconds or milliseconds.

    Args:
        value: What was decoded from JSON.

    Returns:
        Microseconds since the epoch, None where it cannot be read. Digits past
        microseconds are cut off; without a zone, UTC is meant.
    """
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _from_epoch(value)


def clock_of(at: int | None, record_ms: int) -> tuple[int, bool]:
    """Choose between a call's own time and its record's.

    Args:
        at: The call's, in microseconds, None where it has none that can be read.
        record_ms: The Kafka record's timestamp in milliseconds, -1 for none.

    Returns:
        Microseconds, and whether an implausible time of the call was replaced.
    """
    record = min(max(record_ms * 1000, EARLIEST_US), LATEST_US)
    if at is None:
        return record, False
    if at < EARLIEST_US or at > min(record + _DAY_US, LATEST_US):
        return record, True
    return at, False


def _parse_text(text: str) -> int | None:
    try:
        # The common shape, by the interpreter's own parser.
        moment = datetime.fromisoformat(text) if len(text) in {20, 24, 25, 27} else None
    except ValueError:
        moment = None
    if moment is None:
        text = text.strip()
        if _NUMBER.fullmatch(text):
            return _from_epoch(float(text) if "." in text else int(text[:20]))
        return _parse_lenient(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return _microseconds(moment)


def _parse_lenient(text: str) -> int | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    fraction = int(((part["fraction"] or "") + "000000")[:6])
    second = int(part["second"] or 0)
    leap = second == 60  # noqa: PLR2004 - a leap second is the next minute's first
    try:
        moment = datetime(
            int(part["year"]),
            int(part["month"] or 1),
            int(part["day"] or 1),
            int(part["hour"] or 0),
            int(part["minute"] or 0),
            59 if leap else second,
            fraction,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    offset = _zone_minutes(part["zone"])
    return _microseconds(moment) + (1_000_000 if leap else 0) - offset * 60_000_000


def _zone_minutes(zone: str | None) -> int:
    if zone is None or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    hours, minutes = (digits, "0") if len(digits) <= 2 else (digits[:-2], digits[-2:])  # noqa: PLR2004 - HH or HHMM
    return (int(hours) * 60 + int(minutes)) * (-1 if zone[0] == "-" else 1)


def _from_epoch(number: float) -> int | None:
    try:
        if isinstance(number, int):
            return number * (1_000_000 if abs(number) < _SECONDS_BELOW else 1_000)
        return int(number * (1_000_000 if abs(number) < _SECONDS_BELOW else 1_000))
    except (OverflowError, ValueError):
        return None


def _microseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
