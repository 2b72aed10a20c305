"""Policies are values: the same inputs, the same answer, on every worker."""

import pytest

from consumer.core.call import Identity
from consumer.core.policy import RetryPolicy, expired_before, lane_of
from tests.core.calls import call

DAY_US = 86_400_000_000
# 2026-10-07T12:00:00Z, a Wednesday.
WEDNESDAY_US = 1_791_374_400_000_000
MONDAY_US = 1_791_158_400_000_000


def test_one_identity_has_one_lane() -> None:
    lanes = {lane_of(call("track", at, user_id="jane"), 7) for at in range(50)}

    assert len(lanes) == 1


def test_lanes_are_stable_and_spread() -> None:
    assert [lane_of(call("track", 0, user_id=f"user-{n}"), 4) for n in range(8)] == [
        2, 0, 2, 0, 3, 1, 3, 1,
    ]  # fmt: skip


def test_lane_is_the_users_else_the_contacts_else_the_visitors() -> None:
    email = Identity("email", "jane@example.com")
    known = call("track", 0, user_id="jane")
    mailed = call("track", 0, anonymous_id="visitor-1", contact=email)
    visitor = call("track", 0, anonymous_id="visitor-1")
    other = call("track", 0, anonymous_id="visitor-2", contact=email)

    lanes = [lane_of(each, 1_000) for each in (known, mailed, visitor)]
    assert len(set(lanes)) == 3
    assert lane_of(other, 1_000) == lane_of(mailed, 1_000)
    assert lane_of(call("track", 0, user_id="jane", anonymous_id="v"), 1_000) == lane_of(
        known, 1_000
    )


@pytest.mark.parametrize(
    ("attempt", "jitter", "seconds"),
    [
        (1, 1.0, 0.1),
        (1, 0.0, 0.05),
        (2, 1.0, 0.2),
        (5, 1.0, 1.6),
        (9, 1.0, 5.0),
        (10_000, 0.0, 2.5),
    ],
)
def test_wait_doubles_up_to_its_bound(attempt: int, jitter: float, seconds: float) -> None:
    assert RetryPolicy().wait_seconds(attempt, jitter) == pytest.approx(seconds)


def test_nothing_expires_without_a_retention() -> None:
    assert expired_before(WEDNESDAY_US, None) is None


@pytest.mark.parametrize(
    ("days", "expected"), [(0, MONDAY_US), (2, MONDAY_US), (3, MONDAY_US - 7 * DAY_US)]
)
def test_retention_expires_whole_weeks(days: int, expected: int) -> None:
    assert expired_before(WEDNESDAY_US, days) == expected
