"""The `windsor` command in a process of its own, as a person runs it."""

import asyncio
import os
import sys
from typing import NamedTuple


class Ran(NamedTuple):
    """What a command left behind."""

    exit_code: int
    out: str
    err: str


def environment(**settings: str) -> dict[str, str]:
    """The environment with settings: `database_url=...` is `WINDSOR_DATABASE_URL`."""
    return {**os.environ, **{f"WINDSOR_{name.upper()}": value for name, value in settings.items()}}


async def windsor(*arguments: str, **settings: str) -> Ran:
    """Run the command to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", *arguments, env=environment(**settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())
