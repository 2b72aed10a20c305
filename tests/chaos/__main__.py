"""`make chaos`: the scoreboard of fault scenarios, on servers of its own that it may break.

Seeded: the same seed sends the same calls and draws the same victims and waits. What the
machine makes of them (which batch is in flight) is its own.
"""

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.arena import SHORT_TIMERS, TIMERS, Outcome
from tests.chaos.play import play
from tests.chaos.scenario import Scenario, poisoned
from tests.chaos.scoreboard import SCOREBOARD
from tests.chaos.servers import breakable_servers
from tests.simulation import simulate


def main() -> int:
    """Play what is asked for; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a scenario's name; several by commas")
    parser.add_argument("--rounds", type=int, help="instead of each scenario's own")
    parser.add_argument("--simulate", type=float, default=3600, help="seconds of simulation")
    parser.add_argument("--poison", type=float, help="share of poison, instead of 1 %%")
    parser.add_argument("--short-timers", action="store_true", help="as `make test` has them")
    options = parser.parse_args()
    wanted = [name.strip().lower() for name in options.only.split(",")]
    scenarios = [s for s in SCOREBOARD if any(name in s.name.lower() for name in wanted)]
    if options.poison is not None:
        scenarios = [poisoned(scenario, options.poison) for scenario in scenarios]
    # A client that finds no broker says so many times a second.
    logging.disable(logging.CRITICAL)
    console = Console(width=132)
    table = Table(title=f"Seed {options.seed}")
    for heading in ("scenario", "rounds", "calls", "recovery s", "lost", "doubled", "verify",
                    "views", "beside"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("scenario", "beside") else "right")
    well = bool(scenarios) or wanted == ["simulation"]
    with tempfile.TemporaryDirectory(prefix="windsor-chaos-") as folder:
        # Postgres does not run as root, and has to get there.
        Path(folder).chmod(0o755)
        with breakable_servers(Path(folder)) as servers:
            for scenario in scenarios:
                started = time.monotonic()
                try:
                    outcome = asyncio.run(
                        play(
                            servers,
                            scenario,
                            options.seed,
                            options.rounds or scenario.rounds,
                            SHORT_TIMERS if options.short_timers else TIMERS,
                        )
                    )
                except Exception as error:  # noqa: BLE001 - whatever it is, the others' lines count
                    well = False
                    table.add_row(scenario.name, *[""] * 7, f"FAILED: {error!r}")
                    traceback.print_exception(error)
                    continue
                well &= _add(table, scenario, outcome)
                took = time.monotonic() - started
                console.print(f"{scenario.name}: {took:.0f} s, {outcome}", markup=False)
    console.print(table)
    if wanted in ([""], ["simulation"]):
        well &= _simulate(console, options.seed, options.simulate)
    return 0 if well else 1


def _simulate(console: Console, seed: int, seconds: float) -> bool:
    """Tell as many stories of the pipeline as the time allows."""
    until = time.monotonic() + seconds
    first = seed * 1_000_000
    number = first
    broken = 0
    while time.monotonic() < until:
        try:
            simulate(number)
        except Exception as error:  # noqa: BLE001 - whatever it is, its seed shows it again
            broken += 1
            console.print(f"simulation, seed {number}: {error!r}", markup=False)
        number += 1
    console.print(f"simulation: {number - first:,} seeds from {first}, {broken} broke an invariant")
    return broken == 0


def _add(table: Table, scenario: Scenario, outcome: Outcome) -> bool:
    recovery = outcome.recovery_seconds
    slow = max(recovery, default=0.0) > scenario.recovery_seconds_max
    table.add_row(
        scenario.name,
        f"{outcome.rounds:,}",
        f"{outcome.calls:,}",
        f"{statistics.median(recovery):.1f}, at most {max(recovery):.1f}" + " SLOW" * slow,
        str(outcome.lost),
        str(outcome.doubled),
        "clean" if outcome.differences == 0 else str(outcome.differences),
        {True: "equal", False: "DIFFER", None: "verified"}[outcome.views_equal],
        ", ".join(
            [f"{name} {value:.3g}" for name, value in outcome.facts.items()]
            + [f"BROKEN: {promise}" for promise in outcome.broken]
        ),
    )
    return outcome.faultless and not slow


if __name__ == "__main__":
    sys.exit(main())
