"""Apply a batch's claims and aliases to the users that they concern.

The worker loads and locks the identities and users that a batch may change; `regroup`
then says, without any I/O, what becomes of them. Users are the join of their identities,
so joining is cheap and exact; only two things cannot be had from the join alone, and are
handed back to be recomputed from what is stored:

- `rejoin`: users that an identity left (an earlier claim moved a visitor, a newer one a
  contact);
- `rename`: users in which an alias arrived late. Membership does not depend on the order
  of aliases; the merged user's name does.

Source: docs/identity.md, "Visitors", "Aliases", "Contacts";
docs/decisions/0001-state-per-identity.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from consumer.core.call import Clock, IdentityKind
from consumer.core.fold import Delta, Group, Traits

_NO_TRAITS: Final[Mapping[int, Traits]] = MappingProxyType({})


class Change(IntEnum):
    """What a batch changes of a row: nothing, one thing alone, or more."""

    NOTHING = 0
    CLAIM_CLOCK = 1
    """When an identity was claimed: whose it is stays as it was, so its user does too."""
    TRAITS = 2
    """A user's; those of an identity are written with its whole row."""
    MORE = 3


class IdentityState(msgspec.Struct):
    """One row of `identities`, locked."""

    id: int
    kind: IdentityKind
    value: str
    listed: bool = False
    identified: bool = False
    claim: tuple[Clock, int] | None = None
    """The standing claim: its clock and the claiming user identity's id."""
    group: Group | None = None
    traits: Traits = msgspec.field(default_factory=Traits)
    """Of a visitor or a contact; those of a user identity are its member's."""


class UserState(msgspec.Struct):
    """One row of `users`, locked; the join of its identities."""

    id: int
    name: str
    identities_count: int
    identified: bool = False
    group: Group | None = None
    merged: Clock | None = None
    """The greatest alias that merged something into this user."""
    traits: Traits = msgspec.field(default_factory=Traits)


class AliasRow(NamedTuple):
    """An alias between two user identities, by id."""

    clock: Clock
    previous: int
    user: int
    previous_name: str | None = None
    """The value of `previous`, where it is at hand; it may spare a replay of names."""


class Regrouped(NamedTuple):
    """What becomes of the users."""

    changed: Sequence[UserState]
    """Users to write, new ones included; their final state but for `rejoin`, `rename`."""
    traits_alone: frozenset[int]
    """Those of `changed` whose traits alone changed."""
    merged: Mapping[int, int]
    """Stored users that are no more, and the user that took their members."""
    moved: Mapping[int, int]
    """Identities and the user that each belongs to from now on."""
    rejoin: frozenset[int]
    rename: frozenset[int]
    merges: int
    founded: frozenset[int]
    """Users that are not stored yet, some of them merged already."""
    own_traits: Mapping[int, Traits]
    """Of members that keep their own from now on, or have changed them."""


def apply_delta(state: IdentityState, delta: Delta, claimed_by: int | None) -> Change:
    """Join what a batch says into an identity's registers.

    Args:
        state: The locked row; changed in place.
        delta: What the batch says of it.
        claimed_by: Id of the user identity that `delta.claim` claims it for, None where it
            has none.

    Returns:
        What has to be written.
    """
    change = Change.NOTHING
    if delta.claim is not None and claimed_by is not None:
        clock = delta.claim.clock
        if claim_wins(state.kind, clock, state.claim[0] if state.claim else None):
            stays = state.claim is not None and state.claim[1] == claimed_by
            change = Change.CLAIM_CLOCK if stays else Change.MORE
            state.claim = (clock, claimed_by)
    if state.kind != "user" and delta.traits is not None and state.traits.join(delta.traits):
        change = Change.MORE
    if delta.listed and not state.listed:
        state.listed = True
        change = Change.MORE
    if delta.identified and not state.identified:
        state.identified = True
        change = Change.MORE
    if delta.group is not None and (state.group is None or delta.group[0] > state.group[0]):
        state.group = delta.group
        change = Change.MORE
    return change


