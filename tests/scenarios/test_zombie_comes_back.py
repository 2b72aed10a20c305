"""A worker stands still until its group has given it up, and goes on where it was."""

from tests.chaos.arena import ArenaOptions
from tests.chaos.scenario import Scenario
from tests.chaos.stories.workers import zombie
from tests.scenarios.conftest import Played


async def test_its_late_writes_change_nothing_and_it_rejoins(played: Played) -> None:
    options = ArenaOptions(settings={"kafka_session_timeout_seconds": "3"})
    outcome = await played(Scenario("SIGSTOP", zombie(5), 1, options))

    assert outcome.faultless, outcome
    assert "rewinds" not in outcome.facts
    assert outcome.facts["rejoined after"] < 30
