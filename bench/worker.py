"""The workers as processes of their own, seen from outside."""

import asyncio
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import psutil

from bench.servers import Servers, postgres_cpu_seconds
from consumer.errors import WindsorError
from demo.servers import free_port

_STORED: Final = re.compile(r"^windsor_calls_stored_total\{.*?\} (\S+)$", re.MULTILINE)
_READY_SECONDS_MAX: Final = 60.0
_STALLED_SECONDS_MAX: Final = 120.0
_POLL_SECONDS_MIN: Final = 0.02
_POLL_SECONDS_MAX: Final = 0.5


class Consumed(NamedTuple):
    """What it took to commit a topic."""

    calls_count: int
    seconds: float
    """From the last moment at which nothing was committed."""

    worker_cpu_seconds: float
    """Of all workers."""

    postgres_cpu_seconds: float
    progress: list[tuple[float, int]]
    """Seconds, and calls committed by then."""

    @property
    def calls_per_second(self) -> float:
        """The throughput."""
        return self.calls_count / self.seconds


class _Costs(NamedTuple):
    """What has been spent at a moment."""

    at: float
    worker_cpu_seconds: float
    postgres_cpu_seconds: float

    @classmethod
    def now(cls, workers: "Workers", servers: Servers) -> "_Costs":
        return cls(
            time.monotonic(), workers.cpu_seconds(), postgres_cpu_seconds(servers.postgres_pid)
        )


class Workers:
    """So many `windsor consume` of one group."""

    def __init__(
        self,
        processes: Sequence["subprocess.Popen[bytes]"],
        ports: Sequence[int],
        client: httpx.Client,
    ) -> None:
        self._processes = processes
        self._client = client
        self._statuses = [psutil.Process(process.pid) for process in processes]
        self._urls = [f"http://127.0.0.1:{port}" for port in ports]

    async def stored_count(self) -> int:
        """Calls committed so far, duplicates included; by the workers' counters, once a batch."""
        texts = await asyncio.to_thread(self._get_all, "/metrics")
        return int(sum(float(value) for text in texts for value in _STORED.findall(text)))

    async def until_ready(self) -> None:
        """Wait until all have their partitions."""
        async with asyncio.timeout(_READY_SECONDS_MAX):
            while not all(await asyncio.to_thread(self._get_all, "/readyz")):  # noqa: ASYNC110 - nobody calls us
                await asyncio.sleep(_POLL_SECONDS_MIN)

    def cpu_seconds(self) -> float:
        """CPU of all since their start."""
        times = [status.cpu_times() for status in self._statuses]
        return float(sum(time.user + time.system for time in times))

    def rss_bytes_max(self) -> int:
        """Most memory that one of them ever had; what it has now where the system does not say."""
        return max(map(_rss_bytes_max, self._statuses))

    def _get_all(self, path: str) -> list[str]:
        if any(process.poll() is not None for process in self._processes):
            raise WindsorError("a worker ended: its last words are above")
        return [self._get(url + path) for url in self._urls]

    def _get(self, url: str) -> str:
        try:
            return self._client.get(url).raise_for_status().text
        except (httpx.TransportError, httpx.HTTPStatusError):
            # It does not listen yet, or is not ready.
            return ""


def _rss_bytes_max(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        high_water = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if high_water:
            return int(high_water[1]) * 1024
    return int(process.memory_info().rss)


@asynccontextmanager
async def working(servers: Servers, topic: str, dsn: str, count: int) -> AsyncIterator[Workers]:
    """Run so many workers of a new group, which start at the topic's beginning."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WINDSOR_")},
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": servers.kafka,
        "WINDSOR_KAFKA_TOPICS": topic,
        "WINDSOR_KAFKA_GROUP_ID": f"bench-{uuid.uuid4()}",
        "WINDSOR_DATABASE_URL": dsn,
        "WINDSOR_HTTP_HOST": "127.0.0.1",
        "WINDSOR_LOG_LEVEL": "error",
    }
    ports = [free_port() for _ in range(count)]
    with ExitStack() as exits:
        processes = [
            exits.enter_context(_consuming({**environment, "WINDSOR_HTTP_PORT": str(port)}))
            for port in ports
        ]
        # One for all questions: a client of its own for each took a twentieth of the machine.
        client = exits.enter_context(httpx.Client(timeout=10))
        yield Workers(processes, ports, client)


@contextmanager
def _consuming(environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-m", "consumer.cli", "consume"], env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def until_consumed(workers: Workers, servers: Servers, count: int) -> Consumed:
    """Wait until workers that have just started have committed so many calls.

    Raises:
        WindsorError: They commit no more, or another number.
    """
    nothing_yet = before = _Costs.now(workers, servers)
    begun = before.at
    while not await workers.stored_count():
        # What is answered was true a little later than we asked.
        nothing_yet = before
        if before.at - begun > _STALLED_SECONDS_MAX:
            raise WindsorError("the workers store nothing: is their topic empty?")
        await asyncio.sleep(_POLL_SECONDS_MIN)
        before = _Costs.now(workers, servers)
    progress = [(0.0, 0)]
    while progress[-1][1] < count:
        stored = await workers.stored_count()
        seconds = time.monotonic() - nothing_yet.at
        if stored > progress[-1][1]:
            progress.append((seconds, stored))
        elif seconds - progress[-1][0] > _STALLED_SECONDS_MAX:
            raise WindsorError(f"the workers stand still at {stored:,} of {count:,} calls")
        # Rarely while they are far from done, so that asking takes nothing from them.
        left = (count - stored) * seconds / max(stored, 1)
        await asyncio.sleep(min(max(left / 4, _POLL_SECONDS_MIN), _POLL_SECONDS_MAX))
    seconds, stored = progress[-1]
    if stored != count:
        raise WindsorError(f"the workers stored {stored:,} calls of {count:,}")
    costs = _Costs.now(workers, servers)
    return Consumed(
        count,
        seconds,
        costs.worker_cpu_seconds - nothing_yet.worker_cpu_seconds,
        costs.postgres_cpu_seconds - nothing_yet.postgres_cpu_seconds,
        progress,
    )
