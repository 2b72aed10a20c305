"""The pages, rendered on the server."""

from typing import TYPE_CHECKING

from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from dashboard.catalogue import load_catalogue
from dashboard.database import Views
from dashboard.events import Events
from dashboard.pages.feed import FeedPages
from dashboard.pages.users import UserPages
from dashboard.people_found import People
from dashboard.shell import Shell

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from dashboard.parts import Parts


def routes(parts: "Parts") -> "list[BaseRoute]":
    """The routes of the pages; the endpoint's paths (`/v1/...`, `/b`) are taken before them."""
    catalogue = load_catalogue(parts.settings.dashboard_catalogue)
    views = Views(parts.pool)
    shell, events, people = Shell(views, catalogue), Events(views, catalogue), People(views)
    return [
        Mount("/static", StaticFiles(packages=[("dashboard", "static")])),
        *FeedPages(shell, events, people, parts.stop).routes(),
        *UserPages(shell, events, people).routes(),
    ]
