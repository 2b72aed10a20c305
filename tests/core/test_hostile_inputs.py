"""Bad data is a value: no input raises, and each has its outcome, reason and detail.

First the table of inputs that are known to be hostile, then what Hypothesis makes of good calls.
`tests/test_hostile_inputs.py` puts the table through the whole worker.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from consumer.core.call import Call, Outcome, Rejected
from consumer.core.decode import DecodeRules
from tests.core.hostile import HOSTILE, NEIGHBOURHOODS, Expected, Hostile, padded
from tests.core.outcomes import Refused, assert_outcomes, decode, refusal


def told(outcome: Outcome, expected: Expected | None) -> Expected:
    """An outcome in the words of the table: of a call those fields that its row gives."""
    if isinstance(outcome, Rejected):
        without = isinstance(expected, Refused) and expected.detail is None
        assert outcome.detail
        return Refused(outcome.reason, None if without else outcome.detail, outcome.position)
    if isinstance(outcome, Call):
        fields = expected if isinstance(expected, Mapping) else {"user_id": None}
        whole: dict[str, Any] = {name: getattr(outcome, name, None) for name in fields}
        clock = outcome.clock._asdict()
        return whole | {name: clock[name] for name in fields if name in clock}
    return outcome


def assert_told(value: bytes | None, expected: tuple[Expected, ...]) -> None:
    outcomes = decode(value) if value is None else assert_outcomes(value)
    padding = [None] * max(0, len(outcomes) - len(expected))
    assert [
        told(outcome, row) for outcome, row in zip(outcomes, [*expected, *padding], strict=False)
    ] == list(expected)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_hostile_input_has_its_outcome(hostile: Hostile) -> None:
    assert_told(hostile.value, hostile.outcomes)


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
def test_record_stands_for_itself_whoever_its_neighbours_are(neighbourhood: str) -> None:
    for value, expected in NEIGHBOURHOODS[neighbourhood]:
        assert_told(value, expected)


def test_rows_of_the_table_are_distinct() -> None:
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)
    assert len({hostile.value for hostile in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (padded(201), "too_large", "record of 201 bytes, at most 200"),
        (padded(101), "too_large", "call of 101 bytes, at most 100"),
        (b'{"type":"identify","context":{"a":[]}}', "too_deep", "deeper than 2 levels"),
        (
            b'{"type":"identify","userId":"janet"}',
            "id_too_long",
            "userId: 5 characters, at most 4",
        ),
    ],
)
def test_bounds_are_the_rules(value: bytes, reason: str, detail: str) -> None:
    rules = DecodeRules(record_bytes_max=200, call_bytes_max=100, depth_max=2, id_chars_max=4)

    assert refusal(value, rules) == (reason, detail)
