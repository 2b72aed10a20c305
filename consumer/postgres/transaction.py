"""One batch's transaction: the statements, in the order that keeps it free of deadlocks.

Every register of an identity takes the least or the greatest clock (`consumer.core.fold`),
so what is read without a lock can only be out of date in one direction: a call that changes
nothing against an older state changes nothing now. Only identities that a batch does change
are locked, and then the users of which it may change anything:

1. the batch joins the others, and makes sure that history is still the one it has read;
2. missing identities are inserted, with all that the batch says of them; should another
   transaction have made one, this one begins again;
3. the calls are copied; should one be stored already, the transaction begins again and
   asks first which ones are;
4. identities that change are locked by id, their registers joined;
5. users concerned are locked by id; were they merged meanwhile, the locks are given back;
6. traits, claims and aliases are applied (`consumer.core.merge`), and everything is written.

A user's row lock guards which identities belong to it, and what the user identities among them
have set, so a merge never waits for an identity, and the order identities, users, the rest has no
circle.
"""

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from itertools import starmap
from typing import Any, Final, TypeVar

import asyncpg

from consumer.core.call import Call, Clock, IdentityKind, Rejected
from consumer.core.fold import KINDS, Delta, Deltas, Traits
from consumer.core.merge import (
    AliasRow,
    Change,
    IdentityState,
    apply_delta,
    regroup,
    replay_names,
)
from consumer.errors import SchemaError
from consumer.postgres.binary_copy import copy_rows
from consumer.postgres.calls_copy import COLUMNS, call_rows
from consumer.postgres.connection import Connection
from consumer.postgres.identities import KnownByValue, Named
from consumer.postgres.rows import (
    NEW_IDENTITY_COLUMNS,
    NEW_MEMBER_COLUMNS,
    NEW_SEEN_COLUMNS,
    NEW_USER_COLUMNS,
    claim_clock_row,
    columns,
    decode_traits,
    encode_traits,
    headers,
    identity_row,
    identity_state,
    new_identity_row,
    new_member_row,
    new_seen_row,
    new_user_row,
    read_members,
    record_timestamp,
    traits_row,
    user_row,
)
from consumer.sql import load_queries

_SQL: Final = load_queries("write.sql")
_REJOIN: Final = load_queries("rejoin.sql")["rejoin_users"]

# So many rows are worth a round trip more, for what takes less than the statement for all of them:
# new ones a COPY, stored ones an update of what they change alone.
_MANY: Final = 100

_Row = TypeVar("_Row")


class OutOfDateError(Exception):
    """What was read before the transaction holds no more: begin again.

    Identities were made or users merged by another one, or history was rewritten.
    """

    def __init__(self, history: str | None = None) -> None:
        super().__init__(history)
        self.history = history
        """The one that holds now, where it is another."""


async def write_batch(
    connection: Connection,
    calls: Sequence[Call],
    deltas: Deltas,
    named: Named,
    rejected: Sequence[Rejected],
) -> int:
    """Write new calls, all that they say, and dead letters; give the number of merges.

    Args:
        connection: In a transaction that has done nothing yet.
        calls: Sorted by week and message key, so that waits cannot form a circle.
        deltas: What the calls say.
        named: The identities that they mention; `named.known` is brought up to date.
        rejected: Dead letters.

    Raises:
        OutOfDateError: Roll back and begin again.
        asyncpg.UniqueViolationError: One of the calls is stored already.
        SchemaError: A migration has taken away what a batch of this version begins with.
    """
    try:
        history = await connection.fetchval(_SQL["enter_batches"])
    except asyncpg.UndefinedFunctionError as error:
        raise SchemaError(
            "the database was migrated while this worker ran, and what it writes has another place"
            " by now: run the newer windsor"
        ) from error
    if history != named.history:
        raise OutOfDateError(history)
    merges = 0
    if calls:
        made = await _insert_identities(connection, named, deltas)
        await copy_rows(connection, "calls", COLUMNS, call_rows(calls, named.known))
        merges = await _apply(connection, deltas, named, made)
    await _insert_dead_letters(connection, rejected)
    return merges


async def _insert_identities(
    connection: Connection, named: Named, deltas: Deltas
) -> dict[int, IdentityState]:
    """Insert identities that were not there, with what the batch says of them, by id."""
    made = {}
    # Sorted, so that two workers that insert the same ones do not wait in a circle.
    for kind, value in sorted(named.missing):
        state = IdentityState(named.known[kind][value].id, kind, value)
        delta = deltas.of_kind(kind)[value]
        apply_delta(state, delta, _claimed_by(kind, value, delta, named.known))
        made[state.id] = state
    if made:
        try:
            await _insert(connection, list(made.values()))
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "identities_kind_value_key":
                raise
            # Another transaction has made one of them.
            raise OutOfDateError from error
        for state in made.values():
            named.learn(state)
    return made


