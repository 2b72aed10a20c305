"""Moments as people say them: how long ago, on which day, and exactly when."""

from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_ZONES: Final = frozenset(available_timezones())


@lru_cache(maxsize=64)
def zone_named(name: str) -> tzinfo:
    """A zone by its name, UTC for one that there is not."""
    try:
        # Asked first: a name with slashes and dots is a path to the library.
        return ZoneInfo(name if name in _ZONES else "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def ago(at: datetime, now: datetime) -> str:
    """How long ago: `now`, `4m`, `3h`, then a date; years are told where they differ."""
    seconds = (now - at).total_seconds()
    if seconds < -_MINUTE:
        return exact(at)
    if seconds < _MINUTE:
        return "now"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)}m"
    if seconds < _DAY:
        return f"{int(seconds // _HOUR)}h"
    if seconds < 7 * _DAY:
        return f"{int(seconds // _DAY)}d"
    return date(at, now)


def date(at: datetime, now: datetime) -> str:
    """A day: `Oct 3`, or `Oct 3, 2024`."""
    year = "" if at.year == now.year else f", {at.year}"
    return f"{at:%b} {at.day}{year}"


def day(at: datetime, now: datetime) -> str:
    """A day as the heading of what happened on it."""
    if at.date() == now.date():
        return "Today"
    if at.date() == (now - timedelta(days=1)).date():
        return "Yesterday"
    year = "" if at.year == now.year else f" {at.year}"
    return f"{at:%A}, {at.day} {at:%B}{year}"


def exact(at: datetime) -> str:
    """To the second, with its zone."""
    return f"{at:%b} {at.day}, {at.year}, {at:%H:%M:%S} {at.tzname()}"
