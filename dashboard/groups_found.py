"""Groups as the list and the API find them: by id, in bounded pages."""

from typing import Final, NamedTuple

from consumer.sql import load_queries
from dashboard.database import Row, Views

_SQL: Final = load_queries("groups.sql", "dashboard.sql")
_PAGE_GROUPS: Final = 60
_LOOKED_MAX: Final = 5_000


class GroupsFound(NamedTuple):
    """A page of groups."""

    rows: list[Row]
    next: str | None
    """Where to go on; less than a page with one is a search that has looked at enough."""


async def groups_found(views: Views, after: str, search: str) -> GroupsFound:
    """Find groups after an id, whose id or name holds what is searched for."""
    search = search.strip()[:200]
    rows = await views.rows(_SQL["groups"], after[:512], search or None, _LOOKED_MAX, _PAGE_GROUPS)
    # The last one looked at comes without a name where it is not one that was found.
    found = [row for row in rows if row["name"] is not None]
    following = rows[-1]["group_id"] if rows and rows[-1]["name"] is None else None
    if len(found) == _PAGE_GROUPS:
        following = found[-1]["group_id"]
    return GroupsFound(found, following)
