"""Partitions are added, a topic is new, one is made again: consumed without a restart."""

from tests.chaos.scenario import Scenario
from tests.chaos.stories.kafka import BY_PATTERN, topics_change
from tests.scenarios.conftest import Played


async def test_what_is_new_is_read_from_its_beginning(played: Played) -> None:
    outcome = await played(Scenario("topics", topics_change, 1, BY_PATTERN))

    assert outcome.faultless, outcome
    assert max(outcome.recovery_seconds) < 30
