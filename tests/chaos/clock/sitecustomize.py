"""Makes the clock of a Python process jump by hours, there and back, every few seconds.

A worker started with this folder on its PYTHONPATH lives on such a machine: `time.time` jumps,
`time.monotonic` does not, as when an operator or NTP sets the clock.
"""

import sys
import time

_JUMPS_SECONDS = (0.0, 7_200.0, -86_400.0, 0.0, 31_536_000.0, -3_600.0)
_real = time.time


def _jumping() -> float:
    return _real() + _JUMPS_SECONDS[int(time.monotonic() / 2) % len(_JUMPS_SECONDS)]


time.time = _jumping
print("the clock jumps", file=sys.stderr, flush=True)
