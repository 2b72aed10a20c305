"""Postgres' edge: one transaction a batch."""

from consumer.postgres.connection import (
    FAILURES,
    Connection,
    check_dsn,
    connected,
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
    "connected",
    "open_sink",
    "prepare_connection",
    "translated",
]
