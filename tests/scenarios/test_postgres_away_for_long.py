"""Postgres is away for longer than a worker that does not poll may stay in its group."""

from tests.chaos.arena import ArenaOptions
from tests.chaos.scenario import Scenario
from tests.chaos.stories.postgres import postgres_away
from tests.scenarios.conftest import Played


async def test_workers_stay_members_and_their_memory_flat(played: Played) -> None:
    # Shortened alike: in production 300 s without a poll, and an outage of 15 minutes.
    options = ArenaOptions(
        settings={
            "kafka_poll_interval_seconds_max": "3",
            "pause_after_seconds": "1",
            "lane_calls_max": "500",
            "batch_calls_max": "200",
        }
    )
    outcome = await played(Scenario("away", postgres_away(9), 1, options))

    assert outcome.faultless, outcome
    assert outcome.facts["memory grown MB"] < 8
