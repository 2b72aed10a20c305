"""Derive what is safe to commit from what is still being written.

A partition's records are delivered in *spans*: runs of consecutive records that one poll
brought. A span is spread over lanes, which finish their shares in any order. The
*watermark* is the next offset after the longest run of finished spans from the oldest on:
everything below it is written, so it may be committed, and nothing else may.

Offsets may have gaps (compaction, transaction markers), so only delivered offsets are
tracked, and the watermark is the next offset after the last record of a span, never an
offset that was not delivered plus a guess.

Source: KafkaConsumer javadoc, "Offsets and Consumer Position".
"""

from collections import deque


class Span:
    """A run of delivered records, written in shares by several lanes."""

    __slots__ = ("abandoned", "next_offset", "shares_left")

    def __init__(self, next_offset: int, shares: int) -> None:
        self.next_offset = next_offset
        self.shares_left = shares
        self.abandoned = False
        """Its partition was taken away before it was written: lanes may drop it."""


class OffsetTracker:
    """The watermark of one partition, for as long as it is assigned to us."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque()
        self._last_offset = -1
        self._watermark: int | None = None

    @property
    def watermark(self) -> int | None:
        """The next offset to commit, None while nothing was finished."""
        return self._watermark

    @property
    def spans_in_flight(self) -> int:
        """How many spans are not finished, or wait behind one that is not."""
        return len(self._spans)

    def start(self, first_offset: int, next_offset: int, shares: int) -> Span:
        """Take a span in flight.

        Args:
            first_offset: Offset of its first record; greater than every earlier one.
            next_offset: Offset after its last record.
            shares: How many times `finish` will be called for it; 0 if nothing in it is
                to be written.

        Raises:
            ValueError: The consumer was sought back without a new tracker.
        """
        if first_offset <= self._last_offset or next_offset <= first_offset:
            raise ValueError(
                f"offset {first_offset} was delivered after {self._last_offset}:"
                " a new assignment needs a new tracker"
            )
        self._last_offset = next_offset - 1
        span = Span(next_offset, shares)
        self._spans.append(span)
        self._advance()
        return span

    def finish(self, span: Span) -> bool:
        """One share of a span is written; tell whether the watermark moved.

        Raises:
            ValueError: More shares were finished than the span has.
        """
        if span.shares_left <= 0:
            raise ValueError("a share was finished twice")
        span.shares_left -= 1
        return span.shares_left == 0 and self._advance()

    def abandon(self) -> None:
        """Give up what is not finished; it will be delivered to the next owner."""
        for span in self._spans:
            span.abandoned = True

    def _advance(self) -> bool:
        moved = False
        while self._spans and self._spans[0].shares_left == 0:
            self._watermark = self._spans.popleft().next_offset
            moved = True
        return moved
