"""The commands as a person types them."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from consumer.cli import main
from consumer.schema import migrations
from demo.servers import free_port


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    **settings: str,
) -> tuple[int, str, str]:  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"WINDSOR_{name.upper()}", value)
    exit_code = main(arguments)
    printed = capsys.readouterr()
    return exit_code, printed.out, printed.err


def test_misspelled_setting_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["consume"], monkeypatch, capsys, lane="3") == (
        2, "", "windsor: WINDSOR_LANE: did you mean WINDSOR_LANES?\n",
    )  # fmt: skip


def test_missing_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, _, error = run(["consume"], monkeypatch, capsys)

    assert (exit_code, error.count("must be set")) == (2, 2)


def test_database_that_is_away_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    exit_code, _, error = run(["status"], monkeypatch, capsys, database_url=url)

    assert exit_code == 1
    assert error.startswith("windsor: Postgres cannot be used now")
    assert error.count("\n") == 1


def test_migrate_status_and_verify_on_a_fresh_database(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate"], monkeypatch, capsys, database_url=database)[:2] == (
        0, "nothing to apply\n",
    )  # fmt: skip
    exit_code, printed, _ = run(["status"], monkeypatch, capsys)
    assert (exit_code, printed.splitlines()[0].split()) == (
        0, ["schema", "version", str(migrations()[-1].version)],
    )  # fmt: skip
    assert run(["verify"], monkeypatch, capsys)[0] == 0


async def test_worker_without_servers_is_alive_not_ready_and_stops_on_sigterm() -> None:
    port = free_port()
    environment = {
        **os.environ,
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "WINDSOR_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
        "WINDSOR_HTTP_PORT": str(port),
        "WINDSOR_LOG_FORMAT": "json",
    }
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "consume",
        env=environment, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert worker.stderr is not None
    async with asyncio.timeout(60):
        first = [await worker.stderr.readline() for _ in range(2)]
        answers = {
            path: await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}{path}")
            for path in ("/healthz", "/readyz", "/metrics")
        }
        worker.send_signal(signal.SIGTERM)
        await worker.stderr.read()
        exit_code = await worker.wait()

    assert b'"event": "worker.started"' in first[0]
    assert b'"event": "database.unreachable"' in first[1]
    assert answers["/healthz"] == (200, "ok")
    status, why = answers["/readyz"]
    assert (status, why.partition(": ")[0]) == (503, "waiting for the database")
    assert 'windsor_retries_total{reason="connect",side="postgres"}' in answers["/metrics"][1]
    assert exit_code == 0


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_worker_does_without_the_dashboard() -> None:
    loaded = "print([name for name in sys.modules if name.split('.')[0] == 'dashboard'])"

    ran = subprocess.run(
        [sys.executable, "-c", f"import sys, consumer.cli; consumer.cli._parser(); {loaded}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert ran.stdout == "[]\n"
