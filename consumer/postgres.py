"""Postgres: one transaction a batch, and the schema that it needs.

Theory of operation
-------------------
Every register of an identity takes the least or the greatest clock (`consumer.core.fold`),
so what is read without a lock can only be out of date in one direction: a call that changes
nothing against an older state changes nothing now. Only identities that a batch does change
are locked, and then the users that they belong to:

1. ids of all identities are looked up, ids for missing ones reserved (before the transaction);
   what was read or written of them is remembered, for it can only be out of date in that
   direction;
2. missing identities are inserted, with all that the batch says of them; should another
   transaction have made one, this one begins again;
3. the calls are copied; should one be stored already, the transaction begins again and
   asks first which ones are;
4. identities that change are locked by id, their registers joined;
5. users concerned are locked by id; were they merged meanwhile, back to the savepoint;
6. claims and aliases are applied (`consumer.core.merge`), and everything is written.

A user's row lock guards which identities belong to it, so a merge never waits for an
identity, and the order identities, users, the rest has no circle.
"""

import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import asyncpg
import structlog

from consumer.core.call import Call, Clock, Identity, Rejected
from consumer.core.fold import Delta, Deltas, Traits, fold, join_traits
from consumer.core.merge import (
    AliasRow,
    IdentityState,
    NamedAlias,
    UserState,
    apply_delta,
    claim_wins,
    regroup,
    replay_names,
)
from consumer.errors import PermanentSinkError, TransientSinkError
from consumer.ports import Batch, Written
from consumer.rows import (
    columns,
    decode_traits,
    encode_traits,
    headers,
    identity_row,
    identity_state,
    record_timestamp,
    user_row,
    user_state,
)
from consumer.sql import load_queries

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

log = structlog.get_logger()

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_PG_EPOCH_US: Final = 946_684_800_000_000
_WEEK_US: Final = 7 * 86_400_000_000
# 1970-01-05, the first Monday of the epoch.
_FIRST_MONDAY_US: Final = 4 * 86_400_000_000
_FIRST_MONDAY: Final = date(1970, 1, 5)

# Some 300 bytes each, in two generations.
_REMEMBERED_MAX: Final = 100_000

# For so many batches after a duplicate we ask before copying: a replay is duplicates all
# through, and a failed COPY costs more than the question.
_CHECKED_BATCHES: Final = 50

_WRITE = load_queries("write.sql")
_REJOIN = load_queries("rejoin.sql")["rejoin_users"]

_CALL_COLUMNS: Final = (
    "occurred_at",
    "received_at",
    "message_key",
    "identity_id",
    "anonymous_identity_id",
    "offset",
    "partition",
    "type",
    "topic",
    "message_id",
    "name",
    "category",
    "properties",
    "context",
    "traits",
    "previous_id",
    "group_id",
    "claims",
)


class PostgresOptions(NamedTuple):
    """How to reach Postgres; every wait has an end."""

    dsn: str
    connections_max: int = 3
    connect_timeout_seconds: float = 10.0
    statement_timeout_seconds: float = 60.0


class _Known(NamedTuple):
    """What was read or written of an identity, now or earlier."""

    id: int
    listed: bool
    identified: bool
    claimed: Clock | None


class _Identities:
    """What is known of identities met lately, in two generations of bounded size.

    The database may be ahead of it, never behind, until an operator's command rewrites
    history: that starts another epoch, in which everything is asked anew.
    """

    def __init__(self) -> None:
        self.epoch: int | None = None
        """Of what is known; None before the first."""
        self._young: dict[Identity, _Known] = {}
        self._old: dict[Identity, _Known] = {}

    def begin(self, epoch: int) -> None:
        """Forget what is known of another epoch."""
        if self.epoch != epoch:
            self.epoch = epoch
            self._young, self._old = {}, {}

    def split(self, wanted: Iterable[Identity]) -> tuple[dict[Identity, _Known], list[Identity]]:
        """Tell what is known, and of whom nothing is."""
        known, missing = {}, []
        for identity in wanted:
            found = self._young.get(identity) or self._old.get(identity)
            if found is None:
                missing.append(identity)
            else:
                known[identity] = found
        return known, missing

    def remember(self, known: Mapping[Identity, _Known], epoch: int) -> None:
        """Keep what was read or committed in an epoch, should it last."""
        if epoch != self.epoch:
            return
        self._young.update(known)
        if len(self._young) > _REMEMBERED_MAX:
            self._young, self._old = {}, self._young


