"""The bench runs, with few calls: what it measures here says nothing, that it measures does."""

import re
from pathlib import Path

import pytest

from bench.calls import calls, hot_user, quarter
from bench.report import (
    MEANINGS,
    PAGE,
    PEERS,
    PUBLISHED,
    Results,
    blocks,
    page,
    plots,
    shown,
    sizing,
)
from bench.run import chosen, measure, summary
from bench.scenarios import LONG_SCENARIOS, SCENARIOS
from bench.servers import running
from bench.stage import Sizes, Stage
from consumer.errors import WindsorError

FEW = Sizes(
    # So many that their CPU is well over a tick of the kernel's clock (10 ms).
    calls=4_000,
    slow_calls=40,
    crowd_calls=200,
    aliases=40,
    customers=100,
    quarter_calls=300,
    steady_seconds=1.0,
    warm_seconds=0.2,
)


async def test_every_scenario_runs_and_gives_its_figures(tmp_path: Path) -> None:
    with running(tmp_path) as servers:
        async with Stage(servers, FEW) as stage:
            results = await measure(stage, {**SCENARIOS, **LONG_SCENARIOS}, rounds=1)

    assert results.figures.keys() == MEANINGS.keys()
    assert [key for key, value in results.figures.items() if not value > 0] == []
    assert plots(results).keys() == {"throughput.svg", "freshness.svg", "growth.svg"}
    assert Results.read(results.text()) == results
    assert "Not measured yet." not in page(PAGE.read_text(), results)


def test_figure_is_the_median_of_its_rounds_or_the_greatest_of_what_ends_in_max() -> None:
    rounds = {
        "calls_per_second": [10.0, 30.0, 20.0],
        "copy_limit_1_calls_per_second": [40.0, 40.0, 40.0],
        "copy_limit_2_calls_per_second": [90.0, 80.0, 10.0],
        "alias_storm_transaction_seconds_max": [1.0, 3.0, 2.0],
    }

    assert summary(rounds) == {
        "calls_per_second": 20.0,
        "copy_limit_1_calls_per_second": 40.0,
        "copy_limit_2_calls_per_second": 80.0,
        "copy_limit_calls_per_second": 80.0,
        "ratio_to_copy_limit": 0.25,
        "alias_storm_transaction_seconds_max": 3.0,
    }


def test_two_runs_are_joined_by_the_first_ones_figures_and_the_greatest_of_both() -> None:
    def results(**figures: float) -> Results:
        return Results(figures, rounds={}, curves={}, sizes={}, machine={})

    joined = results(calls_per_second=20.0, worker_rss_bytes_max=5.0).joined(
        results(calls_per_second=10.0, growth_ratio=1.0, worker_rss_bytes_max=9.0)
    )

    assert joined.figures == {
        "calls_per_second": 20.0,
        "growth_ratio": 1.0,
        "worker_rss_bytes_max": 9.0,
    }


def test_scenario_brings_what_it_needs() -> None:
    assert [*chosen(["freshness_loaded"], SCENARIOS)] == ["throughput", "freshness_loaded"]
    assert chosen([], SCENARIOS) == SCENARIOS


def test_unknown_scenario_is_told_with_those_that_there_are() -> None:
    with pytest.raises(WindsorError, match="no scenario freshnes: choose among throughput, copy_"):
        chosen(["freshnes"], SCENARIOS)


def test_one_name_means_the_same_calls() -> None:
    assert list(calls(50)) == list(calls(50))
    assert {record.value for record in calls(50)}.isdisjoint(r.value for r in calls(50, seed=2))


def test_hot_user_makes_nine_of_ten_calls() -> None:
    hot = sum(record.key == b"user-0" for record in hot_user(1_000))

    assert 870 < hot < 930


def test_quarter_spans_three_months() -> None:
    days = [record.timestamp_ms / 86_400_000 for record in quarter(100)]

    assert days[-1] - days[0] == pytest.approx(91 * 0.99)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("calls_per_second", 31_234.5, "31,234"),
        ("ratio_to_copy_limit", 0.456, "0.46"),
        ("freshness_p99_seconds", 0.0312, "31 ms"),
        ("audience_sync_seconds", 61.24, "61.2 s"),
        ("alias_storm_transaction_seconds_max", 0.5, "500 ms"),
        ("worker_rss_bytes_max", 150 * 2**20, "150 MiB"),
        ("worker_cpu_seconds_per_million", 21.55, "21.6"),
    ],
)
def test_figure_is_shown_by_its_unit(key: str, value: float, text: str) -> None:
    assert shown(key, value) == text


def test_sizing_follows_from_the_figures() -> None:
    figures = {
        "calls_per_second": 20_000.0,
        "worker_cpu_seconds_per_million": 25.0,
        "postgres_cpu_seconds_per_million": 50.0,
        "postgres_bytes_per_call": 1_000.0,
    }

    assert sizing(figures).splitlines()[0] == (
        "One core does 40,000 calls/s of a worker's part, or 20,000 calls/s of Postgres's;"
        " a call takes 1,000 bytes."
    )
    assert sizing(figures).splitlines()[-1] == "| 50,000 | 4 | 1.25 | 2.50 | 4,320.0 GB |"
    # Two that made it together make half of it each.
    assert sizing(figures, 2).splitlines()[-1] == "| 50,000 | 8 | 1.25 | 2.50 | 4,320.0 GB |"


def test_page_shows_the_published_results() -> None:
    text = PAGE.read_text()
    if PUBLISHED.exists():
        results = Results.read(PUBLISHED.read_text())
        drawn = {name: (PUBLISHED.parent / name).read_text() for name in plots(results)}
        assert page(text, results) == text
        assert drawn == plots(results)
    else:
        assert blocks(text) == dict.fromkeys(["machine", "figures", "sizing"], "Not measured yet.")


def test_page_without_its_markers_is_refused() -> None:
    results = Results(
        figures={
            "calls_per_second": 1.0,
            "worker_cpu_seconds_per_million": 1.0,
            "postgres_cpu_seconds_per_million": 1.0,
            "postgres_bytes_per_call": 1.0,
        },
        rounds={},
        curves={},
        sizes={"calls": 1},
        machine={
            **dict.fromkeys(["cores", "memory", "system", "python", "postgres", "kafka"], "x"),
            "workers": "2",
        },
    )

    with pytest.raises(WindsorError, match="must have the markers of machine, figures, sizing"):
        page("# Performance\n", results)


def test_page_and_plot_tell_the_same_of_other_tools() -> None:
    row = r"^\| (.+) \| ([\d,]+)(?:\u2013([\d,]+))? \|$"
    rows = re.findall(row, PAGE.read_text(), re.MULTILINE)
    told = [
        (name.replace("`", ""), low.replace(",", ""), (high or low).replace(",", ""))
        for name, low, high in rows
    ]

    assert told == [(peer.name, *map(str, peer.calls_per_second)) for peer in PEERS]
