"""The story is the same every time, and holds what it promises."""

from collections import Counter

from consumer.core.call import Call, Outcome, Rejected, Skipped
from consumer.core.decode import Decoder
from demo.story import StoryRecord, live, story
from tests.core.calls import HandRecord


def outcomes(record: StoryRecord) -> list[Outcome]:
    hand = HandRecord(timestamp=record.timestamp_ms, value=record.value)
    return list(Decoder().decode(hand))


def test_one_seed_tells_one_story() -> None:
    assert story() == story()
    assert story() != story(seed=2)


def test_broken_records_get_the_reason_they_are_made_for() -> None:
    for record in story():
        found = [o.reason for o in outcomes(record) if isinstance(o, Rejected)]
        assert found == ([] if record.expect is None else [record.expect])


def test_story_has_every_kind_of_call_and_category() -> None:
    found = [outcome for record in story() for outcome in outcomes(record)]
    calls = [outcome for outcome in found if isinstance(outcome, Call)]

    types = Counter(call.type for call in calls)
    assert set(types) == {"identify", "track", "page", "screen", "group", "alias"}
    assert len(calls) > 5_000
    assert {call.category for call in calls} >= {
        "analytics", "email", "support", "payment", "sms", "lifecycle",
    }  # fmt: skip
    assert {call.identity.kind for call in calls} == {"user", "anonymous", "email", "phone"}
    assert {o.reason for o in found if isinstance(o, Skipped)} == {"tombstone", "integrations"}
    assert {c.audience.name for c in calls if c.audience} == {
        "power_users", "onboarding_journey", "total_revenue_30_days",
    }  # fmt: skip


def test_story_has_late_and_repeated_calls() -> None:
    records = story()
    values = Counter(record.value for record in records)
    calls = [o for record in records for o in outcomes(record) if isinstance(o, Call)]

    assert sum(count > 1 for count in values.values()) > 100
    assert [c.clock.at for c in calls] != sorted(c.clock.at for c in calls)


def test_life_goes_on() -> None:
    (call,) = outcomes(live(1_793_750_400_000, 3))

    assert isinstance(call, Call)
    assert call.clock.at == 1_793_750_400_000_000
