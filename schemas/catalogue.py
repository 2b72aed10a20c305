"""The built-in catalogue of well-known events: what kind each is, and how it is told.

The category decides an identity (docs/identity.md, "Calls and identities"): a track of the
categories email, support, payment or sms that has no `userId` belongs to the contact that it
names, even where it has an `anonymousId`, for the tools that send such events make that up. So
the catalogue is conservative: what a visitor does in a browser with a contact at hand (a form,
an order, `Payment Info Entered`, `Newsletter Subscribed`) stays analytics, and what it does
not know is analytics.

The data is in `catalogue.tsv`, one event a line: its name, its category, who wrote the name
down (`common` where nobody did), its icon, what somebody did in words (`dashboard.summary` has
the notation), and other names for it, apart by semicolons. Spellings that differ in case or
punctuation only are one name and need no line.

Source: https://segment.com/docs/connections/spec/semantic/ and the specs and sources that
the third column names.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias, cast

Category: TypeAlias = Literal["analytics", "email", "support", "payment", "sms", "lifecycle"]


class Event(NamedTuple):
    """One well-known event, a line of the catalogue."""

    name: str
    category: Category
    spec: str
    """Where the name comes from: a Segment spec, a sender, or `common`."""
    icon: str
    """Of the sprite in `dashboard/static/icons.svg`."""
    summary: str
    """A template: the rest of a sentence that begins with somebody's name."""
    variants: tuple[str, ...]
    """Other names of the same event."""


NAME_CHARS_MAX: Final = 256
"""Longer names are unknown: five times as long as any in the catalogue. This bounds
what the cache can hold, and the work that a hostile name can make."""

_CACHED_NAMES_MAX: Final = 4096
_SEPARATORS: Final = re.compile(r"[\W_]+")


def normalised(name: str) -> str:
    """Fold what spellings of one event differ in: case, spacing, punctuation.

    Words are run together, so that `orderCompleted` is `Order Completed`.
    """
    return _SEPARATORS.sub("", name).lower()


def _load() -> Mapping[str, Event]:
    text = (resources.files(__package__) / "catalogue.tsv").read_text(encoding="utf-8")
    events = {}
    for line in text.splitlines()[1:]:
        name, category, spec, icon, summary, others = line.split("\t")
        variants = tuple(others.split("; ")) if others else ()
        event = Event(name, cast("Category", category), spec, icon, summary, variants)
        events.update(dict.fromkeys(map(normalised, (name, *variants)), event))
    return MappingProxyType(events)


EVENTS: Final = _load()
"""The events by normalised name; one with variants is there under each."""


def category_of(event: str) -> Category:
    """The category of a track call's event.

    Args:
        event: The name as sent, of any length.

    Returns:
        The catalogue's category, or analytics for an event that it does not know.
    """
    return _category_of(event) if len(event) <= NAME_CHARS_MAX else "analytics"


@lru_cache(maxsize=_CACHED_NAMES_MAX)
def _category_of(event: str) -> Category:
    known = EVENTS.get(normalised(event))
    return "analytics" if known is None else known.category
