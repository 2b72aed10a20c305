"""Read the public views as plain values, to hold against the model's."""

import json
from collections.abc import Callable
from typing import Any

import asyncpg

from tests.model import Views

_COLUMNS = {
    "users": "user_id, email, name, phone, avatar, group_id, traits, identified,"
    " first_seen_at, last_seen_at",
    "user_ids": "kind, value, user_id, message_id, since",
    "groups": "group_id, traits, members_count",
    "feed": "message_id, user_id, anonymous_id, type, name, category, hidden, occurred_at,"
    " received_at, properties, context",
    "audiences": "name, computation_class, last_synced_at, members_count",
    "merges": "message_id, previous_id, user_id, occurred_at, undone_at",
}


async def stored_views(dsn: str, loads: Callable[[str], Any] = json.loads) -> Views:
    """What the database's views hold: times in microseconds, JSON as values."""
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        epoch_us = 946_684_800_000_000
        await connection.set_type_codec(
            "timestamptz", schema="pg_catalog", format="tuple",
            encoder=lambda at: (at - epoch_us,), decoder=lambda value: value[0] + epoch_us,
        )  # fmt: skip
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=loads
        )
        views: Views = {}
        for view, columns in _COLUMNS.items():
            rows: list[dict[str, Any]] = [
                dict(row) for row in await connection.fetch(f"SELECT {columns} FROM windsor.{view}")
            ]
            views[view] = sorted(rows, key=repr)
        return views
    finally:
        await connection.close()