async def _insert(connection: Connection, made: Sequence[IdentityState]) -> None:
    if len(made) < _MANY:
        rows = ((*identity_row(state), state.kind, state.value) for state in made)
        await _execute(connection, "insert_identities", rows)
    else:
        await copy_rows(connection, "identities", NEW_IDENTITY_COLUMNS, map(new_identity_row, made))


async def _apply(
    connection: Connection, deltas: Deltas, named: Named, made: Mapping[int, IdentityState]
) -> int:
    """Write what a batch's new calls say, also into `named`; give the number of merges."""
    known = named.known
    changed = await _lock_and_join_identities(connection, deltas, named, made)
    changed += made.values()
    aliases = [
        AliasRow(
            alias.clock,
            known["user"][alias.previous.value].id,
            known["user"][alias.user.value].id,
            alias.previous.value,
        )
        for alias in deltas.aliases
    ]
    traits = {
        known["user"][value].id: delta.traits
        for value, delta in deltas.users.items()
        if delta.traits is not None
    }
    merges = 0
    if changed or aliases or traits:
        merges = await _regroup_users(connection, changed, aliases, traits, made)
    await _put_seen(connection, deltas, known, made)
    await _put_groups(connection, deltas.groups, named.new_groups)
    audiences = (
        (name, sync.computation_class, clock.at, clock.message_id)
        for name, (clock, sync) in deltas.audiences.items()
    )
    await _execute(connection, "put_audiences", audiences)
    return merges


def _changing(
    deltas: Deltas, known: KnownByValue, made: Mapping[int, IdentityState]
) -> dict[int, Delta]:
    """Identities whose rows a batch may change, by what was read of them before."""
    changing = {}
    for kind in KINDS:
        known_of_kind = known[kind]
        for value, delta in deltas.of_kind(kind).items():
            stored = known_of_kind[value]
            if (
                (delta.traits is not None and kind != "user")
                or delta.group is not None
                or (delta.listed and not stored.listed)
                or (delta.identified and not stored.identified)
                or (delta.claim is not None and _may_claim(kind, delta.claim, stored.claimed_at))
            ) and stored.id not in made:
                changing[stored.id] = delta
    return changing


def _may_claim(kind: IdentityKind, claim: Call, claimed_at: int | None) -> bool:
    """Tell whether a claim may replace the standing one: at the same moment, ids decide later."""
    if claimed_at is None:
        return True
    return claim.at >= claimed_at if kind in ("email", "phone") else claim.at <= claimed_at


def _claimed_by(kind: IdentityKind, value: str, delta: Delta, known: KnownByValue) -> int | None:
    """The id of the user identity that a delta claims an identity for."""
    if delta.claim is None:
        return None
    # A user identity is claimed by itself; what else is claimed, by a call's user.
    return known["user"][value if kind == "user" else delta.claim.user_id or ""].id


async def _lock_and_join_identities(
    connection: Connection, deltas: Deltas, named: Named, made: Mapping[int, IdentityState]
) -> list[IdentityState]:
    """Lock the identities that change, join their registers and write them.

    Returns:
        Those that change something for their users.
    """
    known = named.known
    changing = _changing(deltas, known, made)
    if not changing:
        return []
    changed: dict[Change, list[IdentityState]] = {change: [] for change in Change}
    for row in await connection.fetch(_SQL["lock_identities"], sorted(changing)):
        state = identity_state(row)
        delta = changing[state.id]
        claimed_by = _claimed_by(state.kind, state.value, delta, known)
        changed[apply_delta(state, delta, claimed_by)].append(state)
        named.learn(state)
    claim_clocks = changed[Change.CLAIM_CLOCK]
    if len(claim_clocks) < _MANY:
        rows = map(identity_row, changed[Change.MORE] + claim_clocks)
        await _execute(connection, "update_identities", rows)
    else:
        await _execute(connection, "update_claim_clocks", map(claim_clock_row, claim_clocks))
        await _execute(connection, "update_identities", map(identity_row, changed[Change.MORE]))
    return changed[Change.MORE]


