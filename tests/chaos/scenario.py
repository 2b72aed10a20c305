"""One line of the scoreboard: a story, how often, and with whom."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.chaos.arena import Arena, ArenaOptions

Play = Callable[[Arena, int], Awaitable[None]]


class Scenario(NamedTuple):
    """One line of the scoreboard."""

    name: str
    play: Play
    rounds: int
    """At full size."""
    options: ArenaOptions = ArenaOptions()
    recovery_seconds_max: float = 30.0
    own_postgres: bool = False
    """It leaves the server in pieces."""


def poisoned(scenario: Scenario, share: float) -> Scenario:
    """The same, with so much poison, and the valve open: what half of it would stop goes on."""
    options = scenario.options
    load = options.load._replace(poison=share)
    settings = {**options.settings, "dead_letters_share_max": "1"}
    return scenario._replace(options=options._replace(load=load, settings=settings))
