"""What every page is put into: the templates, who looks at it, and how they like it."""

from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from importlib import resources
from typing import Any, Final, NamedTuple

import structlog
from babel.numbers import format_decimal
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from dashboard import moments
from dashboard.catalogue import Catalogue
from dashboard.database import Views
from dashboard.people import one_line

log = structlog.get_logger()

NAVIGATION: Final = (
    ("/", "Feed", "feed"),
    ("/users", "Users", "users"),
    ("/groups", "Groups", "building"),
    ("/audiences", "Audiences", "target"),
    ("/sources", "Sources", "source"),
    ("/dead-letters", "Dead letters", "dead"),
    ("/health", "Health", "health"),
)
THEMES: Final = ("auto", "light", "dark")


class Looker(NamedTuple):
    """How somebody wants to see the pages."""

    now: datetime
    """In their zone, by their browser's word."""
    theme: str
    shows_hidden: bool
    csrf_token: str


def looker_of(request: Request) -> Looker:
    """Read what a browser remembers of itself; nonsense counts as nothing."""
    cookies = request.cookies
    zone = moments.zone_named(cookies.get("windsor_zone", "UTC")[:64])
    theme = cookies.get("windsor_theme", "auto")
    return Looker(
        datetime.now(UTC).astimezone(zone),
        theme if theme in THEMES else "auto",
        cookies.get("windsor_hidden") == "shown",
        request.scope.get("windsor.csrf_token", ""),
    )


class Shell:
    """Renders pages, and parts of pages."""

    def __init__(self, views: Views, catalogue: Catalogue) -> None:
        self.views = views
        self.catalogue = catalogue
        self._templates = Environment(
            loader=PackageLoader("dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {"navigation": NAVIGATION, "asset": asset}
        self._templates.filters |= {
            "number": number,
            "compact": compact,
            "line": one_line,
            "bytes": byte_size,
        }

    def page(
        self, request: Request, template: str, status_code: int = 200, /, **context: object
    ) -> HTMLResponse:
        """Answer with a template; a part of a page is one without the layout."""
        looker = looker_of(request)
        return HTMLResponse(
            self.rendered(template, looker, path=request.url.path, **context), status_code
        )

    async def nowhere(self, request: Request, _: Exception) -> Response:
        """Answer where there is no page."""
        if request.url.path.startswith("/api/"):
            return JSONResponse({"code": "not_found", "message": "there is no such page"}, 404)
        return self.page(
            request,
            "message.html",
            404,
            section="",
            mark="search",
            title="There is no such page",
            words="Perhaps its address was misspelled.",
            href="/",
            link="Go to the feed",
        )

    async def away(self, request: Request, error: Exception) -> Response:
        """Answer while the database is away, or takes too long."""
        log.warning("page.unanswered", error=str(error))
        if request.url.path.startswith("/api/"):
            return JSONResponse({"code": "unavailable", "message": "the database is away"}, 503)
        return self.page(
            request,
            "message.html",
            503,
            section="",
            mark="warning",
            title="The database does not answer",
            words="What arrives meanwhile waits in Kafka and is not lost. Try again in a moment.",
            href=None,
            link=None,
        )

    def rendered(self, template: str, looker: Looker, /, **context: object) -> str:
        """Fill a template for somebody.

        Args:
            template: The name of its file.
            looker: For whom.
            context: What else it asks for.
        """
        now = looker.now
        told: dict[str, Any] = {
            "looker": looker,
            "ago": lambda at: moments.ago(_local(at, now), now),
            "exact": lambda at: moments.exact(_local(at, now)),
            "date": lambda at: moments.date(_local(at, now), now),
            "day": lambda at: moments.day(_local(at, now), now),
            "clock": lambda at: f"{_local(at, now):%H:%M}",
        }
        return self._templates.get_template(template).render(told | context)


def _local(at: datetime, now: datetime) -> datetime:
    """A moment in the zone of another; the ends of time stay where they are."""
    try:
        return at.astimezone(now.tzinfo)
    except OverflowError:
        return at


_BIGINT_DIGITS: Final = 18


def number_of(text: object) -> int:
    """A number of an address or form, 0 where it is none."""
    is_number = isinstance(text, str) and text.isascii() and text.isdecimal()
    return int(str(text)) if is_number and len(str(text)) <= _BIGINT_DIGITS else 0


def number(value: float) -> str:
    """A number as people write it."""
    return str(format_decimal(value, locale="en_US"))


_THOUSAND: Final = 1000


def compact(value: float) -> str:
    """A number in little room: `950`, `12.3k`, `4.5M`."""
    for unit in ("", "k", "M", "G"):
        if abs(value) < _THOUSAND:
            return f"{value:.3g}{unit}"
        value /= _THOUSAND
    return f"{value:.3g}T"


def byte_size(value: float) -> str:
    """Bytes, in the unit that suits."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:  # noqa: PLR2004 - a kibibyte
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


@lru_cache(maxsize=64)
def asset(name: str) -> str:
    """The address of a static file; it changes with the file, so that browsers may keep it."""
    content = (resources.files("dashboard") / "static" / name).read_bytes()
    return f"/static/{name}?v={blake2b(content, digest_size=6).hexdigest()}"
