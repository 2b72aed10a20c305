"""What the pages know of event names: the built-in catalogue, and a workspace's own file.

A workspace's file is TOML, a table for each event; only the name is needed:

    [[event]]
    name = "Board Created"
    variants = ["New Board"]
    category = "lifecycle"
    icon = "check"
    summary = "created the board *{title|name}*"

It decides what the pages show, never whose an event is.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple, get_args

import msgspec

from consumer.errors import ConfigError
from dashboard.people import one_line
from dashboard.summary import (
    Event,
    Part,
    Sentence,
    TemplateError,
    compiled,
    sentence,
    sentence_of_name,
)
from schemas.catalogue import EVENTS, NAME_CHARS_MAX, Category, normalised

CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
CATEGORY_ICONS: Final[Mapping[str, str]] = {
    "analytics": "bolt",
    "email": "mail",
    "support": "chat",
    "payment": "card",
    "sms": "sms",
    "lifecycle": "user",
}

_FILE_BYTES_MAX: Final = 1024 * 1024


class OwnEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a workspace's file."""

    name: str
    variants: tuple[str, ...] = ()
    category: Category | None = None
    icon: str | None = None
    summary: str | None = None


class _OwnFile(msgspec.Struct, forbid_unknown_fields=True):
    event: list[OwnEvent] = []


class Told(NamedTuple):
    """An event as the pages tell it."""

    sentence: Sentence
    """The rest of a sentence that begins with somebody's name."""
    icon: str
    category: str


class Catalogue:
    """Tells events; a workspace's own before the built-in ones."""

    def __init__(self, own: Sequence[OwnEvent] = ()) -> None:
        self._own = {
            normalised(name): event for event in own for name in (event.name, *event.variants)
        }

    def told(self, event: Event, type_: str, category: str | None) -> Told:
        """Tell an event.

        Args:
            event: As stored.
            type_: Of the call: track, page or screen.
            category: As stored, by the built-in catalogue.
        """
        if type_ != "track":
            return _told_call(event, type_)
        key = normalised(event.name) if len(event.name) <= NAME_CHARS_MAX else ""
        own, known = self._own.get(key), EVENTS.get(key)
        category = (own and own.category) or category or "analytics"
        icon = (own and own.icon) or (known and known.icon) or CATEGORY_ICONS.get(category, "bolt")
        template = (own and own.summary) or (known.summary if known else None)
        told = sentence(template, event) if template else sentence_of_name(event)
        return Told(told or (Part("did something"),), icon, category)

    def moved(self, category: str) -> tuple[list[str], list[str]]:
        """Names that the workspace has put into a category, and those it has put into others.

        As its file has them: another spelling of one is where the built-in catalogue has it.
        """
        into: list[str] = []
        elsewhere: list[str] = []
        for event in dict.fromkeys(self._own.values()):
            if event.category is not None:
                names = into if event.category == category else elsewhere
                names += [event.name, *event.variants]
        return into, elsewhere


_PAGE_WITHOUT_NAME: Final = "viewed [{path|context.page.path|url|context.page.url};a page]"


def _told_call(event: Event, type_: str) -> Told:
    """Tell a call that is no track; a page and a screen have a name, or none."""
    name = one_line(event.name)
    if type_ == "page":
        named = (Part("viewed the page "), Part(name, is_set_off=True))
        return Told(named if name else sentence(_PAGE_WITHOUT_NAME, event), "eye", "analytics")
    if type_ == "screen":
        named = (Part("opened the screen "), Part(name, is_set_off=True))
        return Told(named if name else (Part("opened a screen"),), "device", "analytics")
    if type_ == "group":
        return Told((Part("joined "), Part(name, is_set_off=True)), "building", "lifecycle")
    if type_ == "alias":
        return Told((Part("was merged with another id"),), "users", "lifecycle")
    keys = [one_line(str(key), 40) for key in list(event.properties)[:4]]
    if not keys:
        return Told((Part("was identified"),), "user", "lifecycle")
    more = len(event.properties) - len(keys)
    told = ", ".join(keys) + (f" and {more} more" if more > 0 else "")
    return Told((Part("was identified with "), Part(told, is_set_off=True)), "user", "lifecycle")


def load_catalogue(path: str | None) -> Catalogue:
    """Read a workspace's file.

    Raises:
        ConfigError: It cannot be read, or a line of it is wrong; one line a fault.
    """
    if path is None:
        return Catalogue()
    setting = "WINDSOR_DASHBOARD_CATALOGUE"
    try:
        raw = Path(path).read_bytes()
        if len(raw) > _FILE_BYTES_MAX:
            raise ConfigError(f"{setting}: {path} is larger than a mebibyte")
        own = msgspec.convert(tomllib.loads(raw.decode()), _OwnFile).event
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{setting}: {path}: {one_line(str(error), 200)}") from error
    if faults := [f"{setting}: {path}: {event.name}: {fault}" for event in own
                  for fault in _faults(event)]:  # fmt: skip
        raise ConfigError("\n".join(faults))
    return Catalogue(own)


def _faults(event: OwnEvent) -> list[str]:
    faults = []
    if not normalised(event.name):
        faults.append("a name has letters or digits")
    if event.icon is not None and event.icon not in icons():
        faults.append(f"no icon {event.icon!r}: there are {', '.join(sorted(icons()))}")
    try:
        compiled(event.summary or "")
    except TemplateError as error:
        faults.append(str(error))
    return faults


def icons() -> frozenset[str]:
    """The icons of the sprite."""
    sprite = (resources.files(__package__ or "") / "static" / "icons.svg").read_text("utf-8")
    return frozenset(re.findall(r'<symbol id="([a-z-]+)"', sprite))