def claim_wins(kind: IdentityKind, clock: Clock, standing: Clock | None) -> bool:
    """Tell whether a claim replaces the standing one.

    The first claim of a visitor (and the first naming of a user) stands; of a contact,
    the last.
    """
    if standing is None:
        return True
    return clock > standing if kind in ("email", "phone") else clock < standing


def regroup(
    users: Iterable[UserState],
    members: Mapping[int, int],
    changed: Iterable[IdentityState],
    aliases: Iterable[AliasRow],
    *,
    traits: Mapping[int, Traits] = _NO_TRAITS,
    own_traits: Mapping[int, Traits] = _NO_TRAITS,
) -> Regrouped:
    """Apply new users, traits, aliases in clock order, claims and changed registers.

    Args:
        users: The locked users; changed in place.
        members: Identity to user, for every identity concerned that has one.
        changed: Identities with `apply_delta` done that changed by more than a claim's clock.
        aliases: The batch's new aliases, in any order.
        traits: What the batch says of user identities, by id.
        own_traits: Of `members` that are user identities, what they have set themselves, by id;
            changed in place. Of one that is not there, all that its user has.
    """
    components = _Components(users, members, own_traits)
    changed = list(changed)
    for identity in changed:
        if identity.kind == "user" and identity.id not in members:
            components.found(identity)
    for id_, of_identity in traits.items():
        components.say(id_, of_identity)
    for alias in sorted(aliases):
        components.merge(alias)
    for identity in changed:
        if identity.claim is not None:
            components.take(identity, identity.claim[1])
    return components.result()


def replay_names(aliases: Iterable[AliasRow]) -> tuple[int, Clock]:
    """Replay all of one component's aliases, in clock order, for the merged user's name.

    Returns:
        The user identity that names it, and the clock of the greatest alias that merged anything.

    Raises:
        ValueError: There is no alias, so there is no merged user.
    """
    parent: dict[int, int] = {}
    named_by: dict[int, int] = {}
    merged: tuple[int, Clock] | None = None

    def root_of(user: int) -> int:
        root = user
        while (above := parent.setdefault(root, root)) != root:
            root = above
        while parent[user] != root:
            parent[user], user = root, parent[user]
        return root

    # Unioned by size, so that a chain of a hundred thousand stays shallow.
    size: dict[int, int] = {}
    for alias in sorted(aliases):
        previous, user = root_of(alias.previous), root_of(alias.user)
        if previous == user:
            continue
        kept = named_by.get(user, user)
        root, child = (user, previous)
        if size.get(previous, 1) > size.get(user, 1):
            root, child = child, root
        parent[child] = root
        size[root] = size.get(root, 1) + size.get(child, 1)
        named_by[root] = kept
        merged = (kept, alias.clock)
    if merged is None:
        raise ValueError("no alias to replay")
    return merged


