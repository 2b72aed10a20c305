"""The rules in Prometheus' own hands, and alerts fired for real by what they are for."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from consumer.schema import migrate
from demo.servers import embedded_postgres
from tests.deploy.conftest import DEPLOY
from tests.deploy.programs import built, debians
from tests.deploy.test_rules_and_board import ALERTS, PANELS
from tests.deploy.watched import Prometheus, faster, producing, send, watched

pytestmark = pytest.mark.deploy

MakeTopic = Callable[[int], Awaitable[str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where servers keep their data; Postgres, which is not root, must get there."""
    with TemporaryDirectory(prefix="windsor-watched-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("arguments", [
    ("check", "rules", "rules.yaml"), ("check", "config", "prometheus.yaml"),
    ("test", "rules", "rules.test.yaml"),
])  # fmt: skip
def test_promtool_finds_nothing(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [debians("promtool"), *arguments], cwd=DEPLOY / "prometheus",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "SUCCESS" in done.stdout


def test_board_is_one_by_grafanas_own_types() -> None:
    board = (DEPLOY / "grafana/windsor.json").read_text()
    reads = built("board") / "board"
    done = subprocess.run([reads], input=board, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    misspelled = board.replace('"legendFormat"', '"legend"', 1)
    refused = subprocess.run([reads], input=misspelled, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "legend" in refused.stderr


# Empty where all is well, or where nobody runs the endpoint.
QUIET = {
    "windsor_endpoint",
    'windsor_partitions_paused{job=~"$job"} > 0',
    "windsor_topic_refused",
    "windsor_topic_overtaken",
}


# What a machine that is busy with something else may fire: it is late, and says so.
SLOW = {"WindsorFreshnessBurn"}


async def unanswered(prometheus: Prometheus) -> list[str]:
    """The board's queries that have no answer, but for the quiet ones."""
    empty = []
    for panel in PANELS:
        for target in panel["targets"]:
            asked = target["expr"].replace("$__rate_interval", "5s").replace("$job", ".*")
            if not (await prometheus.get("query", query=asked))["result"]:
                empty.append(target["expr"])
    return [expression for expression in empty if not any(q in expression for q in QUIET)]


async def test_board_shows_a_worker_that_prometheus_scrapes(
    folder: Path, kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(4)
    with watched(folder, kafka_server, name, database) as it:
        async with producing(kafka_server, name, 200, 4):
            deadline = time.monotonic() + 90
            while empty := await unanswered(it.prometheus):
                assert time.monotonic() < deadline, empty
                await asyncio.sleep(1)
            (target,) = (await it.prometheus.get("targets"))["activeTargets"]
            groups = (await it.prometheus.get("rules"))["groups"]
            # What the start made late is over.
            await it.prometheus.until_silent({alert["alert"] for alert in ALERTS} - SLOW)

    assert (target["health"], target["lastError"]) == ("up", "")
    rules = [rule for group in groups for rule in group["rules"]]
    assert {(rule["health"], rule.get("lastError", "")) for rule in rules} == {("ok", "")}
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == {
        alert["alert"] for alert in ALERTS
    }


async def test_database_that_is_gone_is_told_and_its_return_too(
    folder: Path, kafka_server: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    told = {"WindsorDatabaseRetries", "WindsorStalled"}
    async with AsyncExitStack() as stack:
        with embedded_postgres(folder / "postgres") as server:
            await migrate(server.dsn)
            it = stack.enter_context(watched(folder, kafka_server, name, server.dsn))
            await stack.enter_async_context(producing(kafka_server, name, 100))
            await asyncio.sleep(15)
            await it.prometheus.until_silent(told)
        await it.prometheus.until_firing(told)
        with embedded_postgres(folder / "postgres"):
            await it.prometheus.until_silent(told)
            # While there is a database to drain to.
            await stack.aclose()
    assert it.worker.returncode == 0


async def test_worker_that_is_gone_is_told(
    folder: Path, kafka_server: str, database: str, topic: MakeTopic
) -> None:
    with watched(folder, kafka_server, await topic(1), database) as it:
        await asyncio.sleep(10)
        await it.prometheus.until_silent({"WindsorAbsent"})
        it.worker.kill()
        await it.prometheus.until_firing({"WindsorAbsent"})


async def test_poisoned_topic_is_told_before_the_worker_ends(
    folder: Path, kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    told = {"WindsorTopicRefused", "WindsorDeadLetters"}
    with watched(folder, kafka_server, name, database) as it:
        await asyncio.sleep(10)
        await it.prometheus.until_silent(told)
        await send(kafka_server, name, [b"<html>502 Bad Gateway</html>"] * 1_200)
        await it.prometheus.until_firing(told)
    assert it.worker.returncode == 1


def test_times_are_made_faster() -> None:
    assert faster("rate(x_1m[5m]) > 60 and max_over_time(y[3d])") == (
        "rate(x_1m[5s]) > 60 and max_over_time(y[4320s])"
    )
    assert faster("job:late:ratio_rate5m > 0.01") == "job:late:ratio_rate5m > 0.01"
    assert faster("1h") == "60s"
