"""The endpoint's speed: calls a second accepted and acknowledged by one process.

Kafka, the endpoint and the callers share this machine's cores; no worker runs.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import httpx
import msgspec
import psutil

from bench.callers import Answered
from bench.servers import Servers, new_topic
from bench.stage import Stage
from consumer.errors import WindsorError
from dashboard.tokens import generate
from demo.servers import free_port

BATCH_CALLS: Final = 100
# Half of what is promised: 20,000 calls a second in batches, 2,500 singly.
BATCHED_CALLS_PER_SECOND: Final = 10_000
SINGLE_CALLS_PER_SECOND: Final = 1_250
_FASTEST_SHARE: Final = 0.5
_CONNECTIONS: Final = {BATCH_CALLS: 16, 1: 64}
_READY_SECONDS_MAX: Final = 60.0


async def endpoint(stage: Stage) -> dict[str, float]:
    """Measure how fast it takes calls, and how long one takes at half of what is promised."""
    seconds = stage.sizes.steady_seconds
    found: dict[str, float] = {}
    async with (
        stage.database() as dsn,
        new_topic(stage.servers.kafka) as topic,
        _serving(stage.servers, topic, dsn) as (url, token, cpu_seconds),
    ):
        for name, calls, pace in (
            ("batched", BATCH_CALLS, BATCHED_CALLS_PER_SECOND),
            ("single", 1, SINGLE_CALLS_PER_SECOND),
        ):
            before = cpu_seconds()
            fastest = await _sent(url, token, calls, 0, seconds * _FASTEST_SHARE)
            spent = cpu_seconds() - before
            steady = await _sent(url, token, calls, pace, seconds)
            taken = fastest.calls_per_second * seconds * _FASTEST_SHARE
            found |= {
                f"endpoint_{name}_calls_per_second": fastest.calls_per_second,
                f"endpoint_{name}_p50_seconds": steady.p50_seconds,
                f"endpoint_{name}_p99_seconds": steady.p99_seconds,
                f"endpoint_{name}_cpu_seconds_per_million": spent / taken * 1e6,
            }
    return found


async def _sent(url: str, token: str, calls: int, pace: float, seconds: float) -> Answered:
    """Let callers send.

    Raises:
        WindsorError: A request was refused.
    """
    arguments = [
        "--batch-calls", str(calls), "--connections", str(_CONNECTIONS[calls]),
        "--calls-per-second", str(pace), "--seconds", str(seconds),
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.callers", url, token, *arguments,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    answered = msgspec.json.decode(out, type=Answered)
    if answered.refused_count:
        raise WindsorError(f"the endpoint refused {answered.refused_count} requests")
    return answered


@asynccontextmanager
async def _serving(
    servers: Servers, topic: str, dsn: str
) -> AsyncIterator[tuple[str, str, Callable[[], float]]]:
    """Run the endpoint as a process of its own; gives its address, a token, and its CPU's clock."""
    port, probes_port = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WINDSOR_")},
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": servers.kafka,
        "WINDSOR_KAFKA_TOPICS": topic,
        "WINDSOR_DATABASE_URL": dsn,
        "WINDSOR_DASHBOARD_PORT": str(port),
        "WINDSOR_ENDPOINT_CALLS_PER_SECOND_MAX": "1000000",
        "WINDSOR_HTTP_HOST": "127.0.0.1",
        "WINDSOR_HTTP_PORT": str(probes_port),
        "WINDSOR_LOG_LEVEL": "error",
    }
    connection = await asyncpg.connect(dsn)
    try:
        _, token = await generate(connection, "bench")
    finally:
        await connection.close()
    process = subprocess.Popen([sys.executable, "-m", "consumer.cli", "dashboard"], env=environment)
    status = psutil.Process(process.pid)

    def cpu_seconds() -> float:
        times = status.cpu_times()
        return float(times.user + times.system)

    try:
        await _until_ready(process, f"http://127.0.0.1:{probes_port}/readyz")
        yield f"http://127.0.0.1:{port}", token, cpu_seconds
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    async with asyncio.timeout(_READY_SECONDS_MAX), httpx.AsyncClient() as client:
        while True:
            if process.poll() is not None:
                raise WindsorError("the endpoint ended: its last words are above")
            try:
                if (await client.get(url)).is_success:
                    return
            except httpx.TransportError:
                # It does not listen yet.
                pass
            await asyncio.sleep(0.05)
