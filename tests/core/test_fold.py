"""A batch folds to the same deltas, whatever the order of its calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.call import AudienceSync, CallType, Clock, Identity
from consumer.core.fold import Alias, Delta, Deltas, distinct, fold
from tests.core.calls import START_US, by_identity, call, traits_of

JANE = Identity("user", "jane")
EMAIL = Identity("email", "jane@example.com")


def clock(at: int, message_id: str) -> Clock:
    return Clock(START_US + at * 1_000_000, message_id)


def test_sign_up_folds_to_user_visitor_and_contact() -> None:
    calls = [
        call("page", 1, anonymous_id="phone"),
        call(
            "identify", 2, user_id="jane", anonymous_id="phone",
            trait_values={"plan": b'"pro"'}, claims=(EMAIL,),
        ),
        call("track", 3, user_id="jane", anonymous_id="phone"),
        call("track", 4, contact=EMAIL),
    ]  # fmt: skip

    assert fold(calls) == Deltas(
        users={
            "jane": Delta(
                listed=True,
                identified=True,
                first_at=clock(2, "").at,
                last_at=clock(3, "").at,
                claim=calls[1],
                traits=traits_of(plan=(clock(2, "identify-2"), b'"pro"')),
            )
        },
        visitors={
            "phone": Delta(
                listed=True,
                first_at=clock(1, "").at,
                last_at=clock(1, "").at,
                claim=calls[1],
            )
        },
        emails={"jane@example.com": Delta(listed=True, claim=calls[1])},
    )


def test_alias_names_both_users_and_claims_the_visitor_unlisted() -> None:
    old = Identity("user", "old")
    alias = call("alias", 1, user_id="jane", previous_id="old")

    deltas = fold([alias])

    assert deltas.aliases == [Alias(alias.clock, old, JANE)]
    assert deltas.users["old"] == Delta(listed=True, claim=alias)
    assert deltas.visitors["old"] == Delta(claim=alias)


def test_alias_to_oneself_merges_nothing() -> None:
    alias = call("alias", 1, user_id="jane", previous_id="jane")

    deltas = fold([alias])

    assert deltas.aliases == []
    assert deltas.users["jane"].claim is alias


def test_first_visitor_claim_and_last_contact_claim_stand() -> None:
    calls = [
        call("identify", 1, user_id="jane", anonymous_id="phone", claims=(EMAIL,)),
        call("identify", 2, user_id="joe", anonymous_id="phone", claims=(EMAIL,)),
    ]

    deltas = fold(calls)

    assert deltas.visitors["phone"].claim is calls[0]
    assert deltas.emails["jane@example.com"].claim is calls[1]


def test_group_takes_the_newest_and_its_traits_key_by_key() -> None:
    calls = [
        call("group", 2, user_id="jane", group_id="b", trait_values={"plan": b'"pro"'}),
        call("group", 1, user_id="jane", group_id="a"),
        call("group", 3, user_id="joe", group_id="b", trait_values={"plan": b"null"}),
    ]

    deltas = fold(calls)

    assert deltas.users["jane"].group == (clock(2, "group-2"), "b")
    assert deltas.groups == {
        "a": traits_of(), "b": traits_of(plan=(clock(3, "group-3"), b"null"))
    }  # fmt: skip


def test_audience_keeps_its_newest_sync() -> None:
    new, old = AudienceSync("vip", "audience"), AudienceSync("vip", "trait")
    calls = [
        call("identify", 2, user_id="jane", audience=new),
        call("identify", 1, user_id="joe", audience=old),
    ]

    assert fold(calls).audiences == {"vip": (clock(2, "identify-2"), new)}


def test_join_keeps_the_greater_clock_and_tells_of_change() -> None:
    traits = traits_of(plan=(clock(2, "b"), b"1"), was=(clock(1, "a"), b"1"))

    assert traits.join(traits_of(plan=(clock(2, "a"), b"2"))) is False
    assert traits.join(traits_of(plan=(clock(2, "b"), b"1"))) is False
    assert traits.join(
        traits_of(plan=(clock(2, "c"), b"3"), x=(clock(0, "a"), b"4"), was=(clock(2, "a"), b"null"))
    )
    assert traits == traits_of(
        plan=(clock(2, "c"), b"3"), x=(clock(0, "a"), b"4"), was=(clock(2, "a"), b"null")
    )
    assert "was" not in traits.values


def test_first_delivery_of_each_call_counts_a_week_apart() -> None:
    week = 7 * 86_400
    # The last moment of a week, and the first one of the next.
    calls = [call("track", at, "m", user_id="jane") for at in (0, week, 2, week - 1)]

    weeks = distinct([*calls, call("track", 3, "n", user_id="jane")])

    assert [list(of_week.values()) for of_week in weeks.values()] == [
        [calls[0], call("track", 3, "n", user_id="jane")],
        [calls[1]],
    ]


@pytest.mark.parametrize("type_", ["group", "alias"])
def test_call_made_without_what_it_is_about_says_only_that_it_was(type_: CallType) -> None:
    made = call(type_, 1, user_id="jane")

    assert fold([made]) == Deltas(
        users={"jane": Delta(listed=True, first_at=made.at, last_at=made.at, claim=made)}
    )


CALLS = [
    call(type_, at, f"{type_}{at}{user}", user_id=user, anonymous_id=visitor,
         previous_id="joe" if type_ == "alias" else None,
         group_id=f"g{at}" if type_ == "group" else None,
         trait_values={"k": str(at).encode()} if type_ in ("identify", "group") else None,
         claims=(EMAIL,) if type_ == "identify" and user else (),
         audience=AudienceSync("k", str(at)) if type_ == "identify" else None)
    for type_ in ("identify", "track", "group", "alias")
    for at in (1, 1, 2)
    for user, visitor in (("jane", "phone"), ("joe", None), (None, "phone"))
    if user or type_ != "alias"
]  # fmt: skip


@given(st.permutations(CALLS))
def test_order_of_calls_does_not_matter(calls: list) -> None:  # type: ignore[type-arg]
    expected, folded = fold(CALLS), fold(calls)

    assert by_identity(folded) == by_identity(expected)
    assert folded.groups == expected.groups
    assert folded.audiences == expected.audiences
    assert sorted(folded.aliases, key=lambda a: a.clock) == sorted(
        expected.aliases, key=lambda a: a.clock
    )
