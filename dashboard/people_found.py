"""Finding people: by id, by whatever one types, by who was here last."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import QueryParams

from consumer.sql import load_queries
from dashboard.database import Row, Views
from dashboard.events import NEWEST, Place, place_of
from dashboard.people import Person, one_line, person_of

_SQL: Final = load_queries("people.sql", "dashboard.sql")

PAGE_USERS: Final = 50
IDENTITIES_SHOWN_MAX: Final = 500
"""Of one person; more is a junk id that many share."""

# So many calls have some dozens of people; with a filter more are looked at.
_WALKED_MAX: Final = 500
_WALKED_WITH_FILTER_MAX: Final = 1_500
_EXPORTED_AT_ONCE: Final = 1_000
_CANDIDATES_MAX: Final = 500
_AUDIENCES_MAX: Final = 1_000
_LAST: Final = "\U0010ffff"
_WORD: Final = re.compile(r"\w+")
_NOT_OF_PHONES: Final = re.compile(r"[\s().\-/]+")
_EARLIEST: Final = datetime(1, 1, 1, tzinfo=UTC)


class Audience(NamedTuple):
    """An audience or computed trait, without its members."""

    name: str
    computation_class: str | None
    synced_at: datetime
    is_trait: bool


class UserFilters(NamedTuple):
    """Which users are asked for; empty texts ask for nothing."""

    search: str = ""
    group: str = ""
    trait: str = ""
    value: str = ""
    audience: str = ""

    def query(self, **more: str) -> str:
        """For an address."""
        asked = {
            "q": self.search,
            "group": self.group,
            "trait": self.trait,
            "value": self.value,
            "audience": self.audience,
            **more,
        }
        return urlencode({key: text for key, text in asked.items() if text})

    @property
    def is_any(self) -> bool:
        """Whether something is asked for."""
        return any(self)


def user_filters_of(query: QueryParams) -> UserFilters:
    """Read the filters of an address."""
    return UserFilters(
        *(query.get(key, "").strip()[:512] for key in ("q", "group", "trait", "value", "audience"))
    )


class Found(NamedTuple):
    """A user in a list."""

    person: Person
    email: str | None
    group_id: str | None
    group_name: str | None
    identified: bool
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    user_id: str


class FoundUsers(NamedTuple):
    """A page of users."""

    users: Sequence[Found]
    next: str | None
    reached: datetime | None
    """How far the search has come that found less than a page."""


class People:
    """Asks for people; each method may raise `TransientSinkError`."""

    def __init__(self, views: Views, phone_code: str | None = None) -> None:
        """Make it.

        Args:
            views: What is asked.
            phone_code: The country code of numbers without one, such as `1`.
        """
        self._views = views
        self._phone_code = phone_code

    async def identity(self, kind: str, value: str) -> Row | None:
        """An identity and whose it is."""
        return await self._views.row(_SQL["identity"], kind, value)

    async def traits_of_identity(self, id_: int) -> Row:
        """What somebody who is no user yet has said of themselves."""
        (row,) = await self._views.rows(_SQL["traits_of_identity"], id_)
        return row

    async def user(self, id_: int) -> Row | None:
        """A user by key."""
        return await self._views.row(_SQL["user"], id_)

    async def identities(self, id_: int) -> list[Row]:
        """A user's identities, and why each is theirs."""
        return await self._views.rows(_SQL["identities_of_user"], id_, IDENTITIES_SHOWN_MAX)

    async def merges(self, identity_ids: Sequence[int]) -> list[Row]:
        """The aliases that concern somebody."""
        return await self._views.rows(_SQL["merges_of_user"], identity_ids, 100)

    async def trait_history(self, identity_ids: Sequence[int], key: str) -> list[Row]:
        """What a trait has been."""
        return await self._views.rows(_SQL["trait_history"], identity_ids, key, 50)

    async def audiences(self) -> list[Audience]:
        """All audiences and computed traits, by name."""
        return [
            Audience(**row) for row in await self._views.rows(_SQL["audiences"], _AUDIENCES_MAX)
        ]

    async def users_count(self) -> tuple[int, int]:
        """How many users there are, and how many are identified; every one is looked at."""
        (users,) = await self._views.rows(_SQL["users_count"])
        (identified,) = await self._views.rows(_SQL["identified_count"])
        return users["count"], identified["count"]

    async def identities_of(self, text: str) -> list[int]:
        """The identities of whoever has this id or contact, of all of them where they differ."""
        ids: list[int] = []
        for kind in ("user", "email", "phone", "anonymous"):
            value = text.lower() if kind == "email" else _NOT_OF_PHONES.sub("", text) \
                if kind == "phone" else text  # fmt: skip
            identity = await self.identity(kind, value)
            if identity is None:
                continue
            if identity["owner_id"] is None:
                ids.append(identity["id"])
            else:
                ids += await self.identity_ids(identity["owner_id"])
        return list(dict.fromkeys(ids))

    async def identity_ids(self, id_: int) -> list[int]:
        """The identities of a user."""
        rows = await self._views.rows(_SQL["identity_ids_of_user"], id_, IDENTITIES_SHOWN_MAX)
        return [row["identity_id"] for row in rows]

    async def users(
        self, filters: UserFilters, place: str | None, users_max: int = PAGE_USERS
    ) -> FoundUsers:
        """Users that fit, by their last sighting, newest first.

        Args:
            filters: What is asked for.
            place: Where to go on, the `next` of the page before.
            users_max: How many at most.
        """
        candidates = await self._candidates(filters)
        conditions = await self._conditions(filters)
        if candidates is not None:
            return await self._among(candidates, conditions, place, users_max)
        at = place_of(place)
        walked_max = _WALKED_WITH_FILTER_MAX if filters.is_any else _WALKED_MAX
        rows = await self._views.rows(
            _SQL["users_by_last_seen"], at.at, at.key, walked_max, *conditions, users_max
        )
        found = [row for row in rows if row["id"] is not None]
        reached = next((row for row in rows if row["id"] is None), None)
        users = [_found(row) for row in found]
        if len(found) == users_max:
            return FoundUsers(users, _place(found[-1]).text(), None)
        if reached is None:
            return FoundUsers(users, None, None)
        return FoundUsers(users, _place(reached).text(), reached["occurred_at"])

    async def export(self, filters: UserFilters) -> AsyncIterator[Row]:
        """All users that fit, however many, each as they are when their turn comes.

        Asked for a thousand at a time, for one snapshot of all would keep a connection, and what
        Postgres may not clean up, for as long as somebody reads.
        """
        ids = await self._searched(filters.search) if filters.search else None
        conditions = await self._conditions(filters)
        after = 0
        while rows := await self._views.next_rows(
            _SQL["users_export"], *conditions, ids, after, _EXPORTED_AT_ONCE
        ):
            for row in rows:
                yield row
            after = rows[-1]["id"]

    async def _candidates(self, filters: UserFilters) -> list[int] | None:
        """The users that fit are among these; None where all have to be looked at."""
        if filters.search:
            return await self._searched(filters.search)
        if filters.group:
            rows = await self._views.rows(
                _SQL["users_of_group"], filters.group, _CANDIDATES_MAX + 1
            )
            if len(rows) <= _CANDIDATES_MAX:
                return [row["id"] for row in rows]
        return None

    async def _searched(self, text: str) -> list[int]:
        """Users by what somebody types: a beginning of an id or contact, or of words of a name."""
        beginnings = list(dict.fromkeys([text, text.lower(), text.upper(), *self._phones(text)]))
        rows = await self._views.rows(
            _SQL["users_by_identity"],
            beginnings,
            [beginning + _LAST for beginning in beginnings],
            _CANDIDATES_MAX // 5,
        )
        ids = [row["id"] for row in rows]
        words = _WORD.findall(text)[:8]
        # A letter alone begins too many names to be of use.
        if "@" not in text and max(map(len, words), default=0) > 1:
            query = " & ".join(f"'{word}':*" for word in words)
            rows = await self._views.rows(_SQL["users_by_name"], query, _CANDIDATES_MAX)
            ids += [row["id"] for row in rows]
        return list(dict.fromkeys(ids))

    def _phones(self, text: str) -> list[str]:
        digits = _NOT_OF_PHONES.sub("", text)
        bare = digits.removeprefix("+")
        if not bare.isdecimal() or not bare.isascii():
            return []
        own = [f"+{self._phone_code}{bare.lstrip('0')}"] if self._phone_code else []
        return [f"+{bare}", *own]

    async def _conditions(self, filters: UserFilters) -> tuple[Any, ...]:
        is_trait = False
        if filters.audience:
            is_trait = any(
                audience.is_trait
                for audience in await self.audiences()
                if audience.name == filters.audience
            )
        return (
            filters.group or None,
            filters.trait or None,
            filters.value or None,
            filters.audience or None,
            is_trait,
        )

    async def _among(
        self, ids: Sequence[int], conditions: tuple[Any, ...], place: str | None, users_max: int
    ) -> FoundUsers:
        at = place_of(place)
        key = at.key.int & (2**63 - 1) if at is not NEWEST else 2**63 - 1
        rows = await self._views.rows(_SQL["users_among"], ids, at.at, key, *conditions, users_max)
        users = [_found(row) for row in rows]
        if len(rows) < users_max:
            return FoundUsers(users, None, None)
        last = rows[-1]
        return FoundUsers(
            users, Place(last["last_seen_at"] or _EARLIEST, UUID(int=last["id"])).text(), None
        )


def _found(row: Mapping[str, Any]) -> Found:
    return Found(
        person_of(row),
        row["email"],
        row["group_id"],
        one_line(row["group_name"] or row["group_id"] or "") or None,
        row["identified"],
        row["first_seen_at"],
        row["last_seen_at"],
        row["user_id"],
    )


def _place(row: Mapping[str, Any]) -> Place:
    return Place(row["occurred_at"], row["message_key"])
