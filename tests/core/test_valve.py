"""The safety valve closes when most of a topic is dead, and not before."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.valve import Valve, ValvePolicy

TEN = ValvePolicy(share_max=0.5, window_records=10)


def places(dead: list[bool]) -> list[int]:
    return [place for place, is_dead in enumerate(dead) if is_dead]


def test_five_hundred_dead_records_of_a_thousand_pass_and_one_more_does_not() -> None:
    valve = Valve(ValvePolicy())

    assert valve.admits("calls", 500, range(500))
    assert valve.share("calls") == 0.5
    assert not valve.admits("calls", 1, [0])
    assert valve.share("calls") == 0.501


def test_few_records_cannot_close_it_however_bad() -> None:
    valve = Valve(TEN)

    assert valve.admits("calls", 5, range(5))
    assert valve.share("calls") == 0.5


def test_dead_records_leave_the_window_behind_good_ones() -> None:
    valve = Valve(TEN)
    valve.admits("calls", 5, range(5))

    assert valve.admits("calls", 9, ())
    assert valve.share("calls") == 0.1
    assert valve.admits("calls", 1, ())
    assert valve.share("calls") == 0.0
    assert valve.admits("calls", 5, range(5))


def test_it_closes_within_a_run_that_ends_well() -> None:
    assert not Valve(TEN).admits("calls", 1_000, range(6))


def test_topics_are_counted_apart() -> None:
    valve = Valve(TEN)

    assert all(valve.admits("good", 100, ()) and valve.admits("bad", 1, [0]) for _ in range(5))
    assert valve.admits("good", 100, ())
    assert not valve.admits("bad", 1, [0])
    assert valve.share("good") == 0.0


def test_forgotten_topic_begins_anew() -> None:
    valve = Valve(TEN)
    valve.admits("left", 5, range(5))
    valve.admits("kept", 5, range(5))

    assert valve.keep({"kept", "new"}) == ["left"]
    assert (valve.share("left"), valve.share("kept")) == (0.0, 0.5)
    assert valve.admits("left", 5, range(5))
    assert not valve.admits("kept", 1, [0])


def test_share_of_one_never_closes_and_of_none_at_the_first() -> None:
    never, first = Valve(ValvePolicy(1.0, 10)), Valve(ValvePolicy(0.0, 10))

    assert never.admits("calls", 100, range(100))
    assert first.admits("calls", 100, ())
    assert not first.admits("calls", 1, [0])


@given(
    dead=st.lists(st.booleans(), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    share_max=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    window=st.integers(1, 12),
)
def test_it_closes_where_any_window_holds_too_many_whatever_the_chunks(
    dead: list[bool], cuts: list[int], share_max: float, window: int
) -> None:
    valve = Valve(ValvePolicy(share_max, window))
    bounds = sorted({0, len(dead), *(cut for cut in cuts if cut < len(dead))})
    for start, end in itertools.pairwise(bounds):
        closes = any(
            sum(dead[max(0, last + 1 - window) : last + 1]) > share_max * window
            for last in range(start, end)
        )
        assert valve.admits("calls", end - start, places(dead[start:end])) is not closes
        if closes:
            return
        assert valve.share("calls") == sum(dead[max(0, end - window) : end]) / window
