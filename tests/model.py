"""The reference model: the contract's one rule, as code that is read rather than fast.

It takes the set of distinct calls, sorts them by clock, applies them one at a time, and gives
what every public view then holds.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from consumer.core.call import Call, Clock, Identity

WEEK_US = 7 * 86_400_000_000
MONDAY_US = 4 * 86_400_000_000

Views = dict[str, list[dict[str, Any]]]


class Model:
    """State after applying some calls in clock order."""

    def __init__(self, loads: Callable[[bytes], Any] = json.loads) -> None:
        self.loads = loads
        self.component: dict[str, set[str]] = {}  # user id -> the ids merged with it
        self.name: dict[frozenset[str], str] = {}  # component -> name of the merged user
        self.named: dict[str, Clock] = {}  # user id -> the first call that named it
        self.carried: set[str] = set()  # anonymous ids that a call carried
        self.visitors: dict[str, tuple[Clock, str]] = {}  # anonymous id -> first claim
        self.contacts: dict[Identity, tuple[Clock, str]] = {}  # contact -> last claim
        self.came_by: set[Identity] = set()  # contacts that calls came by
        self.identified: set[str] = set()  # user ids
        self.traits: dict[Identity, dict[str, tuple[Clock, Any]]] = {}
        self.group: dict[Identity, tuple[Clock, str]] = {}
        self.seen: dict[Identity, list[int]] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.audiences: dict[str, dict[str, Any]] = {}
        self.merges: list[dict[str, Any]] = []
        self.feed: list[Call] = []

    # Applying -------------------------------------------------------------------------------

    def apply(self, call: Call) -> None:
        """Apply one call; every earlier one has been applied."""
        if call.user_id is not None:
            self.exists(call.user_id, call.clock)
        if call.anonymous_id is not None:
            self.carried.add(call.anonymous_id)
            self.claim_visitor(call.anonymous_id, call)
        if call.identity.kind in ("user", "anonymous"):
            self.seen.setdefault(call.identity, []).append(call.clock.at)
        else:
            self.came_by.add(call.identity)
        getattr(self, f"apply_{call.type}")(call)

    def apply_identify(self, call: Call) -> None:
        traits = self.traits.setdefault(call.identity, {})
        for key, value in (call.trait_values or {}).items():
            traits[key] = (call.clock, self.loads(value))
        if call.user_id is not None:
            self.identified.add(call.user_id)
            for contact in call.claims:
                self.contacts[contact] = (call.clock, call.user_id)
        if call.audience is not None:
            self.audiences[call.audience.name] = {
                "name": call.audience.name,
                "computation_class": call.audience.computation_class,
                "last_synced_at": call.clock.at,
            }

    def apply_track(self, call: Call) -> None:
        self.feed.append(call)

    apply_page = apply_screen = apply_track

    def apply_group(self, call: Call) -> None:
        assert call.group_id is not None
        self.group[call.identity] = (call.clock, call.group_id)
        traits = self.groups.setdefault(call.group_id, {})
        for key, value in (call.trait_values or {}).items():
            traits[key] = self.loads(value)

    def apply_alias(self, call: Call) -> None:
        previous, user = call.previous_id, call.user_id
        assert previous is not None
        assert user is not None
        self.exists(previous, call.clock)
        if previous != user:
            self.merges.append({
                "message_id": call.clock.message_id, "previous_id": previous, "user_id": user,
                "occurred_at": call.clock.at, "undone_at": None,
            })  # fmt: skip
        a, b = self.component[previous], self.component[user]
        if a is not b:
            name = self.name_of(user)
            merged = a | b
            self.component.update(dict.fromkeys(merged, merged))
            self.name[frozenset(merged)] = name
        self.claim_visitor(previous, call)

    def exists(self, user: str, clock: Clock) -> None:
        self.component.setdefault(user, {user})
        self.named.setdefault(user, clock)

    def claim_visitor(self, visitor: str, call: Call) -> None:
        if call.user_id is not None:
            self.visitors.setdefault(visitor, (call.clock, call.user_id))

    # Reading --------------------------------------------------------------------------------

    def name_of(self, user: str) -> str:
        return self.name.get(frozenset(self.component[user]), user)

    def claim_of(self, identity: Identity) -> tuple[Clock, str] | None:
        if identity.kind == "user":
            return self.named[identity.value], identity.value
        if identity.kind == "anonymous":
            return self.visitors.get(identity.value)
        return self.contacts.get(identity)

    def owner(self, identity: Identity) -> str | None:
        claim = self.claim_of(identity)
        return None if claim is None else self.name_of(claim[1])

    def identities(self) -> set[Identity]:
        return {
            *(Identity("user", user) for user in self.named),
            *(Identity("anonymous", visitor) for visitor in self.carried | self.visitors.keys()),
            *self.contacts,
            *self.came_by,
        }

    def user(self, name: str, members: Iterable[Identity]) -> dict[str, Any]:
        traits: dict[str, tuple[Clock, Any]] = {}
        seen: list[int] = []
        groups = []
        for member in members:
            seen += self.seen.get(member, [])
            groups += [self.group[member]] if member in self.group else []
            for key, entry in self.traits.get(member, {}).items():
                if key not in traits or entry[0] > traits[key][0]:
                    traits[key] = entry

        def text(*spellings: str) -> str | None:
            present = [
                (traits[key][0], -n, key) for n, key in enumerate(spellings) if key in traits
            ]
            value = traits[max(present)[2]][1] if present else None
            return value if isinstance(value, str) else None

        names = (text("firstName", "first_name"), text("lastName", "last_name"))
        full = " ".join(part for part in names if part is not None)
        own_name, email = text("name"), text("email")
        return {
            "user_id": name,
            "email": email if email is not None else name if "@" in name else None,
            "name": own_name if own_name is not None else full or None,
            "phone": text("phone"),
            "avatar": text("avatar"),
            "group_id": max(groups)[1] if groups else None,
            "traits": {key: value for key, (_, value) in traits.items() if value is not None},
            "identified": any(m.kind == "user" and m.value in self.identified for m in members),
            "first_seen_at": min(seen, default=None),
            "last_seen_at": max(seen, default=None),
        }

    def views(self) -> Views:
        """What the public views hold, sorted; dead letters are not the model's."""
        members: dict[str, list[Identity]] = {}
        for identity in self.identities():
            if (owner := self.owner(identity)) is not None:
                members.setdefault(owner, []).append(identity)
        users = [self.user(name, of_user) for name, of_user in members.items()]
        user_ids = []
        for identity in self.identities():
            if identity.kind != "anonymous" or identity.value in self.carried:
                claim = self.claim_of(identity)
                user_ids.append({
                    "kind": identity.kind, "value": identity.value,
                    "user_id": self.owner(identity),
                    "message_id": claim[0].message_id if claim else None,
                    "since": claim[0].at if claim else None,
                })  # fmt: skip
        groups = [
            {
                "group_id": group_id,
                "traits": {key: value for key, value in traits.items() if value is not None},
                "members_count": sum(user["group_id"] == group_id for user in users),
            }
            for group_id, traits in self.groups.items()
        ]
        audiences = [
            {**audience, "members_count": sum(_is_member(audience, user) for user in users)}
            for audience in self.audiences.values()
        ]
        feed = [
            {
                "message_id": call.clock.message_id, "user_id": self.owner(call.identity),
                "anonymous_id": call.anonymous_id, "type": call.type, "name": call.name,
                "category": call.category, "hidden": call.type == "page",
                "occurred_at": call.clock.at, "received_at": call.received_at,
                "properties": self.loads(call.properties or b"null"),
                "context": self.loads(call.context or b"null"),
            }
            for call in self.feed
        ]  # fmt: skip
        views = {
            "users": users, "user_ids": user_ids, "groups": groups, "feed": feed,
            "audiences": audiences, "merges": self.merges,
        }  # fmt: skip
        return {name: sorted(rows, key=repr) for name, rows in views.items()}


def _is_member(audience: dict[str, Any], user: dict[str, Any]) -> bool:
    value = user["traits"].get(audience["name"])
    computed = (audience["computation_class"] or "").split("_")[-1] == "trait"
    return value is not None if computed else value is True or value == "true"


def model_of(calls: Iterable[Call], loads: Callable[[bytes], Any] = json.loads) -> Views:
    """Apply the distinct calls, the first delivery of each, in clock order."""
    distinct: dict[tuple[int, str], Call] = {}
    for call in calls:
        week = (call.clock.at - MONDAY_US) // WEEK_US
        distinct.setdefault((week, call.clock.message_id), call)
    model = Model(loads)
    for call in sorted(distinct.values(), key=lambda call: call.clock):
        model.apply(call)
    return model.views()
