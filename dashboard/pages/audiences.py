"""Audiences and computed traits: how many, since when, and who came and went."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from consumer.sql import load_queries
from dashboard.people import Person, one_line, person_of
from dashboard.people_found import People, UserFilters
from dashboard.plots import plot_of
from dashboard.shell import Shell, number

_SQL: Final = load_queries("groups.sql", "dashboard.sql")
_MEMBERS_SHOWN: Final = 25
_WALKED_MAX: Final = 20_000
_CHANGES_SHOWN_MAX: Final = 60
_COUNTED_SECONDS: Final = 60.0
_COUNTS_MAX: Final = 1_000


class Change(NamedTuple):
    """Somebody entered or left."""

    person: Person
    has_entered: bool
    at: datetime


class AudiencePages:
    """The handlers of the audiences."""

    def __init__(self, shell: Shell, people: People) -> None:
        self._shell = shell
        self._people = people
        self._counts: dict[str, tuple[float, int]] = {}

    def routes(self) -> list[BaseRoute]:
        """Where they answer."""
        return [
            Route("/audiences", self.audiences),
            Route("/audience", self.audience),
            Route("/audience/count", self.count),
            Route("/audience/changes", self.changes),
        ]

    async def audiences(self, request: Request) -> Response:
        """The list; the members of each are counted after the page is there."""
        return self._shell.page(
            request,
            "audiences.html",
            section="Audiences",
            audiences=await self._people.audiences(),
        )

    async def audience(self, request: Request) -> Response:
        """One audience."""
        name = request.query_params.get("name", "")
        row = await self._shell.views.row(_SQL["audience"], name)
        if row is None:
            return self._shell.page(
                request,
                "message.html",
                404,
                section="Audiences",
                mark="target",
                title="There is no such audience",
                words="An audience is listed from its first sync on.",
                href="/audiences",
                link="Look at all audiences",
            )
        filters = UserFilters(audience=name)
        return self._shell.page(
            request,
            "audience.html",
            section="Audiences",
            audience=row,
            title=one_line(name),
            members=await self._people.users(filters, None, _MEMBERS_SHOWN),
            query=filters.query(),
        )

    async def count(self, request: Request) -> Response:
        """How many members; counted now and then, since every user is looked at."""
        return HTMLResponse(number(await self._count(request.query_params.get("name", ""))))

    async def _count(self, name: str) -> int:
        counted_at, count = self._counts.get(name, (0.0, 0))
        if not counted_at or time.monotonic() - counted_at > _COUNTED_SECONDS:
            row = await self._shell.views.row(_SQL["audience_members_count"], name)
            if row is None:
                return 0
            count = row["members_count"]
            if len(self._counts) > _COUNTS_MAX:
                self._counts.clear()
            self._counts[name] = (time.monotonic(), count)
        return count

    async def changes(self, request: Request) -> Response:
        """The size over time, and who entered and left: by the last calls there are."""
        name = request.query_params.get("name", "")
        row = await self._shell.views.row(_SQL["audience"], name)
        rows = await self._shell.views.rows(_SQL["audience_calls"], name, _WALKED_MAX)
        reached = next((row["occurred_at"] for row in rows if row["kind"] is None), None)
        told = [row for row in rows if row["kind"] is not None]
        changes = changes_of(told, is_trait=bool(row and row["is_trait"]))
        size = await self._count(name)
        return self._shell.page(
            request,
            "audience_changes.html",
            changes=changes[:_CHANGES_SHOWN_MAX],
            plot=plot_of(sizes_of(changes, size, datetime.now(UTC)), is_stepped=True),
            size=size,
            reached=reached,
        )


def changes_of(rows: Sequence[Mapping[str, Any]], *, is_trait: bool) -> list[Change]:
    """Who entered and left.

    Args:
        rows: What calls said, newest first: `value` is the trait's as JSON.
        is_trait: Any value but null counts as being in.

    Returns:
        Newest first. Calls that say again what is so are none.
    """
    inside: dict[Any, bool] = {}
    changes: list[Change] = []
    for row in reversed(rows):
        value = row["value"]
        is_in = value != "null" if is_trait else value in {"true", '"true"'}
        who = row["id"] or (row["kind"], row["identity_value"])
        if is_in != inside.get(who, False):
            person = person_of({**row, "value": row["identity_value"]})
            changes.append(Change(person, is_in, row["occurred_at"]))
        inside[who] = is_in
    return changes[::-1]


def sizes_of(changes: Sequence[Change], size: int, now: datetime) -> list[tuple[datetime, float]]:
    """The size over time, oldest first, from what it is now backwards."""
    points = [(now, float(size))]
    for change in changes:
        points.append((change.at, float(size)))
        size -= 1 if change.has_entered else -1
    if changes:
        points.append((changes[-1].at, float(size)))
    return points[::-1]
