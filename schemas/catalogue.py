"""The built-in catalogue of well-known events: which category each belongs to.

The category decides an identity (the contract, section 1.1): a track of the categories email,
support, payment or sms that has no `userId` belongs to the contact that it names. The data
is in `catalogue.tsv`; what it does not know is analytics.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias, cast

Category: TypeAlias = Literal["analytics", "email", "support", "payment", "sms", "lifecycle"]


class Event(NamedTuple):
    """One well-known event."""

    name: str
    category: Category
    spec: str


_SEPARATORS: Final = re.compile(r"[\W_]+")


def normalised(name: str) -> str:
    """Fold what spellings of one event differ in: case, spacing, punctuation."""
    return _SEPARATORS.sub("", name).lower()


def _load() -> Mapping[str, Event]:
    text = (resources.files(__package__) / "catalogue.tsv").read_text(encoding="utf-8")
    events = {}
    for line in text.splitlines()[1:]:
        name, category, spec = line.split("\t")
        events[normalised(name)] = Event(name, cast("Category", category), spec)
    return MappingProxyType(events)


EVENTS: Final = _load()
"""All events by their normalised name."""


@lru_cache(maxsize=4096)
def category_of(event: str) -> Category:
    """The category of a track call's event; analytics for an unknown one."""
    found = EVENTS.get(normalised(event))
    return "analytics" if found is None else found.category
