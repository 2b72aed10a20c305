"""The machine's clock jumps by hours and back: nothing but log lines and ages depends on it."""

from tests.chaos.scenario import Scenario
from tests.chaos.stories.workers import JUMPING, clock_jumps
from tests.scenarios.conftest import Played


async def test_workers_go_on_as_if_nothing_had_happened(played: Played) -> None:
    # For as long as each of its jumps takes.
    outcome = await played(Scenario("clock", clock_jumps, 7, JUMPING))

    assert outcome.faultless, outcome
    assert max(outcome.recovery_seconds) < 30
