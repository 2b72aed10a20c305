"""When a call happened, and when it is too late to be kept or not wanted at all.

Sentence by sentence of the contract; what must be refused is in `hostile.py`.
"""

import pytest

from consumer.core.call import Call, Clock, Skipped
from consumer.core.decode import Decoder
from tests.core.calls import START_US, HandRecord
from tests.core.outcomes import JANE, Fields, a_call, decode, decode_call

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US

# Time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        pytest.param({}, 0, id="the record's"),
        pytest.param({"receivedAt": "2026-10-05T00:00:10Z"}, 10, id="receivedAt"),
        pytest.param(
            {"receivedAt": "2026-10-05T00:00:10Z", "sentAt": "2026-10-05T01:00:00Z"},
            10,
            id="receivedAt, where nothing says how old the call is",
        ),
        pytest.param(
            {"receivedAt": "2026-10-05T00:00:10Z", "originalTimestamp": "2026-10-05T00:00:05Z"},
            5,
            id="originalTimestamp before receivedAt",
        ),
        pytest.param(
            {"sentAt": "2026-10-05T00:00:10Z", "originalTimestamp": "2026-10-05T00:00:05Z"},
            5,
            id="originalTimestamp where nothing says when it was received",
        ),
        pytest.param(
            {
                "receivedAt": "2026-10-05T00:00:10Z", "sentAt": "2026-10-05T01:00:02Z",
                "originalTimestamp": "2026-10-05T01:00:00Z",
            },
            8,
            id="corrected for a clock that is an hour ahead",
        ),
        pytest.param(
            {
                "timestamp": "2026-10-05T00:00:07Z", "receivedAt": "2026-10-05T00:00:10Z",
                "sentAt": "2026-10-05T01:00:02Z", "originalTimestamp": "2026-10-05T01:00:00Z",
            },
            7,
            id="timestamp before all",
        ),
        pytest.param(
            {"timestamp": "yesterday", "receivedAt": "2026-10-05T00:00:10Z"},
            10,
            id="an unreadable timestamp is absent",
        ),
        pytest.param(
            {
                "receivedAt": "2026-10-05T00:00:10Z", "sentAt": "soon",
                "originalTimestamp": "2026-10-05T00:00:05Z",
            },
            5,
            id="an unreadable sentAt is absent",
        ),
        pytest.param(
            {"receivedAt": [], "originalTimestamp": {}, "sentAt": True, "timestamp": False},
            0,
            id="times of other types are absent",
        ),
    ],
)  # fmt: skip
def test_time_of_a_call_is_the_first_that_it_has(times: Fields, seconds: int) -> None:
    decoded = decode_call(a_call(**times))

    assert (decoded.clock, decoded.timestamp_replaced) == (
        Clock(START_US + seconds * SECOND_US, "m"),
        False,
    )


@pytest.mark.parametrize(
    ("timestamp", "at", "replaced"),
    [
        ("2026-10-06T00:00:00Z", START_US + DAY_US, False),
        ("2026-10-06T00:00:00.000001Z", START_US, True),
        ("2000-01-01T00:00:00Z", 946_684_800_000_000, False),
        ("1999-12-31T23:59:59.999999Z", START_US, True),
    ],
)
def test_implausible_time_is_replaced_by_the_records_and_said_so(
    timestamp: str, at: int, *, replaced: bool
) -> None:
    decoded = decode_call(a_call(timestamp=timestamp))

    assert (decoded.clock, decoded.timestamp_replaced) == (Clock(at, "m"), replaced)


# Skipped calls ------------------------------------------------------------------------------------


def test_tombstone_is_skipped() -> None:
    assert Decoder().decode(HandRecord(value=None)) == (Skipped("tombstone"),)


@pytest.mark.parametrize(
    "integrations",
    [{"Windsor": False}, {"All": True, "Windsor": False}, {"Windsor": False, "x": 1}],
)
def test_call_that_leaves_windsor_out_is_skipped(integrations: Fields) -> None:
    assert decode(a_call(integrations=integrations)) == (Skipped("integrations"),)


def test_integration_may_be_spelled_with_escapes() -> None:
    value = b'{"type":"identify","userId":"jane","integrations":{"\\u0057indsor":false}}'

    assert Decoder().decode(HandRecord(value=value)) == (Skipped("integrations"),)


@pytest.mark.parametrize(
    "integrations",
    [
        {}, [], "Windsor", ["Windsor"], {"All": False}, {"Windsor": True}, {"Windsor": None},
        {"Windsor": {}}, {"Windsor": "false"}, {"Windsor": 0}, {"windsor": False},
        {"Mixpanel": {"Windsor": False}},
    ],
)  # fmt: skip
def test_other_integrations_filter_nothing(integrations: object) -> None:
    assert decode_call(a_call(integrations=integrations)).identity == JANE


@pytest.mark.parametrize(
    ("type_", "expires"),
    [
        ("track", True),
        ("page", True),
        ("screen", True),
        ("identify", False),
        ("group", False),
        ("alias", False),
    ],
)
def test_old_events_are_expired(type_: str, *, expires: bool) -> None:
    fields = a_call(type_, groupId="acme", previousId="old")

    (older,) = decode(fields, expired_before=START_US + 1)
    (kept,) = decode(fields, expired_before=START_US)

    assert (older == Skipped("expired")) is expires
    assert isinstance(kept, Call)
