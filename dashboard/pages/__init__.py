"""The pages, rendered on the server."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from dashboard.parts import Parts


def routes(parts: "Parts") -> "list[BaseRoute]":
    """The routes of the pages; the endpoint's paths (`/v1/...`, `/b`) are taken before them."""
    del parts
    return []
