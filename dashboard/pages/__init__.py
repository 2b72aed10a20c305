"""The pages, rendered on the server."""

from functools import partial
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from consumer.errors import TransientSinkError
from consumer.options import kafka_options
from dashboard.catalogue import load_catalogue
from dashboard.database import Views
from dashboard.doors import Guarded
from dashboard.events import Events
from dashboard.live import Live
from dashboard.pages.api import ApiPages
from dashboard.pages.audiences import AudiencePages
from dashboard.pages.dead_letters import DeadLetterPages
from dashboard.pages.feed import FeedPages
from dashboard.pages.groups import GroupPages
from dashboard.pages.health import HealthPages
from dashboard.pages.sources import SourcePages, may_read
from dashboard.pages.users import UserPages
from dashboard.people_found import People
from dashboard.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from dashboard.parts import Parts


def routes(parts: "Parts") -> "list[BaseRoute]":
    """The routes of the pages; what the endpoint takes (`PATHS` and more) never comes here."""
    settings = parts.settings
    catalogue = load_catalogue(settings.dashboard_catalogue)
    views = Views(parts.pool)
    shell, events, people = Shell(views, catalogue), Events(views, catalogue), People(views)
    kafka, live = kafka_options(settings), Live(events, parts.stop)
    pages: list[BaseRoute] = [
        Mount("/static", StaticFiles(packages=[("dashboard", "static")])),
        *FeedPages(shell, events, people, live).routes(),
        *UserPages(shell, events, people).routes(),
        *GroupPages(shell, events, people).routes(),
        *AudiencePages(shell, people).routes(),
        *SourcePages(shell, settings.dashboard_url).routes(),
        *DeadLetterPages(shell, kafka).routes(),
        *HealthPages(shell, kafka, live, parts.stop).routes(),
        *ApiPages(shell, events, people).routes(),
    ]

    def sign_in_page(request: "Request", told: "Mapping[str, str]") -> "Response":
        return shell.page(request, "sign_in.html", **told)

    inside = Starlette(
        routes=pages,
        exception_handlers={404: shell.nowhere, TransientSinkError: shell.away},
    )
    return [Mount("/", Guarded(inside, parts.doors, partial(may_read, shell), sign_in_page))]
