"""Servers for the tests: those of the environment, else containers, else embedded ones."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from demo.servers import embedded_kafka, embedded_postgres


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
