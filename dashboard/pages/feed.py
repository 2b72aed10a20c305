"""The feed: everybody's events, newest first, arriving live."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Route

from dashboard.catalogue import CATEGORIES, CATEGORY_ICONS
from dashboard.doors import form_of, here
from dashboard.events import (
    EVENT_TYPES,
    Events,
    Filters,
    Line,
    Lines,
    filters_of,
    place_of,
)
from dashboard.live import Live
from dashboard.people_found import People
from dashboard.shell import Looker, Shell, looker_of, number_of

_HEARTBEAT_SECONDS: Final = 15.0
_HIDDEN_COOKIE_SECONDS: Final = 365 * 86_400
_JSON_INDENT: Final = 2
_NAME_CHARS_MAX: Final = 10_000


class FeedPages:
    """The handlers of the feed."""

    def __init__(self, shell: Shell, events: Events, people: People, live: Live) -> None:
        self._shell = shell
        self._events = events
        self._people = people
        self._live = live

    def routes(self) -> list[BaseRoute]:
        """Where they answer."""
        return [
            Route("/", self.feed),
            Route("/feed/more", self.more),
            Route("/feed/live", self.live),
            Route("/event", self.event),
            Route("/hidden/switch", self.switch, methods=["POST"]),
            Route("/hidden/hide", self.hide, methods=["POST"]),
            Route("/hidden/show", self.show, methods=["POST"]),
        ]

    async def feed(self, request: Request) -> Response:
        """The page."""
        filters = self._filters(request)
        lines = await self._lines(request, filters)
        return self._shell.page(
            request,
            "feed.html",
            section="Feed",
            filters=filters,
            lines=lines,
            hidden_names=await self._events.hidden_names(),
            categories=CATEGORIES,
            category_icons=CATEGORY_ICONS,
            day_before="",
            more=f"/feed/more?{filters.query()}",
            more_page=f"/?{filters.query()}",
            place_given="place" in request.query_params,
        )

    async def more(self, request: Request) -> Response:
        """What follows, for a page that has been scrolled to its end."""
        filters = self._filters(request)
        return self._shell.page(
            request,
            "lines.html",
            filters=filters,
            lines=await self._lines(request, filters),
            day_before=request.query_params.get("day", ""),
            more=f"/feed/more?{filters.query()}",
            more_page=f"/?{filters.query()}",
            place_given=True,
        )

    async def live(self, request: Request) -> Response:
        """What arrives from now on, as server-sent events of rendered lines."""
        if self._live.is_full:
            return PlainTextResponse("too many watch already", 503, {"Retry-After": "10"})
        filters, looker = self._filters(request), looker_of(request)
        hidden = frozenset() if filters.shows_hidden else frozenset(
            await self._events.hidden_names()
        )  # fmt: skip
        return StreamingResponse(
            self._arriving(filters, hidden, looker),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _arriving(
        self, filters: Filters, hidden: frozenset[str], looker: Looker
    ) -> AsyncIterator[str]:
        async with self._live.watching() as queue:
            yield "retry: 2000\nevent: hello\ndata: {}\n\n"
            while True:
                try:
                    arrived = await asyncio.wait_for(queue.get(), _HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if not arrived:
                    return
                lines = [line for line in arrived if _fits(line, filters, hidden)]
                if lines:
                    yield self._event(lines, filters, looker)

    def _event(self, lines: Sequence[Line], filters: Filters, looker: Looker) -> str:
        now = datetime.now(UTC).astimezone(looker.now.tzinfo)
        html = self._shell.rendered(
            "lines.html",
            looker._replace(now=now),
            lines=Lines(lines, None, None),
            day_before="",
            filters=filters,
            place_given=False,
        )
        told = {"html": html, "count": len(lines), "newest": lines[0].text}
        return f"event: lines\ndata: {msgspec.json.encode(told).decode()}\n\n"

    async def event(self, request: Request) -> Response:
        """One event's details, for the line that is opened."""
        query = request.query_params
        event = await self._events.one(
            place_of(query.get("place")), number_of(query.get("identity"))
        )
        if event is None:
            return HTMLResponse("<p>This event is not there any more.</p>")
        parts = {key: _pretty(event[key]) for key in ("properties", "traits", "context")}
        return self._shell.page(request, "event.html", event=event, **parts)

    async def switch(self, request: Request) -> Response:
        """Show what is hidden, or hide it; remembered by the browser."""
        form = form_of(request)
        answer = RedirectResponse(here(form.get("back", "/")), 303)
        answer.set_cookie(
            "windsor_hidden",
            "shown" if form.get("shown") else "hidden",
            max_age=_HIDDEN_COOKIE_SECONDS,
            httponly=True,
            samesite="lax",
        )
        return answer

    async def hide(self, request: Request) -> Response:
        """Hide a name for everybody."""
        form = form_of(request)
        if name := form.get("name", ""):
            await self._events.hide(name[:_NAME_CHARS_MAX])
        return RedirectResponse(here(form.get("back", "/")), 303)

    async def show(self, request: Request) -> Response:
        """Show a hidden name again."""
        form = form_of(request)
        await self._events.show(form.get("name", "")[:_NAME_CHARS_MAX])
        return RedirectResponse(here(form.get("back", "/")), 303)

    def _filters(self, request: Request) -> Filters:
        return filters_of(request.query_params, shows_hidden=looker_of(request).shows_hidden)

    async def _lines(self, request: Request, filters: Filters) -> Lines:
        place = place_of(request.query_params.get("place"))
        now = datetime.now(UTC)
        if not filters.user:
            return await self._events.feed(filters, place, now)
        ids = await self._people.identities_of(filters.user)
        return await self._events.timeline(ids, filters, place, now)


def _fits(line: Line, filters: Filters, hidden: frozenset[str]) -> bool:
    """Whether a filter lets a new event through, as `Events.feed` does."""
    person = line.person
    return (
        (filters.shows_hidden or (line.type in EVENT_TYPES and line.name_sent not in hidden))
        and filters.category in {"", line.told.category}
        and filters.name in {"", line.name_sent}
        and filters.group in {"", line.group_id}
        and (not filters.user or filters.user in {person.user_id, person.title, person.detail})
    )


def _pretty(raw: str | None) -> str:
    """JSON for a person; what was cut is shown as it is."""
    if raw is None:
        return ""
    try:
        return msgspec.json.format(raw, indent=_JSON_INDENT)
    except msgspec.DecodeError:
        return f"{raw} …"