class PostgresSink:
    """Writes batches; implements `consumer.ports.Sink`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", options: PostgresOptions) -> None:
        self._pool = pool
        self._options = options
        self._weeks: set[int] = set()
        self._known = _Identities()
        self._checked_batches_left = 0

    @property
    def pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        """The connections, for their metrics and for questions beside the batches."""
        return self._pool

    async def write(self, batch: Batch) -> Written:
        """Write a batch in one transaction; see `consumer.ports.Sink.write`."""
        calls, repeated = _distinct(batch.calls)
        async with self._connection() as connection:
            await self._ensure_weeks(connection, calls)
            for attempt in itertools.count(1):
                epoch, known, missing = await self._identities(connection, calls)
                try:
                    done = await self._transaction(
                        connection, calls, batch.rejected, known, missing, epoch
                    )
                except asyncpg.UniqueViolationError as error:
                    if error.table_name is None or not error.table_name.startswith("calls"):
                        raise
                    # A call of the batch is stored already: ask which, and copy the others.
                    self._checked_batches_left = _CHECKED_BATCHES
                except _OutOfDateError:
                    continue
                else:
                    # Committed: what is remembered must never be ahead of the database.
                    self._known.remember(known, epoch)
                    duplicates = done.calls_duplicate + repeated
                    return done._replace(calls_duplicate=duplicates, attempts=attempt)
        raise AssertionError("unreachable")

    async def ping(self) -> None:
        """Ask Postgres for a sign of life.

        Raises:
            TransientSinkError: There is none.
        """
        async with self._connection() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection; what goes wrong on it is translated here, once."""
        try:
            async with self._pool.acquire(
                timeout=self._options.connect_timeout_seconds
            ) as connection:
                yield connection
        except asyncpg.ReadOnlySQLTransactionError as error:
            # After a failover the pool still holds the old primary, read-only now.
            await self._pool.expire_connections()
            raise translated(error) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise translated(error) from error

    async def _identities(
        self, connection: Connection, calls: Sequence[Call]
    ) -> tuple[int, dict[Identity, _Known], list[Identity]]:
        """Find the identities that the calls mention, and reserve ids for those there are not.

        Returns:
            The epoch before, all of the identities, and which of them are to be inserted.
        """
        if (epoch := self._known.epoch) is None:
            epoch = await connection.fetchval(_WRITE["history_epoch"])
            self._known.begin(epoch)
        known, unknown = self._known.split(_mentions(calls))
        known |= await self._find(connection, unknown)
        missing = [identity for identity in unknown if identity not in known]
        if missing:
            ids = await connection.fetch(_WRITE["reserve_identity_ids"], len(missing))
            for identity, (id_,) in zip(missing, ids, strict=True):
                known[identity] = _Known(id_, listed=False, identified=False, claimed=None)
        return epoch, known, missing

    async def _find(
        self, connection: Connection, wanted: Sequence[Identity]
    ) -> dict[Identity, _Known]:
        if not wanted:
            return {}
        rows = await connection.fetch(
            _WRITE["find_identities"],
            [identity.kind for identity in wanted],
            [identity.value for identity in wanted],
        )
        return {
            wanted[place - 1]: _Known(
                id_, listed, identified, None if at is None else Clock(at, message_id)
            )
            for place, id_, listed, identified, at, message_id in rows
        }

    async def _ensure_weeks(self, connection: Connection, calls: Sequence[Call]) -> None:
        """Make the partitions of weeks not met before, outside of the transaction."""
        weeks = {_week(call.clock.at) for call in calls} - self._weeks
        if weeks:
            # One statement each, so that a lock on the parent is held as short as can be.
            for week in sorted(weeks):
                await connection.execute(_WRITE["ensure_weeks"], [_week_date(week)])
            self._weeks |= weeks

    async def _transaction(
        self,
        connection: Connection,
        calls: Sequence[Call],
        rejected: Sequence[Rejected],
        known: dict[Identity, _Known],
        missing: Sequence[Identity],
        epoch: int,
    ) -> Written:
        async with connection.transaction():
            await connection.execute(_WRITE["share_batches"])
            # A statement of its own: the lock may have been waited for.
            current = await connection.fetchval(_WRITE["history_epoch"])
            if current != epoch:
                self._known.begin(current)
                raise _OutOfDateError
            new = calls
            if self._checked_batches_left > 0:
                self._checked_batches_left -= 1
                new = await self._not_stored(connection, calls)
            merges = 0
            deltas = fold(new)
            made = await _insert_identities(connection, missing, deltas, known)
            if new:
                await self._copy(connection, new, known)
                merges = await _apply(connection, deltas, known, made)
            dead_letters = await _insert_dead_letters(connection, rejected)
        return Written(
            calls_new=len(new),
            calls_duplicate=len(calls) - len(new),
            merges=merges,
            dead_letters=dead_letters,
        )

    async def _not_stored(self, connection: Connection, calls: Sequence[Call]) -> Sequence[Call]:
        if not calls:
            return calls
        starts = [_week(call.clock.at) * _WEEK_US + _FIRST_MONDAY_US for call in calls]
        rows = await connection.fetch(
            _WRITE["stored_calls"],
            [call.message_key for call in calls],
            starts,
            [start + _WEEK_US for start in starts],
        )
        if not rows:
            return calls
        self._checked_batches_left = _CHECKED_BATCHES
        stored = {place - 1 for (place,) in rows}
        return [call for place, call in enumerate(calls) if place not in stored]

    async def _copy(
        self, connection: Connection, calls: Sequence[Call], known: Mapping[Identity, _Known]
    ) -> None:
        """Copy the calls, sorted by week and key so that waits cannot form a circle."""
        ordered = sorted(calls, key=lambda call: (_week(call.clock.at), call.message_key))
        await connection.copy_records_to_table(
            "calls",
            schema_name="windsor_private",
            columns=_CALL_COLUMNS,
            records=(
                (
                    call.clock.at,
                    call.received_at,
                    call.message_key,
                    known[call.identity].id,
                    None
                    if call.anonymous_id is None
                    else known[Identity("anonymous", call.anonymous_id)].id,
                    call.record.offset,
                    call.record.partition,
                    call.type,
                    call.record.topic,
                    call.clock.message_id,
                    call.name,
                    call.category,
                    call.properties,
                    call.context,
                    call.traits,
                    call.previous_id,
                    call.group_id,
                    [known[contact].id for contact in call.claims] if call.claims else None,
                )
                for call in ordered
            ),
        )


