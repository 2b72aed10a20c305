"""Timestamps in all the shapes that senders use, as microseconds since the epoch.

Source: docs/identity.md, "The clock".
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

EARLIEST_US: Final = 946_684_800_000_000
"""2000-01-01T00:00:00Z: nothing was tracked before."""

# Postgres reads the last microsecond of the year 9999 as infinity.
LATEST_US: Final = 253_402_300_799_999_998

DAY_US: Final = 86_400_000_000
WEEK_US: Final = 7 * DAY_US
# 1970-01-05, the first Monday of the epoch.
_FIRST_MONDAY_US: Final = 4 * DAY_US
_DAY_MINUTES: Final = 24 * 60
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_from_iso: Final = datetime.fromisoformat
_SECONDS_BELOW: Final = 10**11
# Longer ones are as far from any plausible time, and dear to read.
_NUMBER_CHARS_MAX: Final = 24
# 2026-01-02T03:04:05Z, with milliseconds, +00:00, microseconds.
_COMMON_CHARS: Final = frozenset({20, 24, 25, 27})

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
        # The common shapes, by the interpreter's own parser: it takes a tenth of ours.
        if (
            len(value) in _COMMON_CHARS
            and value[4] == value[7] == "-"
            and value[10] in "T "
            and (value[-1] == "Z" or value[-3] == ":")
        ):
            try:
                return (_from_iso(value) - _EPOCH) // _MICROSECOND
            except (ValueError, TypeError):
                # No such moment, or no zone after all.
                return _parse_text(value.strip())
        return _parse_text(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A float's own text is what was sent; its digits are not.
    return _from_epoch(Decimal(value if isinstance(value, int) else repr(value)))


def clock_of(at: int | None, record_ms: int) -> tuple[int, bool]:
    """Choose between a call's own time and its record's.

    Args:
        at: The call's, in microseconds, None where it has none that can be read.
        record_ms: The Kafka record's timestamp in milliseconds, -1 for none.

    Returns:
        Microseconds, and whether an implausible time of the call was replaced.
    """
    if at is not None and EARLIEST_US <= at <= record_ms * 1000 + DAY_US and at <= LATEST_US:
        # Nearly every call's.
        return at, False
    record = min(max(record_ms * 1000, EARLIEST_US), LATEST_US)
    if at is None:
        return record, False
    # A record without a timestamp says nothing about its call's.
    latest = LATEST_US if record_ms < 0 else min(record + DAY_US, LATEST_US)
    if EARLIEST_US <= at <= latest:
        return at, False
    return record, True


def week_of(at: int) -> int:
    """The UTC week of a moment: Mondays since the first one of the epoch, 1970-01-05."""
    return (at - _FIRST_MONDAY_US) // WEEK_US


def week_start(week: int) -> int:
    """The first microsecond of a week."""
    return week * WEEK_US + _FIRST_MONDAY_US


def _parse_text(text: str) -> int | None:
    if _NUMBER.fullmatch(text):
        return _from_epoch(Decimal(text[:_NUMBER_CHARS_MAX]))
    return _parse_lenient(text)


def _parse_lenient(text: str) -> int | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    fraction = int(((part["fraction"] or "") + "000000")[:6])
    second = int(part["second"] or 0)
    leap = second == 60  # noqa: PLR2004 - a leap second is the next minute's first
    hour = int(part["hour"] or 0)
    # The end of a day, which is the next one's beginning.
    midnight = hour == 24 and not int(part["minute"] or 0) and not second  # noqa: PLR2004
    try:
        moment = datetime(
            int(part["year"]),
            int(part["month"] or 1),
            int(part["day"] or 1),
            0 if midnight else hour,
            int(part["minute"] or 0),
            59 if leap else second,
            fraction,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    offset = _zone_minutes(part["zone"])
    if abs(offset) >= _DAY_MINUTES:
        return None
    extra = (1_000_000 if leap else 0) + (DAY_US if midnight else 0)
    return _microseconds(moment) + extra - offset * 60_000_000


def _zone_minutes(zone: str | None) -> int:
    if zone is None or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    hours, minutes = (digits, "0") if len(digits) <= 2 else (digits[:-2], digits[-2:])  # noqa: PLR2004 - HH or HHMM
    return (int(hours) * 60 + int(minutes)) * (-1 if zone[0] == "-" else 1)


def _from_epoch(number: Decimal) -> int | None:
    if not number.is_finite():
        return None
    return int(number * (1_000_000 if abs(number) < _SECONDS_BELOW else 1_000))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
