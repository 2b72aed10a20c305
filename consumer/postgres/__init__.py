"""Postgres' edge: one transaction a batch."""

from consumer.postgres.connection import (
    FAILURES,
    Connection,
    check_dsn,
    prepare_connection,
    translated,
)
from consumer.postgres.sink import PostgresOptions, PostgresSink, open_sink

__all__ = [
    "FAILURES",
    "Connection",
    "PostgresOptions",
    "PostgresSink",
    "check_dsn",
    "open_sink",
    "prepare_connection",
    "translated",
]
