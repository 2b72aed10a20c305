"""Dead letters: what could not be applied, why, and what to do about it."""

from typing import Any, Final, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from consumer.core.call import RejectReason
from consumer.dead_letters import DeadLetters, Selection, discard, replay
from consumer.errors import SourceError
from consumer.kafka import KafkaOptions, open_sender
from consumer.sql import load_queries
from dashboard.doors import form_of
from dashboard.shell import Shell, number_of

_SQL: Final = load_queries("operations.sql", "dashboard.sql")
_PAGE_LETTERS: Final = 50
_LOOKED_MAX: Final = 5_000
_COUNTED_MAX: Final = 100_000
_VALUE_BYTES_MAX: Final = 20_000
_NEWEST: Final = 2**63 - 1
REASONS: Final[tuple[str, ...]] = get_args(RejectReason)


class DeadLetterPages:
    """The handlers of the dead letters."""

    def __init__(self, shell: Shell, kafka: KafkaOptions) -> None:
        self._shell = shell
        self._kafka = kafka

    def routes(self) -> list[BaseRoute]:
        """Where they answer."""
        return [
            Route("/dead-letters", self.letters),
            Route("/dead-letters/more", self.more),
            Route("/dead-letter", self.letter),
            Route("/dead-letters/replay", self.replay, methods=["POST"]),
            Route("/dead-letters/discard", self.discard, methods=["POST"]),
        ]

    async def letters(self, request: Request) -> Response:
        """The list."""
        counts = await self._shell.views.rows(_SQL["dead_letters_by_reason"], _COUNTED_MAX)
        return self._shell.page(
            request,
            "dead_letters.html",
            section="Dead letters",
            counts=counts,
            said=request.query_params.get("said", ""),
            count=number_of(request.query_params.get("count")),
            **await self._found(request),
        )

    async def more(self, request: Request) -> Response:
        """More of the list."""
        return self._shell.page(request, "dead_letter_rows.html", **await self._found(request))

    async def _found(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        reason = query.get("reason", "")
        reason = reason if reason in REASONS else ""
        shows_closed = query.get("closed") == "yes"
        rows = await self._shell.views.rows(
            _SQL["dead_letters"],
            number_of(query.get("before")) or _NEWEST,
            reason or None,
            shows_closed,
            _LOOKED_MAX,
            _PAGE_LETTERS,
        )
        found = [row for row in rows if row["reason"] is not None]
        following = rows[-1]["id"] if rows and rows[-1]["reason"] is None else None
        if len(found) == _PAGE_LETTERS:
            following = found[-1]["id"]
        return {
            "letters": found,
            "next": following,
            "reason": reason,
            "shows_closed": shows_closed,
            "query": f"reason={reason}&closed={'yes' if shows_closed else ''}",
        }

    async def letter(self, request: Request) -> Response:
        """One letter, with its record as it came."""
        id_ = number_of(request.query_params.get("id"))
        row = await self._shell.views.row(_SQL["dead_letter"], id_, _VALUE_BYTES_MAX)
        if row is None:
            return self._shell.page(
                request,
                "message.html",
                404,
                section="Dead letters",
                mark="dead",
                title="There is no such dead letter",
                words="An operator may have deleted its row.",
                href="/dead-letters",
                link="Look at all dead letters",
            )
        return self._shell.page(
            request,
            "dead_letter.html",
            section="Dead letters",
            letter=row,
            value=shown_bytes(row["value"]),
            key=shown_bytes(row["key"]),
            is_cut=(row["value_bytes"] or 0) > _VALUE_BYTES_MAX,
            fault=request.query_params.get("fault") == "kafka",
        )

    async def replay(self, request: Request) -> Response:
        """Send a letter's record again, after a fix."""
        form = form_of(request)
        id_ = number_of(form.get("id"))
        try:
            async with self._shell.views.connection() as connection:
                letters = DeadLetters(connection)
                async with open_sender(self._kafka) as sender:
                    selection = Selection(ids=(id_,), closed=True)
                    done = await replay(letters, sender, selection, lambda _: None)
        except SourceError:
            return RedirectResponse(f"/dead-letter?id={id_}&fault=kafka", 303)
        said = "replayed" if done.records else "refused"
        return RedirectResponse(f"/dead-letters?said={said}&count={done.records}", 303)

    async def discard(self, request: Request) -> Response:
        """Put a letter away."""
        form = form_of(request)
        id_ = number_of(form.get("id"))
        async with self._shell.views.connection() as connection:
            count = await discard(DeadLetters(connection), Selection(ids=(id_,)), lambda _: None)
        return RedirectResponse(f"/dead-letters?said=discarded&count={count}", 303)


def shown_bytes(raw: bytes | None) -> str:
    """Bytes for a person: JSON in lines, other text as it is, anything else as a dump."""
    if raw is None:
        return ""
    try:
        return msgspec.json.format(raw, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _dump(raw)
    return text if text.isprintable() or not any(c < " " and c not in "\n\t\r" for c in text) \
        else _dump(raw)  # fmt: skip


def _dump(raw: bytes) -> str:
    """Sixteen bytes a line, as numbers and as letters."""
    lines = []
    for start in range(0, min(len(raw), 4096), 16):
        some = raw[start : start + 16]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in some)  # noqa: PLR2004 - ASCII
        lines.append(f"{start:06x}  {some.hex(' '):47}  {letters}")
    return "\n".join(lines)
