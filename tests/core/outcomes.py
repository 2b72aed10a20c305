"""Calls as senders write them, what the decoder makes of them, and what holds of any outcome."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from consumer.core.call import (
    Call,
    Identity,
    IdentityKind,
    Outcome,
    Rejected,
    RejectReason,
    Skipped,
    SkipReason,
)
from consumer.core.clock import EARLIEST_US, LATEST_US
from consumer.core.decode import Decoder, DecodeRules
from consumer.core.fold import fold
from tests.core.calls import HandRecord, by_identity

Fields = dict[str, Any]

JANE = Identity("user", "jane")
EMAIL = Identity("email", "jane@example.com")
PHONE = Identity("phone", "+16502530000")

_REJECT_REASONS = frozenset(get_args(RejectReason)) - {"rejected_by_database"}
_SKIP_REASONS = frozenset(get_args(SkipReason))
_KINDS = frozenset(get_args(IdentityKind))


class Refused(NamedTuple):
    """A dead letter, as the tables of the tests write it; no detail stands for the parser's."""

    reason: str
    detail: str | None = None
    position: int = 0


def a_call(type_: str = "track", **fields: Any) -> Fields:  # noqa: ANN401 - a call's own fields
    """A call of Jane's, as a sender writes it; None leaves a field out."""
    written = {"type": type_, "userId": "jane", "messageId": "m", **fields}
    if type_ == "track":
        written.setdefault("event", "Clicked")
    return {key: value for key, value in written.items() if value is not None}


EMAIL_OPENED = a_call(event="Email Opened", userId=None)


def decode(
    value: bytes | Fields | None,
    rules: DecodeRules | None = None,
    *,
    expired_before: int | None = None,
) -> Sequence[Outcome]:
    """Decode a record, of bytes or of JSON, that was delivered at the start."""
    if isinstance(value, dict):
        value = json.dumps(value).encode()
    return Decoder(rules).decode(HandRecord(value=value), expired_before)


def decode_call(value: bytes | Fields, rules: DecodeRules | None = None) -> Call:
    """Decode a record that holds one good call."""
    (outcome,) = decode(value, rules)
    assert isinstance(outcome, Call), outcome
    return outcome


def refusals(value: bytes | Fields, rules: DecodeRules | None = None) -> list[Refused]:
    """The dead letters of a record that holds no good call."""
    outcomes = decode(value, rules)
    assert all(isinstance(outcome, Rejected) for outcome in outcomes), outcomes
    return [Refused(o.reason, o.detail, o.position) for o in outcomes if isinstance(o, Rejected)]


def refusal(value: bytes | Fields, rules: DecodeRules | None = None) -> tuple[str, str | None]:
    """Reason and detail of a record that holds one bad call."""
    ((reason, detail, _),) = refusals(value, rules)
    return reason, detail


# Whatever comes ---------------------------------------------------------------------------------


def assert_outcomes(value: bytes) -> Sequence[Outcome]:
    """The same outcomes each time, each a value, of the fixed reasons, in order, and foldable."""
    outcomes = decode(value)
    assert list(decode(value)) == list(outcomes)
    positions = []
    for outcome in outcomes:
        if isinstance(outcome, Skipped):
            assert outcome.reason in _SKIP_REASONS
            continue
        positions.append(outcome.position)
        if isinstance(outcome, Rejected):
            assert outcome.reason in _REJECT_REASONS
            assert outcome.detail
            outcome.detail.encode()
        else:
            _assert_storable_call(outcome)
    assert positions == sorted(set(positions))
    _assert_folds([outcome for outcome in outcomes if isinstance(outcome, Call)])
    return outcomes


def _assert_folds(calls: Sequence[Call]) -> None:
    """Distinct calls fold to the same in any order."""
    distinct = list({call.clock: call for call in calls}.values())
    forwards, backwards = fold(distinct), fold(reversed(distinct))
    assert by_identity(forwards) == by_identity(backwards)
    assert forwards.groups == backwards.groups
    assert forwards.audiences == backwards.audiences
    assert sorted(forwards.aliases, key=repr) == sorted(backwards.aliases, key=repr)


def _assert_storable_call(call: Call) -> None:
    """A call that Postgres will take."""
    assert call.identity.kind in _KINDS
    ids = (call.identity.value, call.user_id, call.anonymous_id, call.previous_id, call.group_id)
    for text in (*ids, call.clock.message_id, *(contact.value for contact in call.claims)):
        if text is not None:
            assert 0 < len(text) <= 512
            assert "\x00" not in text
            text.encode()
    assert EARLIEST_US <= call.clock.at <= LATEST_US
    assert "\x00" not in (call.name or "")
    for part in (call.properties, call.context, call.traits):
        _assert_storable_part(part)
    for key, raw in (call.trait_values or {}).items():
        _assert_storable_part(b"{%s:%s}" % (json.dumps(key).encode(), raw))


def _assert_storable_part(part: bytes | None) -> None:
    """An object in JSON's strictest sense, without a NUL in any key or value."""
    if part is None:
        return
    pairs: list[tuple[str, object]] = []

    def keep(members: list[tuple[str, object]]) -> Fields:
        pairs.extend(members)
        return dict(members)

    whole = json.loads(
        part, parse_constant=_refuse_constant, parse_int=str, parse_float=str,
        object_pairs_hook=keep,
    )  # fmt: skip
    assert isinstance(whole, dict)
    for key, value in pairs:
        assert "\x00" not in key
        key.encode()
        texts = value if isinstance(value, list) else [value]
        assert not any("\x00" in text for text in texts if isinstance(text, str))


def _refuse_constant(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
