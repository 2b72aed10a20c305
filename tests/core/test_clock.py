"""Timestamps in all the shapes that senders use, as microseconds since the epoch."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.clock import EARLIEST_US, LATEST_US, clock_of, parse_timestamp
from tests.core.calls import START_US

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(
    year: int, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0, second: int = 0
) -> int:
    """Microseconds of a moment in UTC."""
    moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-10-05T00:00:00Z", START_US),
        ("2026-10-05T00:00:00z", START_US),
        ("2026-10-05T00:00:00.000Z", START_US),
        ("2026-10-05T00:00:00.000000Z", START_US),
        ("2026-10-05T00:00:00+00:00", START_US),
        ("2026-10-05T00:00:00-00:00", START_US),
        ("2026-10-05T02:00:00+02:00", START_US),
        ("2026-10-05T02:00:00+0200", START_US),
        ("2026-10-05T02:00:00+02", START_US),
        ("2026-10-05T2:00:00+2", START_US),
        ("2026-10-04T18:30:00-05:30", START_US),
        ("2026-10-05T00:00:00 UTC", START_US),
        ("2026-10-05 00:00:00 GMT", START_US),
        ("2026-10-05 00:00:00 +0000", START_US),
        ("  2026-10-05T00:00:00Z\n", START_US),
    ],
)
def test_zone_may_be_written_in_any_way(text: str, expected: int) -> None:
    assert parse_timestamp(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-10-05T00:00:00", us(2026, 10, 5)),
        ("2026-10-05 00:00:00.250", us(2026, 10, 5) + 250_000),
        ("2026-10-05T03:04", us(2026, 10, 5, 3, 4)),
        ("2026-10-05T03", us(2026, 10, 5, 3)),
        ("2026-10-05", us(2026, 10, 5)),
        ("2026-10", us(2026, 10)),
        ("2026", us(2026)),
        ("2026-1-2T3:4:5", us(2026, 1, 2, 3, 4, 5)),
        ("2026-1-2", us(2026, 1, 2)),
        ("20261005", us(2026, 10, 5)),
        ("20261005T030405Z", us(2026, 10, 5, 3, 4, 5)),
        ("2026-10-05T00:00:00.1234567", us(2026, 10, 5) + 123_456),
    ],
)
def test_utc_is_meant_without_a_zone_and_parts_may_be_missing_or_unpadded(
    text: str, expected: int
) -> None:
    assert parse_timestamp(text) == expected


@pytest.mark.parametrize(
    ("fraction", "microseconds"),
    [
        (".5", 500_000),
        (",5", 500_000),
        (".123", 123_000),
        (".123456", 123_456),
        (".123456789", 123_456),
        (".999999999", 999_999),
    ],
)
def test_digits_past_microseconds_are_cut_off(fraction: str, microseconds: int) -> None:
    assert parse_timestamp(f"2026-10-05T00:00:00{fraction}Z") == START_US + microseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-10-04T23:59:60Z", START_US),
        ("2026-10-04T23:59:60.5Z", START_US + 500_000),
        ("2026-10-05T01:59:60+02:00", START_US),
        ("2026-10-04T24:00:00Z", START_US),
        ("2026-10-04T24:00", START_US),
        ("2026-10-04T24", START_US),
        ("9999-12-31T24:00:00Z", us(9999, 12, 31) + DAY_US),
        ("9999-12-31T23:59:59.999999Z", us(9999, 12, 31) + DAY_US - 1),
        ("1969-12-31T23:59:59Z", -SECOND_US),
        ("0001-01-01T00:00:00Z", us(1)),
        ("0001-01-01T00:00:00+23:59", us(1) - (23 * 60 + 59) * 60 * SECOND_US),
    ],
)
def test_leap_seconds_ends_of_days_and_of_time_are_moments(text: str, expected: int) -> None:
    assert parse_timestamp(text) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1_791_158_400, START_US),
        (1_791_158_400_000, START_US),
        (1_791_158_400.25, START_US + 250_000),
        (1_791_158_400_000.25, START_US + 250),
        ("1791158400", START_US),
        ("1791158400000", START_US),
        ("1791158400.25", START_US + 250_000),
        ("1791158400.", START_US),
        (" 1791158400 ", START_US),
        (99_999_999_999, 99_999_999_999 * SECOND_US),
        (100_000_000_000, 100_000_000_000 * 1_000),
        ("99999999999", 99_999_999_999 * SECOND_US),
        ("100000000000", 100_000_000_000 * 1_000),
        (0, 0),
        (5, 5 * SECOND_US),
        (-1, -SECOND_US),
        (-0.5, -500_000),
        ("-1791158400", -START_US),
        (1_791_158_400_000_000, START_US * 1_000),
        (10**30, 10**33),
        # To the digit, which a binary fraction is not.
        (2_209_287_744.775469, 2_209_287_744_775_469),
        ("2209287744.775469", 2_209_287_744_775_469),
        ("1791158400123.4567", 1_791_158_400_123_456),
    ],
)
def test_numbers_under_ten_to_the_eleventh_are_seconds_else_milliseconds(
    number: float | str, expected: int
) -> None:
    assert parse_timestamp(number) == expected


@pytest.mark.parametrize("digits", [24, 25, 5_000, 500_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_number_of_any_length_is_read_and_is_far_away(sign: str, digits: int) -> None:
    read = parse_timestamp(sign + "9" * digits)

    assert read is not None
    assert abs(read) > LATEST_US


@pytest.mark.parametrize(
    "unreadable",
    [
        "", " ", "yesterday", "now", "null", "Mon, 05 Oct 2026 00:00:00 GMT", "10/05/2026",
        "2026-13-01", "2026-02-30", "2026-00-01", "2026-10-00", "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z", "+10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z",
        "2026-10-05T25:00:00Z", "2026-10-05T24:00:01Z", "2026-10-05T24:01:00Z",
        "2026-10-05T00:60:00Z", "2026-10-05T00:00:61Z", "2026-10-05T00:00:00+24:00",
        "2026-10-05T00:00:00+99:99", "2026-10-05T00:00:00-24:00", "2026-10-05T00:00:00 CEST",
        "2026-10-05T00:00:00.Z", "2026-10-05T", "2026-10-05T00:00:00Zx", "26-10-05",
        "\u0662\u0660\u0662\u0666-10-05", "\uff12\uff10\uff12\uff16-10-05T00:00:00Z",
        "1", "12", "123456789", "1e10", "1791158400x",
        "-", "Infinity", "NaN",
        None, True, False, [], {}, [1_791_158_400], {"seconds": 1_791_158_400},
        math.inf, -math.inf, math.nan,
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_absent(unreadable: object) -> None:
    assert parse_timestamp(unreadable) is None


ZONES = st.builds(
    timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
        lambda offset: timedelta(minutes=offset // timedelta(minutes=1))
    ),
)  # fmt: skip


@given(
    st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
        max_value=datetime(9998, 12, 31),  # noqa: DTZ001 - likewise
        timezones=ZONES,
    ),
    st.sampled_from(["auto", "milliseconds", "seconds", "minutes"]),
    st.sampled_from("T "),
)
def test_what_python_writes_is_read_back(moment: datetime, timespec: str, separator: str) -> None:
    text = moment.isoformat(separator, timespec)

    assert (
        parse_timestamp(text)
        == (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)
    )  # fmt: skip


@given(st.text() | st.from_regex(r"[0-9TZ:+. -]{0,40}", fullmatch=True) | st.floats())
def test_no_text_or_number_raises(value: object) -> None:
    assert isinstance(parse_timestamp(value), int | None)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (None, (START_US, False)),
        (START_US - 1, (START_US - 1, False)),
        (START_US + DAY_US, (START_US + DAY_US, False)),
        (START_US + DAY_US + 1, (START_US, True)),
        (EARLIEST_US, (EARLIEST_US, False)),
        (EARLIEST_US - 1, (START_US, True)),
        (-(10**40), (START_US, True)),
        (10**40, (START_US, True)),
    ],
)
def test_implausible_clock_is_replaced_by_the_records(
    at: int | None, expected: tuple[int, bool]
) -> None:
    assert clock_of(at, START_US // 1_000) == expected


@pytest.mark.parametrize(
    ("record_ms", "at", "expected"),
    [
        (-1, None, (EARLIEST_US, False)),
        (-1, START_US, (START_US, False)),
        (-1, LATEST_US, (LATEST_US, False)),
        (-1, LATEST_US + 1, (EARLIEST_US, True)),
        (0, START_US, (EARLIEST_US, True)),
        (0, EARLIEST_US + DAY_US, (EARLIEST_US + DAY_US, False)),
        (2**62, None, (LATEST_US, False)),
        (2**62, LATEST_US, (LATEST_US, False)),
        (2**62, LATEST_US + 1, (LATEST_US, True)),
        (-(2**62), None, (EARLIEST_US, False)),
    ],
)
def test_clock_can_be_stored_whatever_the_record_says(
    record_ms: int, at: int | None, expected: tuple[int, bool]
) -> None:
    assert clock_of(at, record_ms) == expected


def test_bounds_are_the_year_2000_and_what_postgres_still_tells_from_infinity() -> None:
    assert us(2000) == EARLIEST_US
    assert us(9999, 12, 31) + DAY_US - 2 == LATEST_US
