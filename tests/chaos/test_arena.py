"""What the arena counts where it keeps no calls."""

import pytest

from tests.chaos.arena import tallied


@pytest.mark.parametrize(
    ("sent", "stored", "distinct", "lost_and_doubled"),
    [
        (10, 10, 10, (0, 0)),
        (10, 9, 9, (1, 0)),
        (10, 12, 10, (0, 2)),
        (10, 11, 11, (0, 1)),
        # One is missing, another is there twice.
        (10, 10, 9, (1, 1)),
    ],
)
def test_what_is_missing_does_not_make_up_for_what_is_too_much(
    sent: int, stored: int, distinct: int, lost_and_doubled: tuple[int, int]
) -> None:
    assert tallied(sent, stored, distinct) == lost_and_doubled


def test_call_that_became_a_dead_letter_is_lost_and_doubled() -> None:
    calls, letters = tallied(100, 99, 99), tallied(5, 6, 6)

    assert (calls, letters) == ((1, 0), (0, 1))
