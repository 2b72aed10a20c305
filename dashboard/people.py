"""Somebody, as the pages show them: a name, initials on a colour, and where their page is."""

import unicodedata
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

HUES: Final = 12
"""Colours of avatars, in the stylesheet: `.hue-0` and so on."""

_NAME_CHARS_MAX: Final = 80
_ADDRESS_CHARS_MAX: Final = 2000
# They would turn around the text that follows; what shows right to left does so without them.
_TURNING: Final = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F])


class Person(NamedTuple):
    """A user, a visitor, or somebody known by an email or phone only."""

    title: str
    """What to call them: at most 80 characters on one line, perhaps from a sender."""
    initials: str
    hue: int
    href: str
    avatar: str | None
    """An https address."""
    user_id: str | None
    detail: str | None
    """Their email or phone, where that is not the title."""


def person_of(row: Mapping[str, Any]) -> Person:
    """Make a person of a row.

    Args:
        row: With `user_id`, `person_name`, `email`, `phone`, `avatar`, and `kind` and `value` of
            the identity where there is no user.
    """
    user_id: str | None = row["user_id"]
    if user_id is None:
        return _stranger(row["kind"], row["value"])
    name, email, phone = (one_line(row[key] or "") for key in ("person_name", "email", "phone"))
    title = name or email or phone or one_line(user_id) or "Unnamed"
    detail = next((text for text in (email, phone) if text and text != title), None)
    return Person(
        title,
        initials_of(title),
        _hue(user_id),
        f"/user?id={quote(user_id, safe='')}",
        avatar_of(row["avatar"]),
        user_id,
        detail,
    )


def _stranger(kind: str, value: str) -> Person:
    title = one_line(value)
    if kind == "anonymous":
        title = f"Visitor {one_line(value)[-6:]}"
    href = f"/identity?kind={quote(kind, safe='')}&id={quote(value, safe='')}"
    initials = "?" if kind == "anonymous" else initials_of(title)
    return Person(title, initials, _hue(value), href, None, None, None)


def avatar_of(address: str | None) -> str | None:
    """An avatar's address, where it may be shown: https, and of sensible length."""
    if (
        address is None
        or len(address) > _ADDRESS_CHARS_MAX
        or not address.lower().startswith("https://")
    ):
        return None
    return address


def one_line(text: str, chars_max: int = _NAME_CHARS_MAX) -> str:
    """A sender's text for one line: no controls, no turning around, and an end."""
    # Not more of it than could be shown is looked at.
    short = text[: chars_max * 4]
    if not short.isascii() or not short.isprintable():
        short = _plain(short)
    words = " ".join(short.split())
    return words if len(words) <= chars_max else words[: chars_max - 1].rstrip() + "…"


def _plain(text: str) -> str:
    return "".join(
        " " if unicodedata.category(char) in {"Cc", "Zl", "Zp", "Zs"} else char
        for char in text.translate(_TURNING)
    )


def initials_of(title: str) -> str:
    """One or two letters of a name."""
    words = [word for word in title.split("@", 1)[0].replace(".", " ").split() if word[0].isalnum()]
    if not words:
        return "?"
    letters = words[0][0] + (words[-1][0] if len(words) > 1 else "")
    return letters.upper()[:2]


def initials_and_hue(title: str, id_: str) -> tuple[str, int]:
    """What an avatar shows of something that is no person."""
    return initials_of(title), _hue(id_)


def _hue(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "replace")) % HUES
