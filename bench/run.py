"""`make bench`: from Kafka to committed, on this machine, with all that the worker does.

Kafka, Postgres, the worker and the bench share the machine's cores, so figures compare only
within one run. Each round goes through all scenarios in turn; each figure is the median of its
rounds (of what ends in `_max`, the greatest).
"""

import argparse
import asyncio
import logging
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import asyncpg
import psutil

from bench.report import Results, table
from bench.scenarios import LONG_SCENARIOS, SCENARIOS, Figures, Scenario
from bench.servers import running
from bench.stage import Sizes, Stage
from consumer.errors import WindsorError
from demo.servers import KAFKA_VERSION

FOLDER: Final = Path(".bench")

_RATIOS: Final = {
    "ratio_to_copy_limit": "copy_limit_calls_per_second",
    "ratio_to_copy_loop": "copy_loop_calls_per_second",
    "ratio_to_per_message": "per_message_calls_per_second",
}
_COPY_LIMIT: Final = re.compile(r"copy_limit_\d+_calls_per_second")


async def measure(stage: Stage, scenarios: Mapping[str, Scenario], rounds: int) -> Results:
    """Run the scenarios in turn, so many times."""
    for turn in range(rounds):
        for name, scenario in scenarios.items():
            started = time.monotonic()
            found = await scenario.measure(stage)
            seconds = time.monotonic() - started
            for key, value in found.items():
                stage.rounds.setdefault(key, []).append(value)
            print(f"round {turn + 1}: {name} ({seconds:.0f} s): {_shown(found)}", flush=True)
    return Results(
        figures=summary(stage.rounds) | {"worker_rss_bytes_max": stage.worker_rss_bytes_max},
        rounds=stage.rounds,
        curves=stage.curves,
        sizes=stage.sizes._asdict(),
        machine=await _machine(stage),
    )


def summary(rounds: Mapping[str, Sequence[float]]) -> Figures:
    """Give one figure for each key, and those that follow from others."""
    found = {
        key: max(values) if key.endswith("_max") else median(values)
        for key, values in rounds.items()
    }
    # Connections enough, and not too many: which number that is the machine decides.
    limits = [value for key, value in found.items() if _COPY_LIMIT.fullmatch(key)]
    if limits:
        found["copy_limit_calls_per_second"] = max(limits)
    if "calls_per_second" in found:
        for key, rival in _RATIOS.items():
            if rival in found:
                found[key] = found["calls_per_second"] / found[rival]
    return found


def chosen(only: Sequence[str], known: Mapping[str, Scenario]) -> dict[str, Scenario]:
    """Give the scenarios to run: those named, and what they need; all where none is named.

    Raises:
        WindsorError: There is no such scenario.
    """
    unknown = [name for name in only if name not in known]
    if unknown:
        raise WindsorError(
            f"there is no scenario {', '.join(unknown)}: choose among {', '.join(known)}"
        )
    wanted = {need for name in only for need in (name, *known[name].needs)} or set(known)
    return {name: scenario for name, scenario in known.items() if name in wanted}


async def _machine(stage: Stage) -> dict[str, str]:
    connection = await asyncpg.connect(stage.servers.dsn)
    try:
        postgres = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return {
        "cores": f"{os.cpu_count()} of {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.system(),
        "python": platform.python_version(),
        "postgres": str(postgres),
        "kafka": KAFKA_VERSION,
        "workers": str(stage.workers_count),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = cpuinfo.exists() and re.search(r"model name\s*: (.+)", cpuinfo.read_text())
    return found[1] if found else platform.machine()


def _shown(figures: Figures) -> str:
    return ", ".join(
        f"{key} {value:,.{0 if value >= 100 else 3}f}" for key, value in figures.items()
    )


async def _run(
    folder: Path, sizes: Sizes, scenarios: Mapping[str, Scenario], *, rounds: int, workers: int
) -> Results:
    with running(folder) as servers:
        async with Stage(servers, sizes, workers) as stage:
            return await measure(stage, scenarios, rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the results; the exit code is returned."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default="", help="scenarios, comma-separated")
    parser.add_argument("--calls", type=int, default=Sizes().calls, help="scales everything")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; default: one a core"
    )
    parser.add_argument("--long", action="store_true", help="what takes a quarter of an hour")
    options = parser.parse_args(arguments)
    results_file = FOLDER / ("long.json" if options.long else "latest.json")
    # It warns of each topic whose leaders are still being chosen, and tries again.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    # Told to end, it ends its servers and workers too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    FOLDER.mkdir(exist_ok=True)
    try:
        names = [name for name in options.only.split(",") if name]
        scenarios = chosen(names, LONG_SCENARIOS if options.long else SCENARIOS)
        sizes = Sizes().scaled(options.calls)
        results = asyncio.run(
            _run(FOLDER, sizes, scenarios, rounds=options.rounds, workers=options.workers)
        )
    except WindsorError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted, nothing is written", file=sys.stderr)
        return 130
    results_file.write_text(results.text())
    print(f"\n{table(results.figures)}\n\nwritten to {results_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
