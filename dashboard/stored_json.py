"""JSON as Postgres gives it back: it keeps numbers that Python's floats and integers do not."""

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec


def decoded(raw: str) -> Any:  # noqa: ANN401 - whatever was sent
    """Decode a value; a number that Python cannot hold becomes its digits, a string.

    Raises:
        msgspec.DecodeError: It is no JSON, since it was cut.
    """
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:
        try:
            return json.loads(raw, parse_int=_integer, parse_float=_fraction)
        except ValueError as error:
            raise msgspec.DecodeError(str(error)) from error


def decoded_object(raw: str | None) -> Mapping[str, Any]:
    """Decode an object; what is none, or is absent, is an empty one."""
    value = None if raw is None else decoded(raw)
    return value if isinstance(value, Mapping) else {}


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        # Longer than the interpreter reads.
        return digits


def _fraction(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else digits