class _Components:
    """The users of one batch while merges and claims are applied to them."""

    def __init__(
        self,
        users: Iterable[UserState],
        members: Mapping[int, int],
        own_traits: Mapping[int, Traits],
    ) -> None:
        self._users = {user.id: user for user in users}
        self._stored = frozenset(self._users)
        self._members = dict(members)
        self._own = dict(own_traits)
        self._own_changed: set[int] = set()
        self._parent: dict[int, int] = {}
        self._changed: dict[int, Change] = {}
        self._moved: dict[int, int] = {}
        self._rejoin: set[int] = set()
        self._rename: set[int] = set()
        self._merges = 0

    def found(self, identity: IdentityState) -> None:
        """A user identity seen for the first time is a user of its own."""
        self._users[identity.id] = UserState(identity.id, identity.value, identities_count=1)
        self._members[identity.id] = identity.id
        self._moved[identity.id] = identity.id
        self._changed[identity.id] = Change.MORE

    def say(self, identity: int, traits: Traits) -> None:
        """Set what a user identity says of its user."""
        own = self._own.get(identity)
        if own is not None and own.join(traits):
            self._own_changed.add(identity)
        user = self._user_of(identity)
        if user.traits.join(traits):
            self._changed[user.id] = max(Change.TRAITS, self._changed.get(user.id, Change.TRAITS))

    def merge(self, alias: AliasRow) -> None:
        """Merge the user of `previous` into that of `user`; the larger row survives.

        An alias that comes late is replayed among all of its user's, which may change the name.
        Two kinds change nothing (`docs/decisions/0001-state-per-identity.md` has why): one that is
        later than all that merged the user of `previous`, however late it is for the other one,
        and one from the id that names the user of `previous`.
        """
        previous = self._user_of(alias.previous)
        user = self._user_of(alias.user)
        late = previous.merged is not None and alias.clock < previous.merged
        if late and (previous is user or previous.name != alias.previous_name):
            self._rename.add(user.id)
        if previous is user:
            return
        name = user.name
        root, gone = user, previous
        if previous.identities_count > user.identities_count:
            root, gone = previous, user
        self._keep_own(root)
        self._keep_own(gone)
        _join(root, gone)
        root.identities_count += gone.identities_count
        root.name = name
        root.merged = max(c for c in (alias.clock, root.merged, gone.merged) if c is not None)
        self._parent[gone.id] = root.id
        self._changed[root.id] = Change.MORE
        self._merges += 1

    def take(self, identity: IdentityState, claimed_by: int) -> None:
        """Give an identity, with all it carries, to the user of its standing claim."""
        user = self._user_of(claimed_by)
        before = self._members.get(identity.id)
        if before is None or self._root(before) != user.id:
            if before is not None:
                left = self._users[self._root(before)]
                left.identities_count -= 1
                self._rejoin.add(left.id)
                self._changed[left.id] = Change.MORE
            user.identities_count += 1
            self._members[identity.id] = self._moved[identity.id] = user.id
            self._changed[user.id] = Change.MORE
        if identity.traits.clocks:
            self._keep_own(user)
        joined = _join(user, identity)
        if joined is not Change.NOTHING:
            self._changed[user.id] = max(joined, self._changed.get(user.id, joined))

    def result(self) -> Regrouped:
        """Resolve every user to the one that took it."""
        gone = {user: self._root(user) for user in self._parent}
        return Regrouped(
            changed=[self._users[user] for user in sorted(self._changed.keys() - gone.keys())],
            traits_alone=frozenset(
                user for user, change in self._changed.items() if change is Change.TRAITS
            ),
            merged={user: root for user, root in gone.items() if user in self._stored},
            moved={identity: self._root(user) for identity, user in self._moved.items()},
            rejoin=frozenset(map(self._root, self._rejoin)),
            rename=frozenset(map(self._root, self._rename)),
            merges=self._merges,
            founded=frozenset(self._users.keys() - self._stored),
            own_traits={identity: self._own[identity] for identity in self._own_changed},
        )

    def _keep_own(self, user: UserState) -> None:
        """Before others' traits join a user's: keep what its only user identity has set.

        A user that was never merged has one user identity, which lends it its id, and has set all
        traits that the user has. It is in `members`, or new: claims and aliases that bring others
        go through it. Merged users have done this when they were.
        """
        if user.merged is None and user.id not in self._own:
            self._own[user.id] = Traits(dict(user.traits.clocks), dict(user.traits.values))
            self._own_changed.add(user.id)

    def _root(self, user: int) -> int:
        while (above := self._parent.get(user)) is not None:
            user = above
        return user

    def _user_of(self, identity: int) -> UserState:
        return self._users[self._root(self._members[identity])]


def _join(user: UserState, other: UserState | IdentityState) -> Change:
    """Join another's traits and group, and a user identity's `identified`."""
    change = Change.TRAITS if user.traits.join(other.traits) else Change.NOTHING
    if other.group is not None and (user.group is None or other.group[0] > user.group[0]):
        user.group = other.group
        change = Change.MORE
    counts = not isinstance(other, IdentityState) or other.kind == "user"
    if counts and other.identified and not user.identified:
        user.identified = True
        change = Change.MORE
    return change
