"""Which identities and groups there are, as far as a worker knows.

What is remembered of an identity moves in one direction only (an id never changes, a listed
one stays listed, a claim's clock goes one way), so the database may be ahead of it, never
behind: at worst a row is locked for nothing. That holds within one history: an operator's
command that rewrites it, and another server after a failover or a restore, start another one,
in which everything is asked anew.
"""

from typing import Final, NamedTuple, TypeAlias

import msgspec

from consumer.core.call import Identity, IdentityKind
from consumer.core.fold import KINDS, Deltas
from consumer.core.merge import IdentityState
from consumer.postgres.connection import Connection
from consumer.sql import load_queries

_SQL: Final = load_queries("write.sql")

# Of all kinds, some 250 bytes each, in two generations.
_REMEMBERED_MAX: Final = 100_000
# Ids of groups, of which a company has few.
_GROUPS_MAX: Final = 10_000


class Known(msgspec.Struct, gc=False, frozen=True):
    """What was read or written of an identity, now or earlier."""

    id: int
    listed: bool
    identified: bool
    claimed_at: int | None
    """Microseconds; the message id would be a third of what is remembered."""


KnownByValue: TypeAlias = dict[IdentityKind, dict[str, Known]]


class Named(NamedTuple):
    """The identities that a batch's new calls mention."""

    history: str
    """In which they were read."""
    known: KnownByValue
    """All of them; those to be inserted with the ids reserved for them."""
    missing: list[Identity]
    """Those to be inserted."""
    fresh: dict[IdentityKind, list[str]]
    """Those to be remembered once the batch is committed; others are added as they change."""
    new_groups: list[str]
    """Groups that may not be there yet."""

    def learn(self, state: IdentityState) -> None:
        """Take in what was written of an identity, or read under its lock."""
        claimed_at = None if state.claim is None else state.claim[0].at
        known = Known(state.id, state.listed, state.identified, claimed_at)
        self.known[state.kind][state.value] = known
        self.fresh[state.kind].append(state.value)


class Identities:
    """What is known of identities met lately, in two generations of bounded size."""

    def __init__(self) -> None:
        self._history: str | None = None
        self._young: dict[IdentityKind, dict[str, Known]] = {kind: {} for kind in KINDS}
        self._old: dict[IdentityKind, dict[str, Known]] = {kind: {} for kind in KINDS}
        self._groups: set[str] = set()

    async def name(self, connection: Connection, deltas: Deltas) -> Named:
        """Find the identities of a batch, and reserve ids for those that there are not."""
        if (history := self._history) is None:
            history = await connection.fetchval(_SQL["history_now"])
            self.begin(history)
        known: KnownByValue = {}
        fresh: dict[IdentityKind, list[str]] = {}
        unknown: list[Identity] = []
        for kind in KINDS:
            young, old = self._young[kind], self._old[kind]
            found = known[kind] = {}
            of_kind = fresh[kind] = []
            for value in deltas.of_kind(kind):
                remembered = young.get(value)
                if remembered is None:
                    of_kind.append(value)
                    remembered = old.get(value)
                if remembered is None:
                    unknown.append(Identity(kind, value))
                else:
                    found[value] = remembered
        missing = await _find(connection, unknown, known) if unknown else []
        new_groups = [group_id for group_id in deltas.groups if group_id not in self._groups]
        return Named(history, known, missing, fresh, new_groups)

    def begin(self, history: str) -> None:
        """Forget what is known of another history."""
        if self._history != history:
            self._history = history
            for kind in KINDS:
                self._young[kind], self._old[kind] = {}, {}
            self._groups.clear()

    def remember(self, named: Named) -> None:
        """Keep what was read or committed, should its history last."""
        if named.history != self._history:
            return
        for kind, values in named.fresh.items():
            young, known = self._young[kind], named.known[kind]
            for value in values:
                young[value] = known[value]
        if sum(map(len, self._young.values())) > _REMEMBERED_MAX:
            for kind in KINDS:
                self._young[kind], self._old[kind] = {}, self._young[kind]
        if len(self._groups) > _GROUPS_MAX:
            self._groups.clear()
        self._groups.update(named.new_groups)


async def _find(
    connection: Connection, unknown: list[Identity], known: KnownByValue
) -> list[Identity]:
    """Read what there is of identities into `known`; give those that there are not, with ids."""
    rows = await connection.fetch(
        _SQL["find_identities"],
        [identity.kind for identity in unknown],
        [identity.value for identity in unknown],
    )
    missing = []
    for place, id_, listed, identified, claimed_at, reserved_id in rows:
        identity = kind, value = unknown[place - 1]
        if id_ is None:
            missing.append(identity)
            known[kind][value] = Known(reserved_id, listed=False, identified=False, claimed_at=None)
        else:
            known[kind][value] = Known(id_, listed, identified, claimed_at)
    return missing