class _OutOfDateError(Exception):
    """What was read before the transaction holds no more.

    Users were merged by another one, or history was rewritten by an operator.
    """


async def _insert_identities(
    connection: Connection,
    missing: Sequence[Identity],
    deltas: Deltas,
    known: dict[Identity, _Known],
) -> dict[int, IdentityState]:
    """Insert identities that were not there, with what the batch says of them, by id.

    Raises:
        _OutOfDateError: Another transaction has made one of them meanwhile.
    """
    made = {}
    for identity in missing:
        state = IdentityState(known[identity].id, *identity)
        delta = deltas.identities.get(identity)
        if delta is not None:
            claimed_by = None if delta.claim is None else known[delta.claim[1]].id
            apply_delta(state, delta, claimed_by)
        known[identity] = _known(state)
        made[state.id] = state
    if made:
        rows = ((*identity_row(state), state.kind, state.value) for state in made.values())
        done = await connection.execute(_WRITE["insert_identities"], *columns(rows))
        if done != f"INSERT 0 {len(made)}":
            raise _OutOfDateError
    return made


async def _apply(
    connection: Connection,
    deltas: Deltas,
    known: dict[Identity, _Known],
    made: Mapping[int, IdentityState],
) -> int:
    """Write what a batch's new calls say, also into `known`; return the number of merges.

    Args:
        connection: In the transaction.
        deltas: What they say.
        known: All identities that they mention.
        made: Those inserted by this transaction.
    """
    changed = await _lock_and_join_identities(connection, deltas, known, made)
    # One that only stored calls mention is as blank as if it had not been looked up.
    changed += [state for state in made.values() if state.listed or state.claim]
    aliases = [
        AliasRow(alias.clock, known[alias.previous].id, known[alias.user].id)
        for alias in deltas.aliases
    ]
    merges = 0
    if changed or aliases:
        merges = await _regroup_users(connection, changed, aliases)
    await _put_seen(connection, deltas, known)
    await _put_groups(connection, deltas.groups)
    if deltas.audiences:
        await connection.execute(
            _WRITE["put_audiences"],
            *columns(
                (name, sync.computation_class, clock.at, clock.message_id)
                for name, (clock, sync) in deltas.audiences.items()
            ),
        )
    return merges


def _changes(identity: Identity, delta: Delta, known: _Known) -> bool:
    """Tell whether a delta may change a row, by what was read of it before."""
    return (
        delta.traits is not None
        or delta.group is not None
        or (delta.listed and not known.listed)
        or (delta.identified and not known.identified)
        or (delta.claim is not None and claim_wins(identity.kind, delta.claim[0], known.claimed))
    )


