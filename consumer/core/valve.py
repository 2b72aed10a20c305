"""The safety valve: a topic that is mostly dead letters is no topic of calls.

A few bad records are the world's, and are set aside. When most of what a topic delivers is
bad, somebody has named the wrong topic or broken a producer, and setting all of it aside would
hide that; so the worker stops.

A record is *dead* when it has a dead letter and no call that can be applied: a batch envelope
with good calls is not, however many bad ones it has beside them. What the database refuses
later is not counted; it is rare by design.

Records that were not delivered yet count as good, so a few bad ones at the start cannot stop
anything: with the defaults it takes 501 dead records among any 1,000 in a row.

Source: docs/operate.md, "The safety valve".
"""

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple


class ValvePolicy(NamedTuple):
    """How much of a topic may be dead."""

    share_max: float = 0.5
    """0 to 1, of the window; 1 never stops, 0 stops at the first."""
    window_records: int = 1_000


class _Window:
    """The dead ones among a topic's last records, by their number in order of delivery."""

    __slots__ = ("dead", "records")

    def __init__(self) -> None:
        self.records = 0
        self.dead: deque[int] = deque()

    def advance(self, records: int, window_records: int) -> None:
        """Move the window's end to so many records, and forget what it has left behind."""
        self.records = records
        while self.dead and self.dead[0] < records - window_records:
            self.dead.popleft()


class Valve:
    """Counts each topic's dead records, over all of its partitions that come by here.

    Only dead records are remembered, at most a window of them for each topic.
    """

    def __init__(self, policy: ValvePolicy) -> None:
        self._policy = policy
        self._windows: dict[str, _Window] = {}

    def admits(self, topic: str, records: int, dead: Sequence[int]) -> bool:
        """Count records that were delivered in a row; tell whether the topic may go on.

        Args:
            topic: Theirs.
            records: How many, dead or not.
            dead: Places of the dead ones, from 0, ascending.

        Returns:
            False as soon as the share is exceeded at any of the records.
        """
        share_max, window_records = self._policy
        window = self._windows.setdefault(topic, _Window())
        first = window.records
        for place in dead:
            window.advance(first + place + 1, window_records)
            window.dead.append(first + place)
            if len(window.dead) > share_max * window_records:
                return False
        window.advance(first + records, window_records)
        return True

    def share(self, topic: str) -> float:
        """Dead records in the topic's window, as a share of the whole window."""
        window = self._windows.get(topic)
        return 0.0 if window is None else len(window.dead) / self._policy.window_records

    def keep(self, topics: Collection[str]) -> list[str]:
        """Forget all other topics; tell which those were."""
        gone = [topic for topic in self._windows if topic not in topics]
        for topic in gone:
            del self._windows[topic]
        return gone
