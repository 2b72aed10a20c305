"""What a worker does not give back, judged by samples of a long run. Pure."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

_SETTLED_SECONDS_MIN: Final = 1_500
_MB_AN_HOUR_MAX: Final = 1.0
_PASSING: Final = 3


class Sample(NamedTuple):
    """What a worker holds at a time."""

    hours: float
    rss_bytes: int
    held: dict[str, int]
    """Files, connections and tasks."""


class Growth(NamedTuple):
    """What the second half of a run shows."""

    facts: dict[str, float]
    broken: list[str]
    """What grew, in words."""


def growth(samples: Sequence[Sample]) -> Growth:
    """Judge by the second half: in the first one allocators and caches fill."""
    settled = samples[len(samples) // 2 :]
    memory = [(sample.hours, float(sample.rss_bytes)) for sample in settled]
    mb_an_hour = slope(memory) / 1e6
    facts = {"MB": max(rss for _, rss in memory) / 1e6, "MB an hour": mb_an_hour}
    broken = []
    is_long = (memory[-1][0] - memory[0][0]) * 3600 > _SETTLED_SECONDS_MIN
    # Of some minutes the slope says nothing.
    if is_long and mb_an_hour > _MB_AN_HOUR_MAX:
        broken.append(f"memory grows by more than {_MB_AN_HOUR_MAX:g} MB an hour")
    third = len(settled) // 3
    for name in settled[0].held:
        most = max(sample.held[name] for sample in settled[:third])
        least = min(sample.held[name] for sample in settled[-third:])
        facts[name] = least
        # A rebalance, or a request, has some for a while.
        if least > most + (0 if is_long else _PASSING):
            broken.append(f"{name} grew from at most {most} to at least {least}")
    return Growth(facts, broken)


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """The median slope between any two samples: units of the second by units of the first.

    A leak grows all the time. An allocator that once needed a larger piece has taken one step,
    which a line of least squares takes for growth wherever it is.

    Source: Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968.
    """
    return statistics.median(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in itertools.combinations(samples, 2)
        if later[0] > earlier[0]
    )
