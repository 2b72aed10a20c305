"""`windsor verify`: recompute every projection from the stored calls, and compare.

The recomputation is SQL over the log in one snapshot, so it shares nothing with the fold that
it checks, and spills to disk where it does not fit. Only the merging of users, which has an
order, is done here; memory is bounded by the identities that take part in a merge.

With `repair` the workers are held off instead, so that there is nothing new to miss.
"""

from typing import Final, NamedTuple

import asyncpg

from consumer.core.call import Clock
from consumer.errors import TransientSinkError
from consumer.postgres import Connection, connected, prepare_connection
from consumer.schema import check_schema
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
    "expected_own_traits",
    "expected_seen",
    "keep_pruned_seen",
    "keep_pruned_only_seen",
    "expected_groups",
    "expected_audiences",
)
_COMPARED: Final = ("identities", "members", "users", "seen", "groups", "audiences", "aliases")
_LOST: Final = "lost identities"
_EXAMPLES_MAX: Final = 5
# A batch that hangs is cut off by its worker after 20 s: a repair outlives it. While it waits for
# the lock all batches wait behind it, so not for longer.
_LOCK_WAIT_SECONDS: Final = 30.0
# So many aliases are fetched at a time.
_ALIASES_FETCHED: Final = 1_000
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
    """By projection, all of them; `lost identities` too, where there are any: calls point at
    them, but their rows are gone, which no repair can bring back."""
    repaired: bool
    examples: dict[str, list[str]]
    """Up to five ids a projection that differs: of its rows, or names, never a person's."""

    @property
    def differences(self) -> int:
        """All rows that differ (with a repair: differed)."""
        return sum(self.rows.values())

    @property
    def lost(self) -> int:
        """Differences that a repair leaves as they are."""
        return self.rows.get(_LOST, 0)

    def text(self) -> str:
        """One line a projection, for a person."""
        lines = [f"{name:15} {self._counted(name)}" for name in self.rows]
        mendable = self.differences - self.lost
        if not self.differences:
            lines.append("every projection is what the stored calls say")
        elif self.repaired:
            lines.append(f"{mendable} rows repaired")
        elif mendable:
            lines.append(f"{mendable} rows differ: run `windsor verify --repair`")
        if self.lost:
            lines.append(f"{self.lost} identities are gone: restore them from a backup")
        return "\n".join(lines)

    def _counted(self, name: str) -> str:
        if not self.rows[name]:
            return "ok"
        examples = self.examples[name]
        more = ", ..." if self.rows[name] > len(examples) else ""
        return f"{self.rows[name]} ({', '.join(examples)}{more})"


async def verify_database(dsn: str, *, repair: bool = False) -> Report:
    """Verify a database, live or not.

    Raises:
        SchemaError: It has another version's schema.
        TransientSinkError: It cannot be reached, or somebody holds a lock for too long.
    """
    await check_schema(dsn)
    # No deadline for a statement: a scan of all calls takes as long as there are calls, and whoever
    # waits for it can end it. What has one is to connect, to wait for a lock, and for a network
    # that is dead.
    async with connected(dsn, statement_seconds=None, name="windsor verify") as connection:
        await prepare_connection(connection)
        try:
            return await verify(connection, repair=repair)
        except asyncpg.LockNotAvailableError as error:
            raise TransientSinkError(
                f"verify waited {_LOCK_WAIT_SECONDS:g} s for a lock that somebody holds (a"
                " migration, a repair, or a transaction that hangs: look at pg_stat_activity): try"
                " again once it has ended"
            ) from error


async def verify(connection: Connection, *, repair: bool = False) -> Report:
    """Compare in one snapshot; with `repair`, alone with the database, mend what differs.

    Args:
        connection: Prepared by `consumer.postgres.prepare_connection`, in no transaction;
            a statement may take as long as a scan of all calls, but waits for a lock no longer
            than `_LOCK_WAIT_SECONDS`.
        repair: Holds off all workers while it mends; they wait and go on by themselves.
    """
    async with connection.transaction(isolation="read_committed" if repair else "repeatable_read"):
        await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_SECONDS:g}s'")
        await connection.execute(_VERIFY["hold_weeks"])
        if repair:
            await connection.execute(_VERIFY["lock_batches"])
            await connection.execute(_VERIFY["begin_epoch"])
            await connection.execute(_VERIFY["repair_missing_identities"])
        for step in _RECOMPUTE:
            await connection.execute(_VERIFY[step])
        merges = await _merges(connection)
        await connection.execute(_VERIFY["fill_components"], *merges.columns())
        for step in _RECOMPUTE_JOINS:
            await connection.execute(_VERIFY[step])
        report = await _report(connection, repaired=repair)
        if repair and report.differences:
            for step in _REPAIRS:
                await connection.execute(_VERIFY[step])
    return report


async def _report(connection: Connection, *, repaired: bool) -> Report:
    await connection.execute(_VERIFY["create_differing"])
    for name in (*_COMPARED, "lost_identities"):
        await connection.execute(_VERIFY[f"differing_{name}"])
    rows = dict.fromkeys(_COMPARED, 0)
    examples = {}
    for row in await connection.fetch(_VERIFY["summary"], _EXAMPLES_MAX):
        rows[row["projection"]] = row["rows_count"]
        examples[row["projection"]] = row["examples"]
    return Report(rows, repaired, examples)


async def _merges(connection: Connection) -> "_Merges":
    merges = _Merges()
    async for row in connection.cursor(_VERIFY["merging_aliases"], prefetch=_ALIASES_FETCHED):
        merges.apply(
            row["previous_identity_id"],
            row["user_identity_id"],
            Clock(row["occurred_at"], row["message_id"]),
        )
    return merges


class _Merges:
    """Users merged by aliases, given in clock order; all ids are of user identities.

    The root of a merged user is the identity that names it: an alias keeps the name that the
    user of its `userId` has, so its root stays the root.
    """

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._merged: dict[int, Clock] = {}

    def apply(self, previous: int, user: int, clock: Clock) -> None:
        """Merge the user of `previous` into that of `user`, unless they are one already."""
        gone, root = self._root(previous), self._root(user)
        if gone != root:
            self._parent[gone] = root
            # What was merged into the one that is gone was so by an earlier alias.
            self._merged[root] = clock

    def columns(self) -> tuple[list[int], list[int], list[int], list[str]]:
        """Identities that take part, and of each its root and the last merge's clock."""
        identities = list(self._parent)
        roots = [self._root(identity) for identity in identities]
        clocks = [self._merged[root] for root in roots]
        return identities, roots, [at for at, _ in clocks], [id_ for _, id_ in clocks]

    def _root(self, identity: int) -> int:
        root = identity
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while self._parent[identity] != root:
            self._parent[identity], identity = root, self._parent[identity]
        return root
