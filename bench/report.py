"""Results as a table, as plots, and in `docs/performance.md`: `make bench-docs`."""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bench.plots import FAINT, OTHER, PLAIN, STRONG, Axis, Bar, Curve, bars, curves, decades
from bench.scenarios import CURVE_SHARES, GROWTH_SLICES, LOADED_SHARE, STEADY_CALLS_PER_SECOND
from consumer.errors import WindsorError

PAGE: Final = Path("docs/performance.md")
PUBLISHED: Final = Path("docs/performance/results.json")

# What each figure is, in the order of the table.
MEANINGS: Final = {
    "calls_per_second": "calls from Kafka to committed, all semantics on, a worker process a core",
    "copy_limit_calls_per_second": "the same rows COPYed into the same tables, from memory",
    "ratio_to_copy_limit": "the first over the limit",
    "copy_loop_calls_per_second": "a good loop by hand into one table, without users",
    "ratio_to_copy_loop": "the first over that loop",
    "per_message_calls_per_second": "a simple loop: one INSERT a message",
    "ratio_to_per_message": "the first over the simple loop",
    "freshness_p50_seconds": f"Kafka timestamp to visible, {STEADY_CALLS_PER_SECOND:,} calls/s",
    "freshness_p99_seconds": "the same, all but one in a hundred",
    "freshness_p50_loaded_seconds": f"the same at {LOADED_SHARE * 100:.0f} % of `calls_per_second`",
    "freshness_p99_loaded_seconds": "likewise, all but one in a hundred",
    "freshness_loaded_calls_per_second": "the pace that the loaded producer kept",
    "audience_sync_seconds": "first sync of an audience with every user",
    "hot_user_ratio": "throughput with 90 % of calls from one user, over users all alike",
    "alias_storm_calls_per_second": "aliases that merge everybody into one user",
    "alias_storm_transaction_seconds_max": "the longest transaction of that",
    "alias_chain_calls_per_second": "of that: each into the next",
    "alias_chain_shuffled_calls_per_second": "of that: a chain out of order",
    "alias_star_calls_per_second": "of that: all into one",
    "alias_star_shuffled_calls_per_second": "of that: a star out of order",
    "replay_calls_per_second": "the same topic again by a new group: all duplicates",
    "growth_ratio": "throughput of the last tenth of three months over that of the first",
    "worker_rss_bytes_max": "most memory of a worker, in all of the above",
    "worker_cpu_seconds_per_million": "CPU of all workers for a million calls",
    "postgres_cpu_seconds_per_million": "CPU of Postgres for a million calls, writers included",
    "postgres_bytes_per_call": "room that a call takes, with indexes and users",
    "endpoint_batched_calls_per_second": "calls that the endpoint acknowledges, 100 a request",
    "endpoint_single_calls_per_second": "the same, one a request",
    "endpoint_batched_p50_seconds": "a request of 100 calls, at 10,000 calls/s",
    "endpoint_batched_p99_seconds": "the same, all but one in a hundred",
    "endpoint_single_p50_seconds": "a request of one call, at 1,250 calls/s",
    "endpoint_single_p99_seconds": "the same, all but one in a hundred",
    "endpoint_batched_cpu_seconds_per_million": "CPU of the endpoint for a million calls, batched",
    "endpoint_single_cpu_seconds_per_million": "CPU of the endpoint for a million calls, singly",
    "copy_limit_1_calls_per_second": "the limit over one connection",
    "copy_limit_2_calls_per_second": "the limit over two connections",
    "copy_limit_3_calls_per_second": "the limit over three connections",
}


class Peer(NamedTuple):
    """What another tool was measured at."""

    name: str
    calls_per_second: tuple[int, int]
    """Least and greatest of its runs."""


# On a like machine, moving 200,000 such calls into one table, with no work on identities.
PEERS: Final = (
    Peer("Debezium JDBC sink, raw", (49_000, 49_000)),
    Peer("Redpanda Connect", (38_500, 41_600)),
    Peer("executemany of 500, by hand", (27_800, 27_800)),
    Peer("FastStream, in batches", (25_300, 25_300)),
    Peer("Debezium JDBC sink, typed columns", (21_000, 21_000)),
    Peer("Jitsu bulker", (14_300, 16_400)),
    Peer("Quix", (16_000, 16_000)),
)

