"""Fold many calls into few row changes.

Everything a call sets is a register that takes the least or the greatest clock of the
calls that set it, so a batch folds to one `Delta` an identity, whatever the order of its
calls, and a delta joins what is stored, whatever was written in between. Only merges have
an order; `consumer.core.merge` applies those.

Source: the contract, sections 1.1 and 1.4.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from consumer.core.call import AudienceSync, Call, CallType, Clock, Identity

Traits: TypeAlias = dict[str, tuple[Clock, bytes]]
"""Key to clock and raw JSON value; `b"null"` is a tombstone that wins by clock like any."""

Group: TypeAlias = tuple[Clock, str]
Claim: TypeAlias = tuple[Clock, Identity]

TOMBSTONE = b"null"


class Delta(msgspec.Struct, gc=False):
    """What a batch says of one identity.

    Of a claim it keeps the least clock for users and visitors (the first to come) and the
    greatest for contacts (the last to say so).
    """

    listed: bool = False
    identified: bool = False
    first_at: int | None = None
    last_at: int | None = None
    claim: Claim | None = None
    group: Group | None = None
    traits: Traits | None = None


class Alias(msgspec.Struct, gc=False, frozen=True):
    """An alias call with differing ids."""

    clock: Clock
    previous: Identity
    user: Identity


class Deltas(msgspec.Struct, gc=False):
    """What a batch says, by identity, group and audience."""

    identities: dict[Identity, Delta]
    groups: dict[str, Traits]
    audiences: dict[str, tuple[Clock, AudienceSync]]
    aliases: list[Alias]


def fold(calls: Iterable[Call]) -> Deltas:
    """Fold distinct calls, in any order, into what they say."""
    deltas = Deltas({}, {}, {}, [])
    identities = deltas.identities
    for call in calls:
        identity = call.identity
        clock = call.clock
        delta = identities.get(identity)
        if delta is None:
            delta = identities[identity] = Delta()
        kind = identity.kind
        if kind in ("user", "anonymous"):
            _see(delta, clock.at)
            if kind == "user":
                _claim_first(delta, clock, identity)
        # An anonymous identity is listed below, by the call that carries it.
        if kind != "anonymous":
            delta.listed = True
        if call.anonymous_id is not None:
            visitor = _delta(identities, Identity("anonymous", call.anonymous_id))
            visitor.listed = True
            if kind == "user":
                _claim_first(visitor, clock, identity)
        _APPLY.get(call.type, _nothing)(deltas, delta, call)
    return deltas


def join_traits(into: Traits, other: Mapping[str, tuple[Clock, bytes]]) -> bool:
    """Take each key of the greater clock into `into`; tell whether anything changed."""
    changed = False
    for key, entry in other.items():
        stored = into.get(key)
        if stored is None or entry[0] > stored[0]:
            into[key] = entry
            changed = True
    return changed


def _delta(identities: dict[Identity, Delta], identity: Identity) -> Delta:
    delta = identities.get(identity)
    if delta is None:
        delta = identities[identity] = Delta()
    return delta


def _see(delta: Delta, at: int) -> None:
    if delta.first_at is None or at < delta.first_at:
        delta.first_at = at
    if delta.last_at is None or at > delta.last_at:
        delta.last_at = at


def _claim_first(delta: Delta, clock: Clock, by: Identity) -> None:
    if delta.claim is None or clock < delta.claim[0]:
        delta.claim = (clock, by)


def _claim_last(delta: Delta, clock: Clock, by: Identity) -> None:
    if delta.claim is None or clock > delta.claim[0]:
        delta.claim = (clock, by)


def _set_traits(traits: Traits, clock: Clock, values: Mapping[str, bytes] | None) -> None:
    for key, value in (values or {}).items():
        stored = traits.get(key)
        if stored is None or clock > stored[0]:
            traits[key] = (clock, value)


def _nothing(_deltas: Deltas, _delta_of_identity: Delta, _call: Call) -> None:
    """Track, page and screen calls say no more than that they were."""


def _identify(deltas: Deltas, delta: Delta, call: Call) -> None:
    if call.trait_values:
        if delta.traits is None:
            delta.traits = {}
        _set_traits(delta.traits, call.clock, call.trait_values)
    if call.identity.kind == "user":
        delta.identified = True
        for contact in call.claims:
            claimed = _delta(deltas.identities, contact)
            claimed.listed = True
            _claim_last(claimed, call.clock, call.identity)
    if call.audience is not None:
        stored = deltas.audiences.get(call.audience.name)
        if stored is None or call.clock > stored[0]:
            deltas.audiences[call.audience.name] = (call.clock, call.audience)


def _group(deltas: Deltas, delta: Delta, call: Call) -> None:
    if call.group_id is None:
        return
    if delta.group is None or call.clock > delta.group[0]:
        delta.group = (call.clock, call.group_id)
    _set_traits(deltas.groups.setdefault(call.group_id, {}), call.clock, call.trait_values)


def _alias(deltas: Deltas, _delta_of_user: Delta, call: Call) -> None:
    if call.previous_id is None:
        return
    previous = Identity("user", call.previous_id)
    named = _delta(deltas.identities, previous)
    named.listed = True
    _claim_first(named, call.clock, previous)
    # The visitor of that name is claimed, but listed only once a call carries it.
    visitor = _delta(deltas.identities, Identity("anonymous", call.previous_id))
    _claim_first(visitor, call.clock, call.identity)
    if previous != call.identity:
        deltas.aliases.append(Alias(call.clock, previous, call.identity))


_APPLY: Final[dict[CallType, Callable[[Deltas, Delta, Call], None]]] = {
    "identify": _identify,
    "group": _group,
    "alias": _alias,
}
