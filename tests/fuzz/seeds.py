"""What the fuzzer begins with: the project's own calls, and the inputs known to be hostile."""

import hashlib
import json
from pathlib import Path

import msgspec

from schemas.segment import WireCall
from tests.core.hostile import HOSTILE, NEIGHBOURHOODS
from tests.core.mutations import ENVELOPES, GOOD_CALLS

_OTHER_NAMES = [
    "Windsor",
    "All",
    "personas",
    "computation_key",
    "computation_class",
    "email",
    "phone",
]


def field_names() -> list[str]:
    """The names that the decoder looks for."""
    return [field.encode_name for field in msgspec.structs.fields(WireCall)] + _OTHER_NAMES


def seeds() -> list[bytes]:
    """Values of records."""
    good = [json.dumps(wrap(call)).encode() for call in GOOD_CALLS for wrap in ENVELOPES]
    hostile = [row.value for row in HOSTILE if row.value is not None]
    near = [value for rows in NEIGHBOURHOODS.values() for value, _ in rows if value is not None]
    return [*good, *hostile, *near]


def write_seeds(folder: Path, bytes_max: int) -> None:
    """Write the seeds that are not too long, one a file, named by what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for value in seeds():
        if len(value) <= bytes_max:
            (folder / hashlib.blake2b(value, digest_size=16).hexdigest()).write_bytes(value)
