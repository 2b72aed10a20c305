"""The worker as a process of its own, seen from outside."""

import asyncio
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    def now(cls, worker: "Worker", servers: Servers) -> "_Costs":
        return cls(
            time.monotonic(), worker.cpu_seconds(), postgres_cpu_seconds(servers.postgres_pid)
        )


class Worker:
    """One `windsor consume`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._process = process
        self._status = psutil.Process(process.pid)
        self._url = f"http://127.0.0.1:{port}"

    async def stored_count(self) -> int:
        """Calls committed so far, duplicates included; by the worker's counter, once a batch."""
        text = await asyncio.to_thread(self._get, "/metrics")
        return int(sum(float(value) for value in _STORED.findall(text)))

    async def until_ready(self) -> None:
        """Wait until it has its partitions."""
        async with asyncio.timeout(_READY_SECONDS_MAX):
            while not await asyncio.to_thread(self._get, "/readyz"):  # noqa: ASYNC110 - nobody calls us
                await asyncio.sleep(_POLL_SECONDS_MIN)

    def cpu_seconds(self) -> float:
        """CPU since its start."""
        times = self._status.cpu_times()
        return float(times.user + times.system)

    def rss_bytes_max(self) -> int:
        """Most memory that it ever had; what it has now where the system does not say."""
        status = Path(f"/proc/{self._process.pid}/status")
        if status.exists():
            high_water = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            if high_water:
                return int(high_water[1]) * 1024
        return int(self._status.memory_info().rss)

    def _get(self, path: str) -> str:
        if self._process.poll() is not None:
            raise WindsorError("the worker ended: its last words are above")
        try:
            return httpx.get(self._url + path, timeout=10).raise_for_status().text
        except (httpx.TransportError, httpx.HTTPStatusError):
            # It does not listen yet, or is not ready.
            return ""


@asynccontextmanager
async def working(servers: Servers, topic: str, dsn: str) -> AsyncIterator[Worker]:
    """Run a worker of a new group, which starts at the topic's beginning."""
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WINDSOR_")},
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": servers.kafka,
        "WINDSOR_KAFKA_TOPICS": topic,
        "WINDSOR_KAFKA_GROUP_ID": f"bench-{uuid.uuid4()}",
        "WINDSOR_DATABASE_URL": dsn,
        "WINDSOR_HTTP_HOST": "127.0.0.1",
        "WINDSOR_HTTP_PORT": str(port),
        "WINDSOR_LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "consumer.cli", "consume"], env=environment)
    try:
        yield Worker(process, port)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def until_consumed(worker: Worker, servers: Servers, count: int) -> Consumed:
    """Wait until a worker that has just started has committed so many calls.

    Raises:
        WindsorError: It commits no more, or another number.
    """
    nothing_yet = before = _Costs.now(worker, servers)
    begun = before.at
    while not await worker.stored_count():
        # What is answered was true a little later than we asked.
        nothing_yet = before
        if before.at - begun > _STALLED_SECONDS_MAX:
            raise WindsorError("the worker stores nothing: is its topic empty?")
        await asyncio.sleep(_POLL_SECONDS_MIN)
        before = _Costs.now(worker, servers)
    progress = [(0.0, 0)]
    while progress[-1][1] < count:
        stored = await worker.stored_count()
        seconds = time.monotonic() - nothing_yet.at
        if stored > progress[-1][1]:
            progress.append((seconds, stored))
        elif seconds - progress[-1][0] > _STALLED_SECONDS_MAX:
            raise WindsorError(f"the worker stands still at {stored:,} of {count:,} calls")
        # Rarely while it is far from done, so that asking takes nothing from it.
        left = (count - stored) * seconds / max(stored, 1)
        await asyncio.sleep(min(max(left / 4, _POLL_SECONDS_MIN), _POLL_SECONDS_MAX))
    seconds, stored = progress[-1]
    if stored != count:
        raise WindsorError(f"the worker stored {stored:,} calls of {count:,}")
    costs = _Costs.now(worker, servers)
    return Consumed(
        count,
        seconds,
        costs.worker_cpu_seconds - nothing_yet.worker_cpu_seconds,
        costs.postgres_cpu_seconds - nothing_yet.postgres_cpu_seconds,
        progress,
    )
