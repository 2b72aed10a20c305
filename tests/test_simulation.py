"""A thousand stories of the pipeline, each from its seed; `make chaos` tells as many as fit."""

import asyncio
import time

import pytest

from tests.simulation import SimulatedLoop, simulate

SEEDS = 1_000


@pytest.mark.parametrize("tenth", range(10))
def test_no_story_breaks_an_invariant(tenth: int) -> None:
    for seed in range(tenth * SEEDS // 10, (tenth + 1) * SEEDS // 10):
        try:
            simulate(seed)
        except BaseExceptionGroup as group:
            pytest.fail(f"seed {seed}: {group.exceptions!r}")
        except Exception as error:  # noqa: BLE001 - whatever it is, its seed shows it again
            pytest.fail(f"seed {seed}: {error!r}")


def test_same_seed_is_the_same_story() -> None:
    assert simulate(7) == simulate(7)
    assert simulate(7) != simulate(8)


def test_time_passes_without_waiting() -> None:
    started = time.monotonic()
    loop = SimulatedLoop()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == pytest.approx(3600)
    assert time.monotonic() - started < 60
    loop.close()