# What is between such comments is made from the results; people write the rest.
_BLOCK: Final = re.compile(
    r"(?P<first><!-- (?P<name>\w+), by make bench-docs -->\n)"
    r"(?P<content>.*?)\n"
    r"(?P<last><!-- end of (?P=name) -->)",
    re.DOTALL,
)
_SIZED: Final = (100, 1_000, 10_000, 50_000)


class Results(msgspec.Struct):
    """What a run has found."""

    figures: dict[str, float]
    rounds: dict[str, list[float]]
    curves: dict[str, list[float]]
    sizes: dict[str, float]
    machine: dict[str, str]

    def text(self) -> str:
        """Give the figures by their keys, and beside them where they come from, as JSON."""
        details: dict[str, Any] = msgspec.to_builtins(self)
        return json.dumps({**details.pop("figures"), "details": details}, indent=2) + "\n"

    @classmethod
    def read(cls, text: str) -> "Results":
        """Read what `text` gave."""
        figures = json.loads(text)
        return msgspec.convert({**figures.pop("details"), "figures": figures}, cls)

    def joined(self, other: "Results") -> "Results":
        """Give these results, and beside them what only another run has found.

        The greatest of all (`_max`) is that of both.
        """
        greatest = {
            key: max(value, self.figures.get(key, value))
            for key, value in other.figures.items()
            if key.endswith("_max")
        }
        return Results(
            figures={**other.figures, **self.figures, **greatest},
            rounds={**other.rounds, **self.rounds},
            curves={**other.curves, **self.curves},
            sizes=self.sizes,
            machine=self.machine,
        )


# Words --------------------------------------------------------------------------------------


def table(figures: Mapping[str, float]) -> str:
    """Give the figures as a Markdown table."""
    rows = [
        f"| `{key}` | {shown(key, figures[key])} | {meaning} |"
        for key, meaning in MEANINGS.items()
        if key in figures
    ]
    return "\n".join(["| figure | value | what |", "| --- | ---: | --- |", *rows])


def shown(key: str, value: float) -> str:
    """Give a figure as a person reads it, by the unit that its key ends in."""
    if key.endswith("_bytes_max"):
        return f"{value / 2**20:,.0f} MiB"
    if "seconds" in key.split("_")[-2:] and "per" not in key.split("_"):
        return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.1f} s"
    if "ratio" in key:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def sizing(figures: Mapping[str, float], workers_count: int = 1) -> str:
    """Give what some paces need, as a Markdown table.

    Args:
        figures: By their keys.
        workers_count: Processes that made `calls_per_second` together.
    """
    worker = figures["worker_cpu_seconds_per_million"] / 1e6
    postgres = figures["postgres_cpu_seconds_per_million"] / 1e6
    bytes_per_call = figures["postgres_bytes_per_call"]
    one_worker = LOADED_SHARE * figures["calls_per_second"] / workers_count
    rows = [
        f"| {rate:,} | {math.ceil(rate / one_worker)} | {rate * worker:.2f} |"
        f" {rate * postgres:.2f} | {rate * 86_400 * bytes_per_call / 1e9:,.1f} GB |"
        for rate in _SIZED
    ]
    one_core = (
        f"One core does {1 / worker:,.0f} calls/s of a worker's part, or {1 / postgres:,.0f}"
        f" calls/s of Postgres's; a call takes {bytes_per_call:,.0f} bytes."
    )
    return "\n".join(
        [
            one_core,
            "",
            "| calls/s | workers | cores of workers | cores of Postgres | disk a day |",
            "| ---: | ---: | ---: | ---: | ---: |",
            *rows,
        ]
    )


def machine(results: Results) -> str:
    """Tell what the figures were measured on, and with how much."""
    found = results.machine
    return (
        f"{found['cores']}, {found['memory']}, {found['system']}; Python {found['python']},"
        f" Postgres {found['postgres']}, Kafka {found['kafka']};"
        f" {results.sizes['calls']:,.0f} calls, {found['workers']} worker processes."
    )


def blocks(text: str) -> dict[str, str]:
    """Give what is between the markers of the page, by their names."""
    return {found["name"]: found["content"] for found in _BLOCK.finditer(text)}


