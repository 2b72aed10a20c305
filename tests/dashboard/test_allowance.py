"""How fast a source may send."""

from dashboard.allowance import Allowance


def test_a_seconds_worth_may_come_at_once_and_no_more() -> None:
    allowance = Allowance(100, now=5.0)

    assert [allowance.take(60, 5.0), allowance.take(40, 5.0)] == [0, 0]
    assert allowance.take(1, 5.0) == 0.01


def test_it_fills_with_time_up_to_a_seconds_worth() -> None:
    allowance = Allowance(100, now=0.0)
    allowance.take(100, 0.0)

    assert allowance.take(50, 0.25) == 0.25
    assert allowance.take(50, 0.5) == 0
    assert allowance.take(101, 100.0) == 0
    assert allowance.take(1, 100.0) == 0.02


def test_what_is_refused_costs_nothing() -> None:
    allowance = Allowance(100, now=0.0)
    allowance.take(50, 0.0)

    assert allowance.take(80, 0.0) == 0.3
    assert allowance.take(50, 0.0) == 0


def test_a_request_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_off() -> None:
    allowance = Allowance(100, now=0.0)

    assert allowance.take(250, 0.0) == 0
    assert allowance.take(1, 1.0) == 0.51
    assert allowance.take(1, 1.51) == 0
