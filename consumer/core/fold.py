"""Fold many calls into few row changes.

Everything a call sets is a register that takes the least or the greatest clock of the
calls that set it, so a batch folds to one `Delta` an identity, whatever the order of its
calls, and a delta joins what is stored, whatever was written in between. Only merges have
an order; `consumer.core.merge` applies those.

Source: docs/identity.md, "Calls and identities"; docs/decisions/0001-state-per-identity.md.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from consumer.core.call import AudienceSync, Call, CallType, Clock, Identity, IdentityKind
from consumer.core.clock import week_of, week_start

Group: TypeAlias = tuple[Clock, str]
CallsByWeek: TypeAlias = dict[int, dict[bytes, Call]]
"""By UTC week and message key: what makes a call one."""

TOMBSTONE: Final = b"null"


class Traits(msgspec.Struct, gc=False):
    """Traits with a clock for each key; one with a clock alone was removed."""

    clocks: dict[str, Clock] = msgspec.field(default_factory=dict)
    values: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)

    def set(self, clock: Clock, values: Mapping[str, bytes]) -> None:
        """Set what a call says, where that is newer; `null` removes."""
        for key, value in values.items():
            stored = self.clocks.get(key)
            if stored is None or clock > stored:
                self.clocks[key] = clock
                if value == TOMBSTONE:
                    self.values.pop(key, None)
                else:
                    self.values[key] = msgspec.Raw(value)

    def join(self, other: "Traits") -> bool:
        """Take each key of the greater clock; tell whether anything changed."""
        changed = False
        for key, clock in other.clocks.items():
            stored = self.clocks.get(key)
            if stored is None or clock > stored:
                changed = True
                self.clocks[key] = clock
                value = other.values.get(key)
                if value is None:
                    self.values.pop(key, None)
                else:
                    self.values[key] = value
        return changed


class Delta(msgspec.Struct, gc=False):
    """What a batch says of one identity."""

    listed: bool = False
    identified: bool = False
    first_at: int | None = None
    last_at: int | None = None
    claim: Call | None = None
    """The call whose user claims the identity; a user identity is claimed by itself. Of
    several the least clock for users and visitors (the first to come), the greatest for
    contacts (the last to say so)."""
    group: Group | None = None
    traits: Traits | None = None


class Alias(msgspec.Struct, gc=False, frozen=True):
    """An alias call with differing ids."""

    clock: Clock
    previous: Identity
    user: Identity


class Deltas(msgspec.Struct, gc=False):
    """What a batch says, by identity, group and audience."""

    users: dict[str, Delta] = msgspec.field(default_factory=dict)
    visitors: dict[str, Delta] = msgspec.field(default_factory=dict)
    emails: dict[str, Delta] = msgspec.field(default_factory=dict)
    phones: dict[str, Delta] = msgspec.field(default_factory=dict)
    groups: dict[str, Traits] = msgspec.field(default_factory=dict)
    audiences: dict[str, tuple[Clock, AudienceSync]] = msgspec.field(default_factory=dict)
    aliases: list[Alias] = msgspec.field(default_factory=list)

    def of_kind(self, kind: IdentityKind) -> dict[str, Delta]:
        """The deltas of one kind of identities, by value."""
        fields: dict[IdentityKind, dict[str, Delta]] = {
            "user": self.users,
            "anonymous": self.visitors,
            "email": self.emails,
            "phone": self.phones,
        }
        return fields[kind]


KINDS: Final[tuple[IdentityKind, ...]] = ("user", "anonymous", "email", "phone")


def distinct(calls: Iterable[Call]) -> CallsByWeek:
    """Keep the first delivery of each call, by its UTC week and message key."""
    weeks: CallsByWeek = {}
    of_week: dict[bytes, Call] = {}
    start = end = 0
    for call in calls:
        if not start <= call.at < end:
            week = week_of(call.at)
            start, end = week_start(week), week_start(week + 1)
            of_week = weeks.setdefault(week, {})
        of_week.setdefault(call.message_key, call)
    return weeks


def fold(calls: Iterable[Call]) -> Deltas:
    """Fold distinct calls, in any order, into what they say.

    Nearly all the time of a call goes through the first half of the loop, which is why it
    touches no more than two dictionaries.
    """
    deltas = Deltas()
    users, visitors = deltas.users, deltas.visitors
    for call in calls:
        at = call.at
        anonymous_id = call.anonymous_id
        if (user_id := call.user_id) is not None:
            delta = users.get(user_id)
            if delta is None:
                delta = users[user_id] = Delta(True, False, at, at, call)  # noqa: FBT003 - fast
            else:
                delta.listed = True
                _see(delta, at)
                _claim_first(delta, call)
            if anonymous_id is not None:
                visitor = visitors.get(anonymous_id)
                if visitor is None:
                    visitors[anonymous_id] = Delta(True, False, None, None, call)  # noqa: FBT003
                else:
                    visitor.listed = True
                    _claim_first(visitor, call)
        else:
            delta = _unnamed(deltas, call)
        if (apply := _APPLY.get(call.type)) is not None:
            apply(deltas, delta, call)
    return deltas


def _unnamed(deltas: Deltas, call: Call) -> Delta:
    """The delta of a call without `userId`: its contact's, else its visitor's."""
    visitor = None
    if call.anonymous_id is not None:
        visitor = _delta(deltas.visitors, call.anonymous_id)
        visitor.listed = True
    if call.contact is not None:
        # A delivered email is no sighting.
        delta = _delta(deltas.of_kind(call.contact.kind), call.contact.value)
        delta.listed = True
        return delta
    assert visitor is not None, "a call points at somebody"  # noqa: S101 - as it was decoded
    _see(visitor, call.at)
    return visitor


def _delta(deltas: dict[str, Delta], value: str) -> Delta:
    delta = deltas.get(value)
    if delta is None:
        delta = deltas[value] = Delta()
    return delta


def _see(delta: Delta, at: int) -> None:
    if delta.last_at is None or delta.first_at is None:
        delta.first_at = delta.last_at = at
    elif at > delta.last_at:
        delta.last_at = at
    elif at < delta.first_at:
        delta.first_at = at


def _claim_first(delta: Delta, call: Call) -> None:
    claim = delta.claim
    if claim is None or (call.at <= claim.at and call.clock < claim.clock):
        delta.claim = call


def _claim_last(delta: Delta, call: Call) -> None:
    if delta.claim is None or call.clock > delta.claim.clock:
        delta.claim = call


def _identify(deltas: Deltas, delta: Delta, call: Call) -> None:
    clock = call.clock
    if call.trait_values:
        if delta.traits is None:
            delta.traits = Traits()
        delta.traits.set(clock, call.trait_values)
    if call.user_id is not None:
        delta.identified = True
        for contact in call.claims:
            claimed = _delta(deltas.of_kind(contact.kind), contact.value)
            claimed.listed = True
            _claim_last(claimed, call)
    if call.audience is not None:
        stored = deltas.audiences.get(call.audience.name)
        if stored is None or clock > stored[0]:
            deltas.audiences[call.audience.name] = (clock, call.audience)


def _group(deltas: Deltas, delta: Delta, call: Call) -> None:
    if call.group_id is None:
        return
    clock = call.clock
    if delta.group is None or clock > delta.group[0]:
        delta.group = (clock, call.group_id)
    deltas.groups.setdefault(call.group_id, Traits()).set(clock, call.trait_values or {})


def _alias(deltas: Deltas, _delta_of_user: Delta, call: Call) -> None:
    if call.previous_id is None or call.user_id is None:
        return
    previous = _delta(deltas.users, call.previous_id)
    previous.listed = True
    _claim_first(previous, call)
    # The visitor of that name is claimed, but listed only once a call carries it.
    _claim_first(_delta(deltas.visitors, call.previous_id), call)
    if call.previous_id != call.user_id:
        deltas.aliases.append(
            Alias(call.clock, Identity("user", call.previous_id), Identity("user", call.user_id))
        )


_APPLY: Final[dict[CallType, Callable[[Deltas, Delta, Call], None]]] = {
    "identify": _identify,
    "group": _group,
    "alias": _alias,
}