def page(text: str, results: Results) -> str:
    """Give `docs/performance.md` with what is between its markers made anew.

    Raises:
        WindsorError: A marker is missing, or a figure.
    """
    try:
        made = {
            "machine": machine(results),
            "figures": "\n\n".join([table(results.figures), *_images(results)]),
            "sizing": sizing(results.figures, int(results.machine["workers"])),
        }
    except KeyError as error:
        raise WindsorError(f"the results lack {error}: run all of `make bench`") from error
    if blocks(text).keys() != made.keys():
        raise WindsorError(f"{PAGE} must have the markers of {', '.join(made)}, each once")
    return _BLOCK.sub(lambda found: f"{found['first']}{made[found['name']]}\n{found['last']}", text)


def _images(results: Results) -> list[str]:
    return [f"![{_title(plot)}](performance/{name})" for name, plot in plots(results).items()]


def _title(plot: str) -> str:
    return plot.partition("<title>")[2].partition("</title>")[0]


# Plots --------------------------------------------------------------------------------------


def plots(results: Results) -> dict[str, str]:
    """Give each plot that there are figures for, by its file name."""
    made = {}
    if "calls_per_second" in results.figures:
        made["throughput.svg"] = _throughput(results.figures)
    if "freshness_seconds" in results.curves:
        made["freshness.svg"] = _freshness(results.curves)
    if "growth_calls_per_second" in results.curves:
        made["growth.svg"] = _growth(results.curves["growth_calls_per_second"])
    return made


def _throughput(figures: Mapping[str, float]) -> str:
    ours = [
        ("Limit of the tables (COPY)", "copy_limit_calls_per_second", PLAIN),
        ("Windsor, all semantics", "calls_per_second", STRONG),
        ("Loop by hand, one table", "copy_loop_calls_per_second", PLAIN),
        ("One INSERT a message", "per_message_calls_per_second", PLAIN),
    ]
    rows = [
        Bar(label, figures[key], f"{figures[key]:,.0f}", color)
        for label, key, color in ours
        if key in figures
    ]
    for peer in PEERS:
        low, high = peer.calls_per_second
        text = f"{high:,}" if low == high else f"{low:,}\u2013{high:,}"
        rows.append(Bar(f"{peer.name} *", high, text, FAINT))
    return bars("Calls per second into Postgres (* not by this bench: one table, no users)", rows)


def _freshness(found: Mapping[str, list[float]]) -> str:
    kinds = [
        (f"{STEADY_CALLS_PER_SECOND:,} calls/s", "freshness_seconds", STRONG),
        (f"{LOADED_SHARE * 100:.0f} % of the maximum", "freshness_loaded_seconds", OTHER),
    ]
    lines = [
        Curve(label, [*zip(found[key], CURVE_SHARES, strict=True)], color)
        for label, key, color in kinds
        if key in found
    ]
    seconds = [second for line in lines for second, _ in line.points]
    shares = Axis(0, 1, [(share / 4, f"{share * 25} %") for share in range(5)])
    return curves(
        "Share of calls that a query sees, by the time since their Kafka timestamp",
        *(decades(max(min(seconds), 0.001), max(seconds)), shares, lines),
        "time since the Kafka timestamp",
    )


def _growth(rates: list[float]) -> str:
    high = 10 ** math.floor(math.log10(max(rates)))
    top = math.ceil(max(rates) / high) * high
    points = [(number + 1.0, rate) for number, rate in enumerate(rates)]
    return curves(
        "Throughput while three months are loaded",
        Axis(1, GROWTH_SLICES, [(n, f"{n * 10} %") for n in range(1, GROWTH_SLICES + 1)]),
        Axis(0, top, [(top * n / 4, f"{top * n / 4:,.0f}") for n in range(5)]),
        [Curve("calls per second", points, STRONG)],
        "share of the calls that are loaded",
    )


def _read(files: Mapping[str, Path]) -> Iterator[Results]:
    for target, file in files.items():
        if file.exists():
            yield Results.read(file.read_text())
        elif target == "bench":
            raise WindsorError(f"there is no {file}: run `make {target}` first")


def main() -> int:
    """Publish the last runs' results: the page, its plots, and what they are made of."""
    try:
        results, *long = _read(
            {"bench": Path(".bench/latest.json"), "bench-long": Path(".bench/long.json")}
        )
        for other in long:
            results = results.joined(other)
        PUBLISHED.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(PAGE.read_text(), results))
        PUBLISHED.write_text(results.text())
        for name, content in plots(results).items():
            (PUBLISHED.parent / name).write_text(content)
    except WindsorError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(f"written: {PAGE}, {PUBLISHED.parent}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
