"""What waits for the garbage collector is collected while nothing moves, not while calls flow."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from consumer.garbage import StillCollector, collect_rarely


class Cycle:
    """What a failed attempt leaves: unreachable, and not freed by itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _own_collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    collect_rarely()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def left_behind() -> "weakref.ref[Cycle]":
    return weakref.ref(Cycle())


def test_an_outage_is_collected_once_a_minute() -> None:
    collector, offsets = StillCollector(), {0: 7}
    collector.look(offsets, now=0.0)
    first = left_behind()
    collector.look(dict(offsets), now=59.0)
    assert first() is not None
    collector.look(dict(offsets), now=60.0)
    assert first() is None

    second = left_behind()
    collector.look(dict(offsets), now=119.0)
    assert second() is not None
    collector.look(dict(offsets), now=121.0)
    assert second() is None


def test_while_calls_flow_nothing_is_searched() -> None:
    collector = StillCollector()
    left = left_behind()

    for offset in range(10):
        collector.look({0: offset}, now=90.0 * offset)
    assert left() is not None
    collector.look({0: 9}, now=90.0 * 9 + 60)
    assert left() is None