async def _lock_and_join_identities(
    connection: Connection,
    deltas: Deltas,
    known: dict[Identity, _Known],
    made: Mapping[int, IdentityState],
) -> list[IdentityState]:
    """Lock the identities that change, join their registers and write them."""
    ids = [
        known[identity].id
        for identity, delta in deltas.identities.items()
        if known[identity].id not in made and _changes(identity, delta, known[identity])
    ]
    if not ids:
        return []
    changed = []
    for row in await connection.fetch(_WRITE["lock_identities"], ids):
        state = identity_state(row)
        identity = Identity(state.kind, state.value)
        delta = deltas.identities[identity]
        claimed_by = None if delta.claim is None else known[delta.claim[1]].id
        if apply_delta(state, delta, claimed_by):
            changed.append(state)
        known[identity] = _known(state)
    if changed:
        await connection.execute(_WRITE["update_identities"], *columns(map(identity_row, changed)))
    return changed


def _known(state: IdentityState) -> _Known:
    claimed = None if state.claim is None else state.claim[0]
    return _Known(state.id, state.listed, state.identified, claimed)


async def _regroup_users(
    connection: Connection, changed: Sequence[IdentityState], aliases: Sequence[AliasRow]
) -> int:
    """Lock the users concerned, apply claims and merges, and write them."""
    concerned = {identity.id for identity in changed}
    concerned.update(identity.claim[1] for identity in changed if identity.claim is not None)
    for alias in aliases:
        concerned.update((alias.previous, alias.user))
    users, members = await _lock_users(connection, sorted(concerned))
    after = regroup(users, members, changed, aliases)
    if after.merged:
        gone, roots = list(after.merged), list(after.merged.values())
        await connection.execute(_WRITE["delete_users"], gone)
        await connection.execute(_WRITE["move_members"], gone, roots)
    if after.moved:
        await connection.execute(
            _WRITE["put_members"], list(after.moved), list(after.moved.values())
        )
    if after.changed:
        await connection.execute(_WRITE["put_users"], *columns(map(user_row, after.changed)))
    if aliases:
        await connection.execute(
            _WRITE["insert_aliases"],
            *columns((a.clock.at, a.clock.message_id, a.previous, a.user) for a in aliases),
        )
    if after.rename:
        await _rename(connection, sorted(after.rename))
    if after.rejoin:
        await connection.execute(_REJOIN, sorted(after.rejoin))
    return after.merges


async def _lock_users(
    connection: Connection, identities: Sequence[int]
) -> tuple[list[UserState], dict[int, int]]:
    """Lock the users of these identities.

    Raises:
        _OutOfDateError: They went on being merged by others while we tried.
    """
    for _ in range(10):
        savepoint = connection.transaction()
        await savepoint.start()
        members = await _members_of(connection, identities)
        ids = sorted(set(members.values()))
        if not ids:
            await savepoint.commit()
            return [], members
        rows = await connection.fetch(_WRITE["lock_users"], ids)
        # Only now, with the locks held, is it settled whose they are.
        if members == await _members_of(connection, identities):
            await savepoint.commit()
            return [user_state(row) for row in rows], members
        await savepoint.rollback()
    raise _OutOfDateError


async def _members_of(connection: Connection, identities: Sequence[int]) -> dict[int, int]:
    rows = await connection.fetch(_WRITE["members_of"], identities)
    return {identity: user for identity, user in rows}  # noqa: C416 - a Record is no tuple to mypy


async def _rename(connection: Connection, users: Sequence[int]) -> None:
    """Replay the aliases of users in which one arrived late."""
    aliases: dict[int, list[NamedAlias]] = {}
    for user, at, message_id, previous, named in await connection.fetch(
        _WRITE["aliases_of"], users
    ):
        aliases.setdefault(user, []).append(NamedAlias(Clock(at, message_id), previous, named))
    names = [(user, *replay_names(of_user)) for user, of_user in aliases.items()]
    await connection.execute(
        _WRITE["rename_users"],
        *columns((user, name, clock.at, clock.message_id) for user, name, clock in names),
    )


async def _put_seen(
    connection: Connection, deltas: Deltas, known: Mapping[Identity, _Known]
) -> None:
    rows = [
        (known[identity].id, delta.first_at, delta.last_at)
        for identity, delta in deltas.identities.items()
        if delta.first_at is not None
    ]
    if rows:
        await connection.execute(_WRITE["put_seen"], *columns(rows))


