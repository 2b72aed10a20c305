"""Sources: who may send calls, with tokens that are shown once."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from consumer.sql import load_queries
from dashboard import tokens
from dashboard.doors import form_of
from dashboard.setup import STEPS, snippets
from dashboard.shell import Shell
from dashboard.tokens import SourceNameError

_SQL: Final = load_queries("operations.sql", "dashboard.sql")
_NAME_CHARS_MAX: Final = 200


async def may_read(shell: Shell, token: str) -> bool:
    """Whether a token is one of a source that may read under `/api/`."""
    source_id = tokens.source_id_of(token)
    if source_id is None:
        return False
    row = await shell.views.row(_SQL["reading_token"], source_id)
    return row is not None and tokens.is_token(token, row["token_hash"])


class SourcePages:
    """The handlers of the sources."""

    def __init__(self, shell: Shell, endpoint_url: str | None) -> None:
        """Make it.

        Args:
            shell: What pages are put into.
            endpoint_url: Where SDKs send to, where the settings say so; else this site.
        """
        self._shell = shell
        self._endpoint_url = endpoint_url

    def routes(self) -> list[BaseRoute]:
        """Where they answer."""
        return [
            Route("/sources", self.sources),
            Route("/sources/rows", self.rows),
            Route("/sources/generate", self.generate, methods=["POST"]),
            Route("/sources/revoke", self.revoke, methods=["POST"]),
        ]

    async def sources(self, request: Request) -> Response:
        """The list."""
        return await self._page(request)

    async def rows(self, request: Request) -> Response:
        """The rows alone: when each was last heard of changes while one looks."""
        return self._shell.page(request, "source_rows.html", **await self._listed())

    async def _listed(self) -> dict[str, Any]:
        rows = await self._shell.views.rows(_SQL["reading_sources"])
        async with self._shell.views.connection() as connection:
            sources = await tokens.list_sources(connection)
        return {
            "sources": sources,
            "reading": {row["source_id"] for row in rows},
        }

    async def generate(self, request: Request) -> Response:
        """Make a token; it is on this page alone, with what one does with it."""
        form = form_of(request)
        name = form.get("name", "")[:_NAME_CHARS_MAX]
        try:
            async with self._shell.views.connection() as connection:
                generated = await tokens.generate(connection, name)
        except SourceNameError as error:
            return await self._page(request, fault=str(error), name=name)
        if form.get("may_read"):
            await self._shell.views.rows(_SQL["let_read"], generated.source.source_id)
        return await self._page(request, generated=generated)

    async def revoke(self, request: Request) -> Response:
        """Take a token back."""
        form = form_of(request)
        try:
            async with self._shell.views.connection() as connection:
                await tokens.revoke(connection, form.get("source_id", ""))
        except SourceNameError as error:
            return await self._page(request, fault=str(error))
        return RedirectResponse("/sources", 303)

    async def _page(
        self,
        request: Request,
        *,
        generated: tokens.Generated | None = None,
        fault: str | None = None,
        name: str = "",
    ) -> Response:
        url = (self._endpoint_url or str(request.base_url)).rstrip("/")
        answer = self._shell.page(
            request,
            "sources.html",
            400 if fault else 200,
            section="Sources",
            **await self._listed(),
            generated=generated,
            fault=fault,
            name=name,
            endpoint_url=url,
            steps=STEPS,
            snippets=snippets(url, generated.token) if generated is not None else [],
        )
        # A token is in no cache, and in no history that is gone back to.
        answer.headers["Cache-Control"] = "no-store"
        return answer
