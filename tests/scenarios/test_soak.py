"""Kills under half of what the group can do: nothing lost, and a spared worker leaks nothing."""

from tests.chaos.scenario import Scenario
from tests.chaos.stories.soak import SOAKED, soak
from tests.scenarios.conftest import Played


async def test_nothing_is_lost_and_what_a_worker_holds_does_not_grow(played: Played) -> None:
    options = SOAKED._replace(settings={"kafka_session_timeout_seconds": "3"})
    outcome = await played(Scenario("soak", soak(3, backlog_calls=5_000), 2, options))

    assert outcome.faultless, outcome
    assert outcome.calls > 5_000
    assert outcome.facts["calls a second"] > 100
    assert outcome.facts["tasks"] > 0
