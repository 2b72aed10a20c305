"""How fast a source may send: a bucket that fills steadily and is taken from. Pure."""


class Allowance:
    """What one source may still send now.

    A second's worth may come at once. A request that is larger than what is left is refused
    whole unless the bucket is full, so that no request is too large for ever.
    """

    def __init__(self, calls_per_second: float, now: float) -> None:
        """Start with a full bucket.

        Args:
            calls_per_second: How fast it fills; also what it holds.
            now: Seconds of a steady clock.
        """
        self.calls_per_second = calls_per_second
        self._left = calls_per_second
        self._at = now

    def take(self, calls: int, now: float) -> float:
        """Take from the bucket.

        Args:
            calls: How many.
            now: Seconds of the same clock.

        Returns:
            0 if they were there; else the seconds until they are, and nothing is taken.
        """
        full = self.calls_per_second
        self._left = min(full, self._left + (now - self._at) * full)
        self._at = now
        wanted = min(calls, full)
        if self._left < wanted:
            return (wanted - self._left) / full
        # Below zero after one that is larger than the bucket: it is paid off first.
        self._left -= calls
        return 0.0
