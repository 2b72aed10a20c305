"""Connections are closed, reset, swallowed, slow and late, on both sides of the worker at once."""

from tests.chaos.scenario import Scenario
from tests.chaos.stories.network import network_fails
from tests.scenarios.conftest import Played


async def test_workers_recover_from_each(played: Played) -> None:
    # `make chaos` has the sides one by one.
    outcome = await played(Scenario("network", network_fails(("kafka", "postgres"), 2, 5), 1))

    assert outcome.faultless, outcome
    assert set(outcome.facts) - {"rewinds"} == {
        "closed", "reset", "black hole", "slow (1 KB/s)", "latency 500 ms",
    }  # fmt: skip
    assert max(outcome.recovery_seconds) < 30
