"""When the garbage collector runs: rarely while calls flow, and whenever nothing moves.

The calls in flight hold no cycles, and searching them for some took a tenth of the worker's time.
But each attempt to reach a server that is away leaves cycles (an exception and its frames), and
makes few objects else: an hour's outage would end long before the collector's turn comes.
"""

import gc
from typing import Final

_THRESHOLDS: Final = (500_000, 50, 100)
_STILL_SECONDS: Final = 60.0


def collect_rarely() -> None:
    """Set what holds while calls flow; what is loaded by now is never searched again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


class StillCollector:
    """Collects once a minute for as long as nothing moves: an outage, or no calls."""

    def __init__(self) -> None:
        self._progress: object = None
        self._due_at = 0.0

    def look(self, progress: object, now: float) -> None:
        """Collect if it is time to.

        Args:
            progress: Whatever changes when something is done: the committed offsets.
            now: Seconds of a clock that does not jump.
        """
        if progress != self._progress:
            self._progress = progress
        elif now < self._due_at:
            return
        else:
            gc.collect()
        self._due_at = now + _STILL_SECONDS
