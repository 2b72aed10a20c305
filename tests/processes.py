"""`windsor consume` in processes of its own: started alike by all scenarios, ended for sure."""

import asyncio
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from demo.servers import free_port
from tests.command import environment

# Kubernetes kills after 30 s.
EXIT_SECONDS_MAX: Final = 25

# So that a signal comes between many batches.
SMALL_BATCHES: Final = {
    "batch_calls_max": "100",
    "lane_calls_max": "400",
    "poll_records_max": "100",
}

_SAMPLE = re.compile(r"^(\w+(?:\{.*?\})?) (\S+)$", re.MULTILINE)


class WorkerProcess:
    """A worker that runs, and what it says: over HTTP, and in its log."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.log: list[dict[str, Any]] = []
        """Its log's events so far."""
        self.said: list[str] = []
        """What it printed beside its log."""
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process.returncode is None

    @property
    def events(self) -> list[str]:
        """The names of its log's events."""
        return [str(entry["event"]) for entry in self.log]

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def files_count(self) -> int:
        """Open files and sockets."""
        return int(psutil.Process(self.pid).num_fds())

    def connections(self) -> list[str]:
        """The state of each of its TCP connections."""
        return [str(c.status) for c in psutil.Process(self.pid).net_connections("tcp")]

    async def fetch(self, path: str) -> tuple[int, str]:
        """Status and body; (0, "") where it does not answer."""
        return await asyncio.to_thread(_fetch, f"http://127.0.0.1:{self.port}{path}")

    async def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels; none while it does not answer."""
        status, text = await self.fetch("/metrics")
        return {n: float(v) for n, v in _SAMPLE.findall(text)} if status == 200 else {}

    async def until_ready(self, seconds: float = 60) -> float:
        """Wait until it says that it is ready; gives how long that took."""
        started = time.monotonic()
        async with asyncio.timeout(seconds):
            while (await self.fetch("/readyz"))[0] != 200:
                assert self.runs, self.said
                await asyncio.sleep(0.1)
        return time.monotonic() - started

    async def until_logged(self, event: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for the first such event."""
        async with asyncio.timeout(seconds):
            while event not in self.events:
                assert self.runs, (event, self.said)
                await asyncio.sleep(0.02)
        return self.log[self.events.index(event)]

    async def stop(self, seconds_max: float = EXIT_SECONDS_MAX) -> int:
        """Ask it to leave; it has to in time. Gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended(seconds_max)

    async def kill(self) -> None:
        """SIGKILL: it has no say in this."""
        if self.runs:
            self.process.kill()
        await self.process.wait()

    async def ended(self, seconds_max: float = 90) -> int:
        """Wait for its end; gives its exit code."""
        code = await asyncio.wait_for(self.process.wait(), seconds_max)
        await self._reading
        return code

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode().rstrip()
            if text.startswith("{"):
                self.log.append(json.loads(text))
            else:
                self.said.append(text)

    async def close(self) -> None:
        await self.kill()
        await self._reading


def _fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@asynccontextmanager
async def consuming(
    kafka: str, topics: str, dsn: str, **settings: str
) -> AsyncIterator[WorkerProcess]:
    """`windsor consume`; killed if it has not left by itself."""
    worker = await start_worker(kafka, topics, dsn, **settings)
    try:
        yield worker
    finally:
        await worker.close()


async def start_worker(kafka: str, topics: str, dsn: str, **settings: str) -> WorkerProcess:
    """Start `windsor consume`; whoever starts it ends it."""
    given = {
        "kafka_bootstrap_servers": kafka, "kafka_topics": topics, "database_url": dsn,
        "http_host": "127.0.0.1", "http_port": str(free_port()), "log_format": "json", **settings,
    }  # fmt: skip
    extra = {name: given.pop(name) for name in list(given) if name.isupper()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "consume", env=environment(**given) | extra,
        stderr=PIPE, limit=1024 * 1024,
    )  # fmt: skip
    return WorkerProcess(process, int(given["http_port"]))


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that stands still, its connections open; goes on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # On a busy machine its threads go on for a moment, and may give an answer.
        while any(state != "T" for state in _thread_states(pid)):
            time.sleep(0.01)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _thread_states(pid: int) -> Iterator[str]:
    """The state of each thread that there still is, a letter each; of none without `/proc`."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield thread.read_text().rpartition(")")[2].split()[0]


async def committed_offsets(
    kafka: str, topic: str, partitions: int, group: str = "windsor"
) -> dict[int, int]:
    """Where the next owner of each partition would begin."""
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await reader.start()
    try:
        return {
            number: await reader.committed(TopicPartition(topic, number)) or 0
            for number in range(partitions)
        }
    finally:
        await reader.stop()


async def stored_calls(
    connection: "asyncpg.Connection[asyncpg.Record]", partitions: int
) -> dict[int, int]:
    """How many calls of each partition are stored."""
    rows = await connection.fetch(
        "SELECT partition, count(*) FROM windsor_private.calls GROUP BY 1"
    )
    counts = dict.fromkeys(range(partitions), 0)
    for partition, count in rows:
        counts[partition] = count
    return counts