async def _put_groups(connection: Connection, groups: Mapping[str, Traits]) -> None:
    if not groups:
        return
    await connection.execute(_WRITE["insert_groups"], list(groups))
    with_traits = [group_id for group_id, traits in groups.items() if traits]
    if not with_traits:
        return
    changed = []
    for group_id, values, clocks in await connection.fetch(_WRITE["lock_groups"], with_traits):
        traits = decode_traits(values, clocks)
        if join_traits(traits, groups[group_id]):
            changed.append((group_id, *encode_traits(traits)))
    if changed:
        await connection.execute(_WRITE["update_groups"], *columns(changed))


async def _insert_dead_letters(connection: Connection, rejected: Sequence[Rejected]) -> int:
    if not rejected:
        return 0
    await connection.execute(
        _WRITE["insert_dead_letters"],
        *columns(
            (
                letter.record.topic,
                letter.record.partition,
                letter.record.offset,
                letter.position,
                record_timestamp(letter.record.timestamp),
                letter.reason,
                letter.detail.replace("\x00", "\ufffd"),
                letter.record.key,
                letter.record.value,
                headers(letter.record.headers),
            )
            for letter in rejected
        ),
    )
    return len(rejected)


def _distinct(calls: Sequence[Call]) -> tuple[list[Call], int]:
    """Keep the first delivery of each call; count the others."""
    distinct: dict[tuple[int, bytes], Call] = {}
    for call in calls:
        distinct.setdefault((_week(call.clock.at), call.message_key), call)
    return list(distinct.values()), len(calls) - len(distinct)


def _mentions(calls: Iterable[Call]) -> list[Identity]:
    """Every identity that the calls point at, carry, claim or name."""
    wanted: dict[Identity, None] = {}
    for call in calls:
        wanted[call.identity] = None
        if call.anonymous_id is not None:
            wanted[Identity("anonymous", call.anonymous_id)] = None
        if call.previous_id is not None:
            wanted[Identity("user", call.previous_id)] = None
            wanted[Identity("anonymous", call.previous_id)] = None
        for contact in call.claims:
            wanted[contact] = None
    return list(wanted)


def _week(at: int) -> int:
    return (at - _FIRST_MONDAY_US) // _WEEK_US


def _week_date(week: int) -> date:
    return _FIRST_MONDAY + timedelta(weeks=week)


# SQLSTATE classes that pass: connection lost, read-only for now, login or database not there
# (yet), transaction rolled back, out of resources, not available, shut down, disk trouble.
_TRANSIENT_CLASSES: Final = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")
# Data that Postgres refuses: retrying is useless, so the batch is bisected.
_PERMANENT_CLASSES: Final = ("21", "22", "23", "54")


def translated(error: Exception) -> Exception:
    """Say whose fault an error is: the world's, the data's, or (unchanged) our own."""
    state = getattr(error, "sqlstate", None) or ""
    # asyncpg raises ValueErrors of its own for what it cannot encode.
    refused = isinstance(error, (asyncpg.DataError, ValueError))
    if refused or state.startswith(_PERMANENT_CLASSES):
        return PermanentSinkError(f"Postgres refuses the data: {state or type(error).__name__}")
    if isinstance(error, asyncpg.PostgresError) and not state.startswith(_TRANSIENT_CLASSES):
        return error
    return TransientSinkError(f"Postgres cannot be used now: {state} {error!r}")


async def prepare_connection(connection: Connection) -> None:
    """Teach a connection our types: microseconds, raw JSON, 16 bytes.

    jsonb in binary is a version byte and the text; anything else breaks COPY.
    """
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda at: (at - _PG_EPOCH_US,),
        decoder=lambda value: value[0] + _PG_EPOCH_US,
    )
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda raw: b"\x01" + raw,
        decoder=lambda raw: bytes(raw[1:]),
    )
    await connection.set_type_codec(
        "uuid", schema="pg_catalog", format="binary", encoder=bytes, decoder=bytes
    )


@asynccontextmanager
async def open_sink(options: PostgresOptions) -> AsyncIterator[PostgresSink]:
    """Open the pool that lanes write through.

    Raises:
        TransientSinkError: Postgres cannot be reached.
    """
    try:
        pool = await asyncpg.create_pool(
            options.dsn,
            min_size=1,
            max_size=options.connections_max,
            timeout=options.connect_timeout_seconds,
            command_timeout=options.statement_timeout_seconds,
            init=prepare_connection,
            server_settings={"timezone": "UTC", "application_name": "windsor"},
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise translated(error) from error
    try:
        yield PostgresSink(pool, options)
    finally:
        pool.terminate()
