"""Policies: frozen values, apart from state, with the clock passed in."""

import zlib
from typing import NamedTuple

from consumer.core.call import Call
from consumer.core.clock import DAY_US, week_of, week_start


def lane_of(call: Call, lanes: int) -> int:
    """Choose the lane of a call: one identity's calls share one, on every worker.

    CRC-32, since `hash` differs from process to process.
    """
    value = call.user_id or (call.contact.value if call.contact else call.anonymous_id) or ""
    return zlib.crc32(value.encode()) % lanes


class BatchLimits(NamedTuple):
    """What one transaction holds at most; whichever bound is met first."""

    calls_max: int = 5_000
    bytes_max: int = 8 * 1024 * 1024


class RetryPolicy(NamedTuple):
    """Exponential backoff, without an end: an outage is waited for."""

    initial_seconds: float = 0.1
    factor: float = 2.0
    seconds_max: float = 5.0

    def wait_seconds(self, attempt: int, jitter: float) -> float:
        """How long to wait before attempt number `attempt` (the first retry is 1).

        Args:
            attempt: Counted from 1.
            jitter: 0 to 1, drawn by the caller; spreads workers over half of the wait.
        """
        # The exponent is capped first: a float overflows after a thousand failures.
        wait = min(self.initial_seconds * self.factor ** min(attempt - 1, 30), self.seconds_max)
        return wait * (0.5 + 0.5 * jitter)


def expired_before(now_us: int, retention_days: int | None) -> int | None:
    """The clock before which track, page and screen calls are not stored any more.

    Whole weeks, since the retention drops weekly partitions: what was dropped must not come
    back, and what is kept must stay deliverable.
    """
    if retention_days is None:
        return None
    return week_start(week_of(now_us - retention_days * DAY_US))
