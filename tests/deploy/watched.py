"""A real worker that a real Prometheus watches, by the rules of `deploy/`, a minute as a second."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import yaml
from aiokafka import AIOKafkaProducer

from bench.calls import calls
from demo.servers import free_port
from tests.command import environment
from tests.deploy.conftest import DEPLOY, answer, running
from tests.deploy.programs import debians

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# Nobody waits for half an hour in a test, so time runs faster there, everywhere alike.
FASTER = 60


def faster(text: str) -> str:
    """An expression or a duration with all its times a sixtieth: `[5m]` is `[5s]`."""
    return re.sub(
        r"(?<![\w:])(\d+)([smhd])(?!\w)",
        lambda found: f"{max(1, int(found[1]) * _UNITS[found[2]] // FASTER)}s",
        text,
    )


def faster_rules() -> dict[str, Any]:
    """The rules, each of their times a sixtieth; names of what is recorded stay."""
    rules: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = faster(rule["expr"])
            if "for" in rule:
                rule["for"] = faster(rule["for"])
    return rules


class Prometheus(NamedTuple):
    """Where it answers."""

    address: str

    async def get(self, path: str, **query: str) -> Any:  # noqa: ANN401 - JSON
        """The data of an answer of its API."""
        url = f"{self.address}/api/v1/{path}?{urlencode(query)}"
        found = json.loads(await asyncio.to_thread(answer, url))
        assert found["status"] == "success", found
        return found["data"]

    async def firing(self) -> set[str]:
        """The alerts that fire now."""
        found = (await self.get("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    async def until_firing(self, wanted: Collection[str], seconds: float = 90) -> None:
        """Wait until all of these fire."""
        deadline = time.monotonic() + seconds
        while not set(wanted) <= (found := await self.firing()):
            assert time.monotonic() < deadline, f"wanted {wanted}, firing {found}"
            await asyncio.sleep(0.5)

    async def until_silent(self, gone: Collection[str], seconds: float = 90) -> None:
        """Wait until none of these fires."""
        deadline = time.monotonic() + seconds
        while found := set(gone) & await self.firing():
            assert time.monotonic() < deadline, f"still firing {found}"
            await asyncio.sleep(0.5)


@contextmanager
def prometheus(folder: Path, worker_port: int) -> Iterator[Prometheus]:
    """Run Prometheus as `deploy/prometheus` has it, but for addresses and the pace of time."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (scraped,) = config["scrape_configs"]
    scraped["static_configs"] = [{"targets": [f"127.0.0.1:{worker_port}"]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / "rules.yaml").write_text(yaml.safe_dump(faster_rules()))
    address = f"127.0.0.1:{free_port()}"
    with running(folder, debians("prometheus"), (
        "--config.file=prometheus.yaml", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}", "--log.level=warn",
    )) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                answer(f"http://{address}/-/ready")
                break
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield Prometheus(f"http://{address}")


class Watched(NamedTuple):
    """A worker and its watcher."""

    worker: "subprocess.Popen[bytes]"
    prometheus: Prometheus


@contextmanager
def watched(folder: Path, kafka: str, topic: str, dsn: str) -> Iterator[Watched]:
    """Run `windsor consume` and Prometheus."""
    port = free_port()
    with ExitStack() as stack:
        found = stack.enter_context(prometheus(folder, port))
        with (folder / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "consumer.cli", "consume"],
                env=environment(
                    kafka_bootstrap_servers=kafka, kafka_topics=topic, database_url=dsn,
                    http_port=str(port),
                    # A sixtieth, as everything here.
                    retry_initial_seconds=str(0.1 / FASTER),
                    retry_seconds_max=str(5 / FASTER),
                ), stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield Watched(worker, found)
        except BaseException as error:
            error.add_note(f"The worker said:\n{(folder / 'worker.log').read_text()[-4000:]}")
            raise
        finally:
            if worker.poll() is None:
                worker.terminate()
            worker.wait(60)


@asynccontextmanager
async def producing(
    kafka: str, topic: str, records_per_second: int, partitions: int = 1
) -> AsyncIterator[None]:
    """Send realistic calls at a steady pace while inside."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    task = asyncio.create_task(_produce(producer, topic, records_per_second, partitions))
    try:
        yield
        assert not task.done(), "nobody produces any more"
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await producer.stop()


async def _produce(
    producer: AIOKafkaProducer, topic: str, records_per_second: int, partitions: int
) -> None:
    turns_per_second = 10
    records = iter(calls(10_000_000))
    number = 0
    while True:
        for _ in range(records_per_second // turns_per_second):
            number += 1
            value = next(records).value
            # Two in a hundred are broken; one is sent twice.
            broken = value[:-1] if number % 50 == 0 else value
            for copy in (broken,) if number % 100 else (broken, broken):
                await producer.send(topic, copy, partition=number % partitions)
        await asyncio.sleep(1 / turns_per_second)


async def send(kafka: str, topic: str, values: Iterable[bytes]) -> None:
    """Send records, now."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        for value in values:
            await producer.send(topic, value)
    finally:
        await producer.stop()
