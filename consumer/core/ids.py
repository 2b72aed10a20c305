"""Ids: strings or integers, trimmed, of bounded length, and never a junk id by mistake.

Source: docs/identity.md, "Ids".
"""

from typing import Final

from consumer.core.call import RefusedError

ID_CHARS_MAX: Final = 512

BLOCKED_IDS: Final = frozenset(
    {
        "null",
        "undefined",
        "none",
        "nil",
        "nan",
        "0",
        "-1",
        "true",
        "false",
        "anonymous",
        "guest",
        "[object object]",
    }
)
"""What SDKs send by mistake, in lower case; ids of zeros and hyphens are blocked besides."""


def normalised_id(value: object, field: str, chars_max: int, *, trim: bool = True) -> str | None:
    """Read an id.

    Args:
        value: What was decoded from JSON; None where absent.
        field: Its name, for the detail.
        chars_max: The longest that is accepted, in characters after trimming.
        trim: Message ids are kept as sent.

    Returns:
        The id, None where it is absent or empty.

    Raises:
        RefusedError: It is of another type, too long, or holds NUL.
    """
    if isinstance(value, str):
        text = value.strip() if trim else value
    elif value is None:
        return None
    elif isinstance(value, int) and not isinstance(value, bool):
        # Python writes out no integer of more than some 4,300 digits.
        if abs(value) >= 10**chars_max:
            raise RefusedError("id_too_long", field, f"longer than {chars_max} characters")
        text = str(value)
    else:
        raise RefusedError(
            "invalid_field", field, f"{_json_type(value)}, must be a string or integer"
        )
    if len(text) > chars_max:
        raise RefusedError("id_too_long", field, f"{len(text)} characters, at most {chars_max}")
    if "\x00" in text:
        raise RefusedError("invalid_field", field, "holds a NUL character")
    return text or None


def is_blocked(text: str, blocked: frozenset[str]) -> bool:
    """Tell whether an id is one that names nobody.

    Args:
        text: A normalised id.
        blocked: Junk ids in lower case.
    """
    return text.lower() in blocked or (text[0] in "0-" and not text.strip("0-") and "0" in text)


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, float):
        return "a fraction"
    return "an array" if isinstance(value, list) else "an object"
