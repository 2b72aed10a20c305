"""Users: everyone, whoever one searches for, and all that is known of one of them."""

import csv
import io
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Route

from dashboard.catalogue import CATEGORIES, CATEGORY_ICONS
from dashboard.database import Row
from dashboard.events import HIDDEN_TYPES_OF_ONE, Events, Lines, filters_of, place_of
from dashboard.people import one_line, person_of
from dashboard.people_found import Audience, FoundUsers, People, user_filters_of
from dashboard.shell import Shell, looker_of, number
from dashboard.stored_json import decoded

_TRAITS_SHOWN_MAX: Final = 100
_TRAIT_CHARS_MAX: Final = 300
_COUNTED_SECONDS: Final = 30.0
_CSV_ROWS: Final = 500
_STRANGERS: Final = ("anonymous", "email", "phone")
_TINTS: Final = {"user": "payment", "anonymous": "", "email": "email", "phone": "sms"}
_CSV_COLUMNS: Final = (
    *("user_id", "email", "name", "phone", "group_id", "identified"),
    *("first_seen_at", "last_seen_at", "traits"),
)


class Trait(NamedTuple):
    """A trait on somebody's page."""

    key: str
    shown: str
    at: datetime | None
    message_id: str


class ShownIdentity(NamedTuple):
    """An identity on somebody's page."""

    kind: str
    value: str
    tint: str
    why: str
    at: datetime | None


class UserPages:
    """The handlers of the users."""

    def __init__(self, shell: Shell, events: Events, people: People) -> None:
        self._shell = shell
        self._events = events
        self._people = people
        self._counted_at = 0.0
        self._counts = (0, 0)

    def routes(self) -> list[BaseRoute]:
        """Where they answer."""
        return [
            Route("/users", self.users),
            Route("/users.csv", self.export),
            Route("/users/count", self.count),
            Route("/users/more", self.more),
            Route("/user", self.user),
            Route("/user/more", self.user_more),
            Route("/user/trait", self.trait),
            Route("/identity", self.identity),
            Route("/identity/more", self.identity_more),
        ]

    async def users(self, request: Request) -> Response:
        """The list."""
        filters = user_filters_of(request.query_params)
        return self._shell.page(
            request,
            "users.html",
            section="Users",
            filters=filters,
            found=await self._found(request),
            audiences=await self._people.audiences(),
            more=f"/users/more?{filters.query()}",
            more_page=f"/users?{filters.query()}",
        )

    async def more(self, request: Request) -> Response:
        """More rows of the list."""
        filters = user_filters_of(request.query_params)
        return self._shell.page(
            request,
            "user_rows.html",
            found=await self._found(request),
            more=f"/users/more?{filters.query()}",
            more_page=f"/users?{filters.query()}",
        )

    async def _found(self, request: Request) -> FoundUsers:
        filters = user_filters_of(request.query_params)
        return await self._people.users(filters, request.query_params.get("place"))

    async def count(self, _: Request) -> Response:
        """How many there are; counted now and then, since every user is looked at."""
        if time.monotonic() - self._counted_at > _COUNTED_SECONDS:
            self._counts = await self._people.users_count()
            self._counted_at = time.monotonic()
        users, identified = self._counts
        return HTMLResponse(f"{number(users)} in all, {number(identified)} identified")

    async def export(self, request: Request) -> Response:
        """All that fit as a file, streamed."""
        filters = user_filters_of(request.query_params)
        return StreamingResponse(
            self._rows(self._people.export(filters)),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="users.csv"'},
        )

    async def _rows(self, users: AsyncIterator[Row]) -> AsyncIterator[str]:
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(_CSV_COLUMNS)
        written = 0
        async for row in users:
            writer.writerow([_cell(row[column]) for column in _CSV_COLUMNS])
            written += 1
            if written % _CSV_ROWS == 0:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
        yield buffer.getvalue()

    async def user(self, request: Request) -> Response:
        """One user; an old id leads to who they are now."""
        id_ = request.query_params.get("id", "")
        identity = await self._people.identity("user", id_)
        if identity is None or identity["owner_id"] is None:
            return self._unknown(request, id_)
        if identity["user_id"] != id_:
            return RedirectResponse(f"/user?id={quote(identity['user_id'], safe='')}", 307)
        user = await self._people.user(identity["owner_id"])
        if user is None:
            return self._unknown(request, id_)
        identities = await self._people.identities(user["id"])
        ids = [row["id"] for row in identities]
        traits, traits_more = _traits(user)
        values = decoded(user["traits"])
        return self._shell.page(
            request,
            "user.html",
            section="Users",
            user=user,
            kind="user",
            value=id_,
            person=person_of(user),
            email=one_line(user["email"] or ""),
            phone=one_line(user["phone"] or ""),
            traits=traits,
            traits_more=traits_more,
            audiences=_audiences_of(values, await self._people.audiences()),
            identities=[_shown_identity(row) for row in identities],
            merges=await self._people.merges(ids),
            **await self._timeline(request, ids, "/user", ("id", id_)),
        )

    async def user_more(self, request: Request) -> Response:
        """More of a user's timeline."""
        id_ = request.query_params.get("id", "")
        identity = await self._people.identity("user", id_)
        owner = None if identity is None else identity["owner_id"]
        ids = [] if owner is None else await self._people.identity_ids(owner)
        return self._shell.page(
            request, "lines.html", **await self._timeline(request, ids, "/user", ("id", id_))
        )

    async def trait(self, request: Request) -> Response:
        """What a trait has been before, and by which calls."""
        query = request.query_params
        kind = query.get("kind", "user")
        known = kind in {"user", *_STRANGERS}
        identity = await self._people.identity(kind, query.get("id", "")) if known else None
        if identity is None:
            ids = []
        elif identity["owner_id"] is None:
            ids = [identity["id"]]
        else:
            ids = await self._people.identity_ids(identity["owner_id"])
        rows = await self._people.trait_history(ids, query.get("key", ""))
        history = [{**row, "shown": _told_value(row["value"])} for row in rows]
        return self._shell.page(request, "trait.html", history=history)

    async def identity(self, request: Request) -> Response:
        """A visitor, or somebody known by a contact only; whoever is a user is shown as that."""
        query = request.query_params
        kind, value = query.get("kind", ""), query.get("id", "")
        known = kind in _STRANGERS
        identity = await self._people.identity(kind, value) if known else None
        if identity is None:
            return self._unknown(request, value)
        if identity["user_id"] is not None:
            return RedirectResponse(f"/user?id={quote(identity['user_id'], safe='')}", 307)
        traits, traits_more = _traits(await self._people.traits_of_identity(identity["id"]))
        nobody = dict.fromkeys(("user_id", "person_name", "email", "phone", "avatar"))
        return self._shell.page(
            request,
            "user.html",
            section="Users",
            user=None,
            kind=kind,
            value=value,
            person=person_of({**nobody, "kind": kind, "value": value}),
            email=None,
            phone=None,
            traits=traits,
            traits_more=traits_more,
            identities=[],
            audiences=[],
            merges=[],
            **await self._timeline(
                request, [identity["id"]], "/identity", ("id", value), f"kind={kind}&"
            ),
        )

    async def identity_more(self, request: Request) -> Response:
        """More of a visitor's timeline."""
        query = request.query_params
        kind, value = query.get("kind", ""), query.get("id", "")
        known = kind in _STRANGERS
        identity = await self._people.identity(kind, value) if known else None
        ids = [] if identity is None else [identity["id"]]
        return self._shell.page(
            request,
            "lines.html",
            **await self._timeline(request, ids, "/identity", ("id", value), f"kind={kind}&"),
        )

    async def _timeline(
        self,
        request: Request,
        ids: Sequence[int],
        action: str,
        one: tuple[str, str],
        kind_query: str = "",
    ) -> dict[str, Any]:
        """What `lines.html` and `filters.html` ask for."""
        query = request.query_params
        filters = filters_of(query, shows_hidden=looker_of(request).shows_hidden)
        filters = filters._replace(user="", group="")
        asked = f"{kind_query}{one[0]}={quote(one[1], safe='')}&{filters.query()}"
        lines: Lines = await self._events.timeline(
            ids,
            filters,
            place_of(query.get("place")),
            datetime.now(UTC),
            types_hidden=HIDDEN_TYPES_OF_ONE,
        )
        return {
            "lines": lines,
            "filters": filters,
            "categories": CATEGORIES,
            "category_icons": CATEGORY_ICONS,
            "day_before": query.get("day", ""),
            "more": f"{action}/more?{asked}",
            "more_page": f"{action}?{asked}",
            "place_given": "place" in query,
            "action": action,
            "one": one,
        }

    def _unknown(self, request: Request, id_: str) -> Response:
        return self._shell.page(
            request,
            "message.html",
            404,
            section="Users",
            mark="search",
            title="Nobody has this id",
            words=f"There is no {one_line(id_) or 'such id'}. Upper and lower case differ.",
            href="/users",
            link="Look at everyone",
        )


