"""Servers that a scenario may break; what it broke is whole again when it ends."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.arena import SHORT_TIMERS, Outcome
from tests.chaos.play import play
from tests.chaos.scenario import Scenario
from tests.chaos.servers import Servers, breakable_servers

Played = Callable[[Scenario], Awaitable[Outcome]]
"""Plays a scenario with timers that are short, and gives what is true afterwards."""


@pytest.fixture(scope="session")
def breakable(server_folder: Path) -> Iterator[Servers]:
    """A broker and a Postgres of these scenarios alone."""
    folder = server_folder / "breakable"
    folder.mkdir(mode=0o755)
    with breakable_servers(folder) as servers:
        yield servers


@pytest.fixture
def played(breakable: Servers) -> Played:
    """Plays a scenario: always with the same seed, for a test is no lottery."""

    async def run(scenario: Scenario) -> Outcome:
        return await play(breakable, scenario, 7, scenario.rounds, SHORT_TIMERS)

    return run
