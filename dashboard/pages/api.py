"""What the pages show, as JSON, for those who script: reading only, the same pages and places.

Every list answers `{"items": [...], "next": PLACE or null}`; `?place=PLACE` goes on from there.
An item less than a page, and a `next`, is a search that has looked at enough for one answer.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dashboard.events import HIDDEN_TYPES_OF_ONE, Events, Line, filters_of, place_of
from dashboard.groups_found import groups_found
from dashboard.people_found import Found, People, user_filters_of
from dashboard.shell import Shell
from dashboard.stored_json import decoded_object


class ApiPages:
    """The handlers under `/api/`."""

    def __init__(self, shell: Shell, events: Events, people: People) -> None:
        self._shell = shell
        self._events = events
        self._people = people

    def routes(self) -> list[BaseRoute]:
        """Where they answer."""
        return [
            Route("/api/feed", self.feed),
            Route("/api/users", self.users),
            Route("/api/user", self.user),
            Route("/api/groups", self.groups),
            Route("/api/audiences", self.audiences),
        ]

    async def feed(self, request: Request) -> Response:
        """Events, as the feed has them; `hidden=yes` for pages too, `user` for one person's."""
        query = request.query_params
        filters = filters_of(query, shows_hidden=query.get("hidden") == "yes")
        place, now = place_of(query.get("place")), datetime.now(UTC)
        if filters.user:
            ids = await self._people.identities_of(filters.user)
            lines = await self._events.timeline(
                ids, filters, place, now, types_hidden=HIDDEN_TYPES_OF_ONE
            )
        else:
            lines = await self._events.feed(filters, place, now)
        return _json({"items": [_event(line) for line in lines.lines], "next": lines.next})

    async def users(self, request: Request) -> Response:
        """Users, by their last sighting; with the filters of the Users page."""
        query = request.query_params
        found = await self._people.users(user_filters_of(query), query.get("place"))
        return _json({"items": [_user(user) for user in found.users], "next": found.next})

    async def user(self, request: Request) -> Response:
        """One user with all traits and identities, by any of their user ids."""
        id_ = request.query_params.get("id", "")
        identity = await self._people.identity("user", id_)
        owner = None if identity is None else identity["owner_id"]
        user = None if owner is None else await self._people.user(owner)
        if user is None:
            return _json({"code": "not_found", "message": "nobody has this id"}, 404)
        identities = await self._people.identities(user["id"])
        keys = ("user_id", "email", "phone", "avatar", "group_id", "identified")
        return _json(
            {
                **{key: user[key] for key in keys},
                "name": user["person_name"],
                "first_seen_at": user["first_seen_at"],
                "last_seen_at": user["last_seen_at"],
                "traits": msgspec.Raw(user["traits"].encode()),
                "identities": [
                    {"kind": row["kind"], "value": row["value"], "since": row["claimed_at"]}
                    for row in identities
                ],
            }
        )

    async def groups(self, request: Request) -> Response:
        """Groups, by id."""
        query = request.query_params
        found = await groups_found(self._shell.views, query.get("place", ""), query.get("q", ""))
        items = [
            {
                "group_id": row["group_id"],
                "traits": decoded_object(row["traits"]),
                "members_count": row["members_count"],
            }
            for row in found.rows
        ]
        return _json({"items": items, "next": found.next})

    async def audiences(self, _: Request) -> Response:
        """Audiences and computed traits, without the number of their members."""
        items = [
            {
                "name": audience.name,
                "computation_class": audience.computation_class,
                "last_synced_at": audience.synced_at,
            }
            for audience in await self._people.audiences()
        ]
        return _json({"items": items, "next": None})


def _event(line: Line) -> Mapping[str, Any]:
    return {
        "message_id": line.message_id,
        "user_id": line.person.user_id,
        "person": line.person.title,
        "type": line.type,
        "name": line.name,
        "category": line.told.category,
        "summary": line.text,
        "occurred_at": line.at,
        "group_id": line.group_id,
    }


def _user(user: Found) -> Mapping[str, Any]:
    return {
        "user_id": user.user_id,
        "name": user.person.title,
        "email": user.email,
        "group_id": user.group_id,
        "identified": user.identified,
        "first_seen_at": user.first_seen_at,
        "last_seen_at": user.last_seen_at,
    }


def _json(answer: object, status_code: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status_code, media_type="application/json")
