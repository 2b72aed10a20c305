"""Groups: the companies, teams and households that people belong to."""

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumer.sql import load_queries
from dashboard.catalogue import CATEGORIES, CATEGORY_ICONS
from dashboard.events import Events, filters_of, place_of
from dashboard.groups_found import groups_found
from dashboard.people import Person, initials_and_hue, one_line
from dashboard.people_found import People, UserFilters
from dashboard.shell import Shell, looker_of
from dashboard.stored_json import decoded_object

_SQL: Final = load_queries("groups.sql", "dashboard.sql")
_MEMBERS_SHOWN: Final = 12
_TRAITS_SHOWN_MAX: Final = 100


class GroupPages:
    """The handlers of the groups."""

    def __init__(self, shell: Shell, events: Events, people: People) -> None:
        self._shell = shell
        self._events = events
        self._people = people

    def routes(self) -> list[BaseRoute]:
        """Where they answer."""
        return [
            Route("/groups", self.groups),
            Route("/groups/more", self.more),
            Route("/group", self.group),
            Route("/group/more", self.group_more),
        ]

    async def groups(self, request: Request) -> Response:
        """The list."""
        return self._shell.page(
            request, "groups.html", section="Groups", **await self._found(request)
        )

    async def more(self, request: Request) -> Response:
        """More of the list."""
        return self._shell.page(request, "group_rows.html", **await self._found(request))

    async def _found(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        search = query.get("q", "").strip()[:200]
        found = await groups_found(self._shell.views, query.get("after", ""), search)
        groups = [
            {
                **row,
                "person": group_person(row["group_id"], row["name"]),
                "plan": _some_trait(row["traits"]),
            }
            for row in found.rows
        ]
        again = f"q={quote(search, safe='')}"
        return {"groups": groups, "next": found.next, "search": search, "query": again}

    async def group(self, request: Request) -> Response:
        """One group: traits, members, their feed."""
        id_ = request.query_params.get("id", "")
        row = await self._shell.views.row(_SQL["group"], id_)
        if row is None:
            return self._shell.page(
                request,
                "message.html",
                404,
                section="Groups",
                mark="building",
                title="There is no such group",
                words="A group is listed from its first group call on.",
                href="/groups",
                link="Look at all groups",
            )
        members = await self._people.users(UserFilters(group=id_), None, _MEMBERS_SHOWN)
        return self._shell.page(
            request,
            "group.html",
            section="Groups",
            group=row,
            person=group_person(id_, row["name"]),
            traits=_traits(row["traits"]),
            members=members,
            members_query=UserFilters(group=id_).query(),
            **await self._feed(request, id_),
        )

    async def group_more(self, request: Request) -> Response:
        """More of a group's feed."""
        id_ = request.query_params.get("id", "")
        return self._shell.page(request, "lines.html", **await self._feed(request, id_))

    async def _feed(self, request: Request, id_: str) -> dict[str, Any]:
        query = request.query_params
        filters = filters_of(query, shows_hidden=looker_of(request).shows_hidden)
        filters = filters._replace(group=id_, user="")
        lines = await self._events.feed(filters, place_of(query.get("place")), datetime.now(UTC))
        filters = filters._replace(group="")
        asked = f"id={quote(id_, safe='')}&{filters.query()}"
        return {
            "lines": lines,
            "filters": filters,
            "categories": CATEGORIES,
            "category_icons": CATEGORY_ICONS,
            "day_before": query.get("day", ""),
            "more": f"/group/more?{asked}",
            "more_page": f"/group?{asked}",
            "place_given": "place" in query,
            "action": "/group",
            "one": ("id", id_),
        }


def group_person(group_id: str, name: str | None) -> Person:
    """A group as an avatar shows it."""
    title = one_line(name or "") or one_line(group_id)
    initials, hue = initials_and_hue(title, group_id)
    return Person(title, initials, hue, f"/group?id={quote(group_id, safe='')}", None, None, None)


def _traits(raw: str) -> list[tuple[str, str]]:
    try:
        values = decoded_object(raw)
    except msgspec.DecodeError:
        # Cut, since it is very long.
        return [("traits", one_line(raw, 300))]
    return [
        (one_line(key), one_line(value if isinstance(value, str) else _encoded(value), 300))
        for key, value in sorted(values.items())[:_TRAITS_SHOWN_MAX]
    ]


def _encoded(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _some_trait(raw: str | None) -> str:
    """What says most of a group in a list."""
    values = decoded_object(raw)
    for key in ("plan", "industry", "website", "domain"):
        if isinstance(value := values.get(key), str):
            return one_line(value, 40)
    return ""
