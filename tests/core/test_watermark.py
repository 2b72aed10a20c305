"""The watermark never passes an unwritten record, whatever the order of completion."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from consumer.core.watermark import OffsetTracker, Span


def test_watermark_stays_below_unfinished_span() -> None:
    tracker = OffsetTracker()
    first = tracker.start(10, 13, shares=1)
    second = tracker.start(13, 20, shares=1)

    assert tracker.finish(second) is False
    assert tracker.watermark is None
    assert tracker.finish(first) is True
    assert tracker.watermark == 20
    assert tracker.spans_in_flight == 0


def test_span_is_finished_by_its_last_share() -> None:
    tracker = OffsetTracker()
    span = tracker.start(0, 5, shares=2)

    assert (tracker.finish(span), tracker.watermark) == (False, None)
    assert (tracker.finish(span), tracker.watermark) == (True, 5)


def test_span_with_nothing_to_write_moves_the_watermark_at_once() -> None:
    tracker = OffsetTracker()
    tracker.start(7, 9, shares=0)

    assert tracker.watermark == 9


@pytest.mark.parametrize(("first", "after"), [(4, 8), (5, 8), (9, 9), (9, 3)])
def test_sought_back_or_empty_span_is_refused(first: int, after: int) -> None:
    tracker = OffsetTracker()
    tracker.start(0, 6, shares=1)

    with pytest.raises(ValueError, match="new assignment needs a new tracker"):
        tracker.start(first, after, shares=1)


def test_share_finished_twice_is_refused() -> None:
    tracker = OffsetTracker()
    span = tracker.start(0, 1, shares=1)
    tracker.finish(span)

    with pytest.raises(ValueError, match="finished twice"):
        tracker.finish(span)


def test_abandoned_spans_are_marked_for_the_lanes() -> None:
    tracker = OffsetTracker()
    done = tracker.start(0, 1, shares=1)
    waiting = tracker.start(1, 2, shares=1)
    tracker.finish(done)

    tracker.abandon()

    assert (done.abandoned, waiting.abandoned) == (False, True)


class AssignedPartition(RuleBasedStateMachine):
    """One partition through deliveries with gaps, completions in any order, re-assignments."""

    shares = Bundle("shares")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.position = 0
        self.committed = 0
        self.unwritten: dict[Span, list[int]] = {}
        self.left: dict[Span, int] = {}

    @rule(
        target=shares,
        gap=st.integers(0, 3),
        offsets=st.lists(st.integers(1, 3), min_size=1, max_size=4),
        shares=st.integers(1, 3),
    )
    def deliver(self, gap: int, offsets: list[int], shares: int) -> tuple[OffsetTracker, Span]:
        first = self.position + gap
        delivered = [first]
        for step in offsets:
            delivered.append(delivered[-1] + step)
        span = self.tracker.start(first, delivered[-1] + 1, shares)
        self.position = delivered[-1] + 1
        self.unwritten[span] = delivered
        self.left[span] = shares
        return self.tracker, span

    @rule(target=shares, share=consumes(shares))
    def finish(self, share: tuple[OffsetTracker, Span]) -> tuple[OffsetTracker, Span]:
        tracker, span = share
        if self.left.get(span, 0) > 0:
            tracker.finish(span)
            self.left[span] -= 1
            if self.left[span] == 0 and tracker is self.tracker:
                del self.unwritten[span]
        return share

    @rule()
    def commit(self) -> None:
        if self.tracker.watermark is not None:
            assert self.tracker.watermark >= self.committed
            self.committed = self.tracker.watermark

    @rule()
    def revoke_and_assign_again(self) -> None:
        """The next owner starts from the committed offset, with a tracker of its own."""
        self.tracker.abandon()
        self.tracker = OffsetTracker()
        self.position = self.committed
        self.unwritten.clear()

    @invariant()
    def watermark_is_below_every_unwritten_record(self) -> None:
        unwritten = [offset for delivered in self.unwritten.values() for offset in delivered]
        if self.tracker.watermark is not None and unwritten:
            assert self.tracker.watermark <= min(unwritten)

    @invariant()
    def nothing_in_flight_means_everything_may_be_committed(self) -> None:
        if self.tracker.spans_in_flight == 0 and self.tracker.watermark is not None:
            assert self.tracker.watermark == self.position


TestAssignedPartition = AssignedPartition.TestCase