async def _regroup_users(
    connection: Connection,
    changed: Sequence[IdentityState],
    aliases: Sequence[AliasRow],
    traits: Mapping[int, Traits],
    made: Collection[int],
) -> int:
    """Lock the users concerned, apply traits, claims and merges, and write them."""
    concerned = {identity.id for identity in changed}
    concerned.update(traits)
    concerned.update(identity.claim[1] for identity in changed if identity.claim is not None)
    for alias in aliases:
        concerned.update((alias.previous, alias.user))
    # Those that this transaction has made are nobody's yet.
    concerned.difference_update(made)
    rows = await connection.fetch(_SQL["lock_members"], sorted(concerned)) if concerned else ()
    members = read_members(rows)
    after = regroup(
        members.users,
        members.user_of,
        changed,
        aliases,
        traits=traits,
        own_traits=members.own_traits,
    )
    if after.merged:
        gone, roots = list(after.merged), list(after.merged.values())
        await connection.execute(_SQL["delete_users"], gone)
        await connection.execute(_SQL["move_members"], gone, roots)
    # A new identity may be nobody's yet, a new user merged already.
    joined, moved = _parted(sorted(after.moved.items()), lambda item: item[0] in made)
    own_traits = dict(after.own_traits)
    if joined:
        with_own = [(id_, user, own_traits.pop(id_, None)) for id_, user in joined]
        await copy_rows(
            connection, "members", NEW_MEMBER_COLUMNS, starmap(new_member_row, with_own)
        )
    await _execute(connection, "put_members", moved)
    await _execute(connection, "put_own_traits", starmap(traits_row, own_traits.items()))
    new, stored = _parted(after.changed, lambda user: user.id in after.founded)
    if new:
        await copy_rows(connection, "users", NEW_USER_COLUMNS, map(new_user_row, new))
    with_traits, rest = _parted(stored, lambda user: user.id in after.traits_alone)
    traits_alone = (traits_row(user.id, user.traits) for user in with_traits)
    await _execute(connection, "update_user_traits", traits_alone)
    await _execute(connection, "put_users", map(user_row, rest))
    said = ((a.clock.at, a.clock.message_id, a.previous, a.user) for a in aliases)
    await _execute(connection, "insert_aliases", said)
    if after.rename:
        await _rename(connection, sorted(after.rename))
    if after.rejoin:
        await connection.execute(_REJOIN, sorted(after.rejoin))
    return after.merges


def _parted(
    rows: Sequence[_Row], is_alike: Callable[[_Row], bool]
) -> tuple[Sequence[_Row], Sequence[_Row]]:
    """Part those that are alike from the others, in their order; a few stay with the others."""
    alike = [row for row in rows if is_alike(row)]
    if len(alike) < _MANY:
        return (), rows
    return alike, [row for row in rows if not is_alike(row)]


async def _rename(connection: Connection, users: Sequence[int]) -> None:
    """Replay the aliases of users in which one arrived late."""
    aliases: dict[int, list[AliasRow]] = {}
    for merged, at, message_id, previous, user in await connection.fetch(_SQL["aliases_of"], users):
        aliases.setdefault(merged, []).append(AliasRow(Clock(at, message_id), previous, user))
    names = [(merged, *replay_names(of_user)) for merged, of_user in aliases.items()]
    rows = ((merged, named_by, *clock) for merged, named_by, clock in names)
    await _execute(connection, "rename_users", rows)


async def _put_seen(
    connection: Connection, deltas: Deltas, known: KnownByValue, made: Container[int]
) -> None:
    rows: list[tuple[int, int, int]] = []
    for kind in KINDS:
        known_of_kind = known[kind]
        for value, delta in deltas.of_kind(kind).items():
            if delta.first_at is not None and delta.last_at is not None:
                rows.append((known_of_kind[value].id, delta.first_at, delta.last_at))
    new, others = _parted(sorted(rows), lambda row: row[0] in made)
    if new:
        await copy_rows(connection, "seen", NEW_SEEN_COLUMNS, starmap(new_seen_row, new))
    await _execute(connection, "put_seen", others)


async def _put_groups(
    connection: Connection, groups: Mapping[str, Traits], new: Sequence[str]
) -> None:
    if new:
        await connection.execute(_SQL["insert_groups"], new)
    with_traits = [group_id for group_id, traits in groups.items() if traits.clocks]
    if not with_traits:
        return
    changed = []
    for group_id, values, clocks in await connection.fetch(_SQL["lock_groups"], with_traits):
        traits = decode_traits(values, clocks)
        if traits.join(groups[group_id]):
            changed.append((group_id, *encode_traits(traits)))
    await _execute(connection, "update_groups", changed)


async def _insert_dead_letters(connection: Connection, rejected: Sequence[Rejected]) -> None:
    rows = (
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
    )
    await _execute(connection, "insert_dead_letters", rows)


async def _execute(connection: Connection, query: str, rows: Iterable[Sequence[Any]]) -> None:
    """Run a statement with the columns of rows, if there are any."""
    if arrays := columns(rows):
        await connection.execute(_SQL[query], *arrays)
