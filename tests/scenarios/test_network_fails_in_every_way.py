"""Connections are closed, reset, swallowed, slow and late, on either side of the worker."""

import pytest

from tests.chaos.stories import Scenario, network_fails
from tests.scenarios.conftest import Played


@pytest.mark.parametrize("side", ["postgres", "kafka"])
async def test_workers_recover_from_each(played: Played, side: str) -> None:
    outcome = await played(Scenario(f"network to {side}", network_fails(side, 3), 1))

    assert outcome.faultless, outcome
    assert set(outcome.facts) - {"rewinds"} == {
        "closed", "reset", "black hole", "slow (1 KB/s)", "latency 500 ms",
    }  # fmt: skip
    assert max(outcome.recovery_seconds) < 30
