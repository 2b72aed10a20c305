"""`windsor verify`: recompute every projection from the stored calls, and compare.

The recomputation is SQL over the log in one snapshot, so it shares nothing with the fold that
it checks, and spills to disk where it does not fit. Only the components of merged users
are computed here; memory is bounded by the identities that take part in a merge.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from consumer.core.call import Clock
from consumer.core.merge import NamedAlias, replay_names
from consumer.postgres import check_schema, prepare_connection
from consumer.sql import load_queries

_VERIFY: Final = load_queries("verify.sql")

_RECOMPUTE: Final = (
    "expected_aliases",
    "expected_claims",
    "expected_traits",
    "expected_identities",
    "keep_pruned",
    "create_components",
)
_RECOMPUTE_JOINS: Final = (
    "expected_members",
    "expected_roots",
    "expected_users",
    "expected_seen",
    "keep_pruned_seen",
    "keep_pruned_only_seen",
    "expected_groups",
    "expected_audiences",
)
_COMPARED: Final = ("identities", "members", "users", "seen", "groups", "audiences", "aliases")
_REPAIRS: Final = (
    "repair_identities",
    "repair_drop_aliases",
    "repair_aliases",
    "repair_drop_members",
    "repair_members",
    "repair_drop_users",
    "repair_users",
    "repair_drop_seen",
    "repair_seen",
    "repair_drop_groups",
    "repair_groups",
    "repair_drop_audiences",
    "repair_audiences",
)


class Report(NamedTuple):
    """How many rows of each projection differ from what the log says."""

    rows: dict[str, int]
    repaired: bool

    @property
    def differences(self) -> int:
        """All rows that differ."""
        return sum(self.rows.values())

    def text(self) -> str:
        """One line a projection, for a person."""
        lines = [f"{name:12} {count or 'ok'}" for name, count in self.rows.items()]
        if not self.differences:
            lines.append("every projection is what the stored calls say")
        elif self.repaired:
            lines.append(f"{self.differences} rows repaired")
        else:
            lines.append(f"{self.differences} rows differ: run `windsor verify --repair`")
        return "\n".join(lines)


async def verify_database(dsn: str, *, repair: bool = False) -> Report:
    """Verify a database, live or not.

    Raises:
        SchemaError: It has another version's schema.
        TransientSinkError: It cannot be reached.
    """
    await check_schema(dsn)
    connection = await asyncpg.connect(dsn, timeout=10, server_settings={"timezone": "UTC"})
    try:
        await prepare_connection(connection)
        return await verify(connection, repair=repair)
    finally:
        await connection.close(timeout=5)


async def verify(
    connection: "asyncpg.Connection[asyncpg.Record]", *, repair: bool = False
) -> Report:
    """Compare in one snapshot; with `repair`, alone with the database, mend what differs.

    Args:
        connection: Prepared by `consumer.postgres.prepare_connection`.
        repair: Holds off all workers while it mends; they wait and go on by themselves.
    """
    async with connection.transaction(isolation="read_committed" if repair else "repeatable_read"):
        if repair:
            await connection.execute(_VERIFY["lock_batches"])
            await connection.execute(_VERIFY["repair_missing_identities"])
        for step in _RECOMPUTE:
            await connection.execute(_VERIFY[step])
        rows = await connection.fetch(_VERIFY["merging_aliases"])
        identities, roots, names = _components(rows)
        await connection.execute(_VERIFY["fill_components"], identities, roots, names)
        for step in _RECOMPUTE_JOINS:
            await connection.execute(_VERIFY[step])
        counts = {
            name: int(await connection.fetchval(_VERIFY[f"differing_{name}"])) for name in _COMPARED
        }
        if repair:
            for step in _REPAIRS:
                await connection.execute(_VERIFY[step])
    return Report(counts, repair)


def _components(
    rows: Sequence[asyncpg.Record],
) -> tuple[list[int], list[int], list[str]]:
    """Identities that take part in merges, the root of each and its merged name."""
    parent: dict[int, int] = {}

    def root_of(identity: int) -> int:
        root = identity
        while (above := parent.setdefault(root, root)) != root:
            root = above
        while parent[identity] != root:
            parent[identity], identity = root, parent[identity]
        return root

    for row in rows:
        parent[root_of(row["previous_identity_id"])] = root_of(row["user_identity_id"])
    aliases: dict[int, list[NamedAlias]] = {}
    for row in rows:
        clock = Clock(row["occurred_at"], row["message_id"])
        alias = NamedAlias(clock, row["previous_value"], row["user_value"])
        aliases.setdefault(root_of(row["user_identity_id"]), []).append(alias)
    names = {root: replay_names(of_root)[0] for root, of_root in aliases.items()}
    identities = list(parent)
    roots = [root_of(identity) for identity in identities]
    return identities, roots, [names[root] for root in roots]