def _cell(value: object) -> object:
    """A value for a spreadsheet; none of a sender's is a formula there."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _traits(user: Mapping[str, Any]) -> tuple[list[Trait], int]:
    """A user's traits with the calls that set them, by name, as many as a page holds."""
    values: dict[str, Any] = decoded(user["traits"])
    clocks: dict[str, Any] = decoded(user["trait_clocks"])
    traits = [
        Trait(key, _told_json(value), *_clock(clocks.get(key)))
        for key, value in sorted(values.items())[:_TRAITS_SHOWN_MAX]
    ]
    return traits, len(values) - len(traits)


def _clock(clock: Any) -> tuple[datetime | None, str]:  # noqa: ANN401 - [microseconds, message id]
    if not clock:
        return None, ""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=clock[0])
    return at, str(clock[1])


def _told_json(value: Any) -> str:  # noqa: ANN401 - whatever was sent
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return one_line(value, _TRAIT_CHARS_MAX)
    return one_line(msgspec.json.encode(value).decode(), _TRAIT_CHARS_MAX)


def _told_value(raw: str | None) -> str:
    if raw is None or raw == "null":
        return "removed"
    try:
        return _told_json(decoded(raw))
    except msgspec.DecodeError:
        return one_line(raw, _TRAIT_CHARS_MAX)


def _audiences_of(traits: Mapping[str, Any], audiences: Sequence[Audience]) -> list[Audience]:
    return [
        audience
        for audience in audiences
        if audience.name in traits
        and (audience.is_trait or traits[audience.name] is True or traits[audience.name] == "true")
    ]


def _shown_identity(row: Mapping[str, Any]) -> ShownIdentity:
    return ShownIdentity(
        row["kind"],
        one_line(row["value"]),
        _TINTS[row["kind"]],
        _why(row),
        row["claimed_at"],
    )


def _why(row: Mapping[str, Any]) -> str:
    """Why an identity is somebody's, in words."""
    call = row["claimed_type"]
    by = f"{_article(call)} {call} call" if call else "a call"
    if row["kind"] == "user":
        return f"Named by {by}" if call else "Named by an alias, or as one that was merged"
    owner = one_line(row["claimed_by_value"] or "", 40)
    if row["kind"] == "anonymous":
        return f"Claimed by {by} that carried it beside {owner}" if owner else "Came with a merge"
    if owner:
        return f"Claimed by {by} of {owner}, whose {row['kind']} it is"
    return "Came with a merge"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
