"""What the dashboard's pages are given to work with."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio

    import asyncpg

    from consumer.settings import Settings
    from dashboard.doors import Doors


class Parts(NamedTuple):
    """What outlives a request."""

    settings: "Settings"
    pool: "asyncpg.Pool[asyncpg.Record]"
    """asyncpg's own types: `datetime`, jsonb as text. Connects when first needed."""
    stop: "asyncio.Event"
    """Set when the dashboard is to end: answers that never end by themselves end then."""
    doors: "Doors"
    """Who may look."""
