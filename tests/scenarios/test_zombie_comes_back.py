"""A worker stands still until its group has given it up, and goes on where it was."""

from tests.chaos.stories import Scenario, zombie
from tests.scenarios.conftest import Played


async def test_its_late_writes_change_nothing_and_it_rejoins(played: Played) -> None:
    # The session is 6 s.
    outcome = await played(Scenario("SIGSTOP", zombie(9), 1))

    assert outcome.faultless, outcome
    assert "rewinds" not in outcome.facts
    assert outcome.facts["rejoined after"] < 30
