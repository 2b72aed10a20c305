"""A migration is applied while workers of the version before write: nothing is lost.

They go on; one that is started afterwards refuses to run, with one line.
"""

from tests.chaos.scenario import Scenario
from tests.chaos.stories.postgres import migrated
from tests.scenarios.conftest import Played


async def test_workers_that_run_go_on_and_no_other_starts(played: Played) -> None:
    outcome = await played(Scenario("migrations", migrated, 1))

    assert outcome.faultless, outcome
    assert outcome.facts["migrated after"] < 30
