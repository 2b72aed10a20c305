"""`windsor run` as a new user runs it, twice: the second time changes nothing."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from dashboard.doors import hash_password
from tests.model import Views
from tests.views import stored_views


async def run_until_ready(environment: dict[str, str]) -> str:
    """Run, wait until it has told everything, press Ctrl-C; gives what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "run",
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    printed = ""
    async with asyncio.timeout(120):
        async for line in process.stdout:
            printed += line.decode()
            if "until Ctrl-C" in printed:
                break
        assert process.returncode is None, printed
        process.send_signal(signal.SIGINT)
        rest = await process.stdout.read()
        exit_code = await process.wait()
    printed += rest.decode()
    assert exit_code == 0, printed
    return printed


async def test_second_run_changes_nothing(kafka_server: str, database: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": kafka_server,
        "WINDSOR_KAFKA_TOPICS": "story",
        "WINDSOR_KAFKA_GROUP_ID": "story",
        "WINDSOR_DATABASE_URL": database,
        "WINDSOR_HTTP_PORT": "0",
        "WINDSOR_DASHBOARD_PORT": "0",
        "WINDSOR_RUN_FOLDER": str(tmp_path),
    }

    printed = await run_until_ready(environment)
    first: Views = await stored_views(database)
    # Where people come by a public address and a password, it finds its own endpoint all the same.
    again = await run_until_ready(
        {
            **environment,
            "WINDSOR_DASHBOARD_URL": "https://windsor.example.com",
            "WINDSOR_DASHBOARD_PASSWORD_HASH": hash_password("of-a-test"),
        }
    )

    # The token that somebody has put into their code goes on working.
    assert [token in printed for token in re.findall(r"ws_\w+", again)] == [True, True]
    assert await stored_views(database) == first
    assert len(first["users"]) > 100
    assert len(first["feed"]) > 5_000
    assert len(first["audiences"]) == 3
    for heading in (
        "Customers, in one place",
        "Latest in the feed",
        "Dead letters",
        "/metrics",
        "/open?key=",
        "of them through the endpoint",
        "curl -u ws_",
    ):
        assert heading in printed
    assert "Stopped" in printed
    assert "Dashboard:    https://windsor.example.com/\n" in again
