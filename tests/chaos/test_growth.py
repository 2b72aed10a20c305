"""A soak's judge sees what leaks, and takes no wobble for a leak."""

import pytest

from tests.chaos.growth import Sample, growth, slope

MINUTES = 120


def run(
    mb_an_hour: float = 0.0, leaks_an_hour: float = 0.0, minutes: int = MINUTES
) -> list[Sample]:
    """A sample a minute of a worker that fills up for a third, then wobbles, and leaks."""
    samples = []
    for minute in range(minutes):
        hours = minute / 60
        filling = min(minute, minutes / 3) * 1e6
        wobble = minute % 3
        rss = 100e6 + filling + wobble * 1e5 + mb_an_hour * hours * 1e6
        samples.append(Sample(hours, int(rss), {"tasks": 19 + wobble + int(leaks_an_hour * hours)}))
    return samples


def test_worker_that_gives_back_what_it_took_is_well() -> None:
    found = growth(run())

    assert found.broken == []
    assert found.facts["tasks"] == 19
    assert abs(found.facts["MB an hour"]) < 0.2


def test_memory_that_grows_after_the_warm_up_is_told() -> None:
    found = growth(run(mb_an_hour=2.0))

    assert found.broken == ["memory grows by more than 1 MB an hour"]
    assert found.facts["MB an hour"] == pytest.approx(2.0, abs=0.2)


def test_memory_that_grows_with_every_kill_is_told_and_one_step_is_none() -> None:
    def stepping(minutes: int) -> list[Sample]:
        return [
            sample._replace(rss_bytes=sample.rss_bytes + n // minutes * minutes * 50_000)
            for n, sample in enumerate(run())
        ]

    # 3 MB an hour, in steps.
    assert growth(stepping(5)).broken == ["memory grows by more than 1 MB an hour"]
    # And once, soon after what is judged begins.
    assert growth(stepping(5 * MINUTES // 8)).broken == []


def test_task_that_leaks_with_every_kill_is_told() -> None:
    assert growth(run(leaks_an_hour=60)).broken[0].startswith("tasks grew from at most ")


def test_of_a_short_run_the_slope_says_nothing_and_a_leak_all_the_same() -> None:
    assert growth(run(mb_an_hour=50.0, minutes=20)).broken == []
    assert len(growth(run(leaks_an_hour=600, minutes=20)).broken) == 1


def test_slope_is_that_of_the_line() -> None:
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)
