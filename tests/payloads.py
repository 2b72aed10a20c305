"""Real payloads, written by nobody here; they are kept beside this repository, never in it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.programs import missing

FOLDER = Path(__file__).parents[2] / "shared" / "fixtures"


@cache
def real_payloads() -> dict[str, bytes]:
    """The payloads by file name; where there are none a test is skipped, in CI it fails."""
    if not FOLDER.is_dir():
        missing("the real payloads are not beside this checkout")
    found = {path.name: path.read_bytes() for path in sorted(FOLDER.glob("*.json"))}
    assert len(found) > 30
    return found


def real_records() -> dict[str, dict[str, Any]]:
    """The payloads as values."""
    return {name: json.loads(value) for name, value in real_payloads().items()}
