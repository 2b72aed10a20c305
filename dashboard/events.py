"""Events for the pages: rows become lines, and a place among them survives a page's end."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import QueryParams

from consumer.sql import load_queries
from dashboard.catalogue import CATEGORIES, Catalogue, Told
from dashboard.database import Views
from dashboard.people import Person, one_line, person_of
from dashboard.stored_json import decoded_object
from dashboard.summary import Event, text_of

PAGE_LINES: Final = 50

_SQL: Final = load_queries("events.sql", "dashboard.sql")
# A filter looks at so many events before the page is sent; the rest follows as one scrolls. With
# a group each is looked up, which takes longer.
_WALKED_MAX: Final = 10_000
_WALKED_WITH_GROUP_MAX: Final = 2_000
# Of a group with fewer identities each is asked, which is faster than to walk the feed.
_IDENTITIES_ASKED_MAX: Final = 100
_EVER: Final = datetime(1, 1, 2, tzinfo=UTC)
_FAR: Final = datetime(9999, 12, 30, tzinfo=UTC)
_LAST_KEY: Final = UUID(int=2**128 - 1)

EVENT_TYPES: Final = ("track", "screen")
HIDDEN_TYPES: Final = ("page",)
# Somebody's own timeline also tells how they came to be who they are.
HIDDEN_TYPES_OF_ONE: Final = ("page", "identify", "group", "alias")

_SPANS: Final[Mapping[str, timedelta]] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
}


class Place(NamedTuple):
    """A place among events: what is before it comes next."""

    at: datetime
    key: UUID

    def text(self) -> str:
        """For an address."""
        return f"{_micros(self.at)}-{self.key.hex}"


NEWEST: Final = Place(_FAR, _LAST_KEY)


def place_of(text: str | None) -> Place:
    """Read a place; the newest where it is none."""
    at, _, key = (text or "").partition("-")
    try:
        return Place(_moment(int(at)), UUID(hex=key))
    except (ValueError, OverflowError):
        return NEWEST


def _micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _moment(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


class Filters(NamedTuple):
    """What is asked for; empty texts ask for nothing."""

    category: str = ""
    name: str = ""
    group: str = ""
    user: str = ""
    span: str = ""
    shows_hidden: bool = False

    def since(self, now: datetime) -> datetime:
        """The time before which nothing is asked for."""
        return now - _SPANS[self.span] if self.span in _SPANS else _EVER

    def query(self, **more: str) -> str:
        """For an address; without the switch, which is remembered."""
        asked = {
            "category": self.category,
            "name": self.name,
            "group": self.group,
            "user": self.user,
            "span": self.span,
            **more,
        }
        return urlencode({key: value for key, value in asked.items() if value})

    @property
    def is_any(self) -> bool:
        """Whether something is asked for."""
        return any(self[:5])


def filters_of(query: QueryParams, *, shows_hidden: bool) -> Filters:
    """Read the filters of an address; what there is not counts as nothing."""
    category, span = query.get("category", ""), query.get("span", "")
    return Filters(
        category if category in CATEGORIES else "",
        query.get("name", "").strip()[:256],
        query.get("group", "").strip()[:512],
        query.get("user", "").strip()[:512],
        span if span in _SPANS else "",
        shows_hidden,
    )


class Line(NamedTuple):
    """An event on a page."""

    person: Person
    told: Told
    at: datetime
    received_at: datetime
    name: str
    """For one line."""
    name_sent: str
    """As it was sent, but for what is beyond a thousand characters."""
    type: str
    group_id: str | None
    group_name: str | None
    """For one line."""
    place: str
    identity_id: int
    message_id: str

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.person.title} {text_of(self.told.sentence)}"


class Lines(NamedTuple):
    """A page of events."""

    lines: Sequence[Line]
    next: str | None
    """The place to go on from; None at the end."""
    reached: datetime | None
    """How far a search has come that found less than a page."""


def line_of(row: Mapping[str, Any], catalogue: Catalogue) -> Line:
    """Make a line of a row of `feed` or `timeline`."""
    properties = decoded_object(row["properties"])
    name = row["name"] or ""
    if row["type"] == "identify":
        properties = decoded_object(row["traits"])
    elif row["type"] == "group":
        name = decoded_object(row["traits"]).get("name") or row["named_group_id"] or ""
        name = name if isinstance(name, str) else str(row["named_group_id"])
    event = Event(name, properties, decoded_object(row["context"]))
    return Line(
        person_of(row),
        catalogue.told(event, row["type"], row["category"]),
        row["occurred_at"],
        row["received_at"],
        one_line(name),
        row["name"] or "",
        row["type"],
        row["group_id"],
        one_line(row["group_name"] or row["group_id"] or "") or None,
        Place(row["occurred_at"], row["message_key"]).text(),
        row["identity_id"],
        row["message_id"],
    )


class Events:
    """Asks for events; each method may raise `TransientSinkError`."""

    def __init__(self, views: Views, catalogue: Catalogue) -> None:
        self._views = views
        self._catalogue = catalogue

    async def hidden_names(self) -> list[str]:
        """The names that people have hidden."""
        return [row["name"] for row in await self._views.rows(_SQL["hidden_names"])]

    async def hide(self, name: str) -> None:
        """Hide a name in the feed, for everybody."""
        await self._views.rows(_SQL["hide_name"], name)

    async def show(self, name: str) -> None:
        """Show a hidden name again."""
        await self._views.rows(_SQL["show_name"], name)

    async def feed(
        self, filters: Filters, place: Place, now: datetime, lines_max: int = PAGE_LINES
    ) -> Lines:
        """Everybody's events, newest first.

        Args:
            filters: What is asked for; a user is not (`timeline` has theirs).
            place: Where to go on.
            now: From which a span of time is counted.
            lines_max: How many at most.
        """
        if filters.group:
            rows = await self._views.rows(
                _SQL["identities_of_group"], filters.group, _IDENTITIES_ASKED_MAX + 1
            )
            if len(rows) <= _IDENTITIES_ASKED_MAX:
                ids = [row["identity_id"] for row in rows]
                return await self.timeline(ids, filters, place, now, lines_max=lines_max)
        is_search = filters.category or filters.name or filters.group
        if filters.group:
            walked_max = _WALKED_WITH_GROUP_MAX
        else:
            # A few more than are shown: some names may be hidden.
            walked_max = _WALKED_MAX if is_search else lines_max * 4
        rows = await self._views.rows(
            _SQL["feed"],
            place.at,
            place.key,
            filters.since(now),
            filters.shows_hidden,
            walked_max,
            filters.category or None,
            filters.name or None,
            [] if filters.shows_hidden else await self.hidden_names(),
            filters.group or None,
            lines_max,
            *self._catalogue.moved(filters.category),
        )
        found = [line_of(row, self._catalogue) for row in rows if row["type"] is not None]
        reached = next((row for row in rows if row["type"] is None), None)
        if len(found) == lines_max:
            return Lines(found, found[-1].place, None)
        if reached is None:
            return Lines(found, None, None)
        at = reached["occurred_at"]
        return Lines(found, Place(at, reached["message_key"]).text(), at)

    async def timeline(
        self,
        identity_ids: Sequence[int],
        filters: Filters,
        place: Place,
        now: datetime,
        *,
        types_hidden: Sequence[str] = HIDDEN_TYPES,
        lines_max: int = PAGE_LINES,
    ) -> Lines:
        """The events of some identities, newest first.

        Args:
            identity_ids: Whose.
            filters: What is asked for of them.
            place: Where to go on.
            now: From which a span of time is counted.
            types_hidden: Calls that are shown with what is hidden.
            lines_max: How many at most.
        """
        rows = await self._views.rows(
            _SQL["timeline"],
            identity_ids,
            place.at,
            place.key,
            filters.since(now),
            [*EVENT_TYPES, *(types_hidden if filters.shows_hidden else ())],
            filters.category or None,
            filters.name or None,
            [] if filters.shows_hidden else await self.hidden_names(),
            lines_max,
            *self._catalogue.moved(filters.category),
        )
        found = [line_of(row, self._catalogue) for row in rows]
        return Lines(found, found[-1].place if len(found) == lines_max else None, None)

    async def one(self, place: Place, identity_id: int) -> Mapping[str, Any] | None:
        """One event, whole, or at least the first 20,000 characters of each part."""
        return await self._views.row(_SQL["event"], place.at, place.key, identity_id)
