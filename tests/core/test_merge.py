"""Claims and aliases move identities between users; names follow the clock."""

from copy import deepcopy
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.call import Clock
from consumer.core.fold import Delta, Group, Traits
from consumer.core.merge import (
    AliasRow,
    Change,
    IdentityState,
    UserState,
    apply_delta,
    claim_wins,
    regroup,
    replay_names,
)
from tests.core.calls import call, traits_of

NAMED = call("identify", 2, user_id="id-7")


def at(second: int, message_id: str = "m") -> Clock:
    return Clock(second, message_id)


def identity(
    id_: int, kind: str = "user", claimed_by: int | None = None, **more: object
) -> IdentityState:
    fields: dict[str, object] = {
        "listed": True, "identified": False, "group": None, "traits": traits_of(),
        "claim": (at(1), id_ if claimed_by is None else claimed_by),
    }  # fmt: skip
    return IdentityState(id=id_, kind=kind, value=f"id-{id_}", **{**fields, **more})  # type: ignore[arg-type]


def user(id_: int, count: int = 1, merged: Clock | None = None, **more: object) -> UserState:
    return UserState(id_, f"id-{id_}", count, merged=merged, **more)  # type: ignore[arg-type]


def test_first_user_and_its_visitor_make_one_user() -> None:
    traits = traits_of(plan=(at(1), b"1"))
    visitor = identity(2, "anonymous", claimed_by=1, traits=traits, identified=True)

    after = regroup([], {}, [visitor, identity(1, identified=True)], [])

    assert after.changed == [user(1, 2, identified=True, traits=traits)]
    assert (after.moved, after.merged, after.merges) == ({1: 1, 2: 1}, {}, 0)


def test_identify_of_a_claimed_visitor_does_not_identify_its_user() -> None:
    visitor = identity(2, "anonymous", claimed_by=1, identified=True)

    after = regroup([user(1)], {1: 1}, [visitor], [])

    assert after.changed == [user(1, 2)]


def test_alias_keeps_the_larger_row_and_the_name_of_its_user() -> None:
    after = regroup([user(1, 5), user(2)], {1: 1, 2: 2}, [], [AliasRow(at(9), 1, 2)])

    assert after.changed == [UserState(1, "id-2", 6, merged=at(9))]
    assert (after.merged, after.rename, after.merges) == ({2: 1}, frozenset(), 1)


def test_chain_in_one_batch_is_applied_in_clock_order() -> None:
    members = {n: n for n in range(1, 5)}
    aliases = [AliasRow(at(3), 3, 4), AliasRow(at(1), 1, 2), AliasRow(at(2), 2, 3)]

    after = regroup([user(n) for n in members], members, [], aliases)

    (merged,) = after.changed
    assert (merged.name, merged.identities_count) == ("id-4", 4)
    assert set(after.merged) == set(members) - {merged.id}
    assert after.merges == 3


def test_alias_of_one_user_changes_nothing() -> None:
    after = regroup([user(1, 2, at(5))], {1: 1, 2: 1}, [], [AliasRow(at(9), 1, 2)])

    assert (after.changed, after.rename, after.merges) == ([], frozenset(), 0)


@pytest.mark.parametrize("members", [{1: 1, 2: 2}, {1: 1, 2: 1}])
def test_late_alias_asks_for_a_replay_of_names(members: dict[int, int]) -> None:
    users = [user(n, 2, at(50)) for n in set(members.values())]

    after = regroup(users, members, [], [AliasRow(at(9), 1, 2)])

    assert len(after.rename) == 1


@pytest.mark.parametrize(("name", "replays"), [("id-1", 0), ("id-8", 1), (None, 1)])
def test_late_alias_of_the_id_that_names_its_user_asks_for_no_replay(
    name: str | None, replays: int
) -> None:
    users = [UserState(1, name or "id-1", 2, merged=at(50)), user(2, 3, at(60))]
    alias = AliasRow(at(9), 1, 2, None if name is None else "id-1")

    after = regroup(users, {1: 1, 2: 2}, [], [alias])

    assert [found.name for found in after.changed] == ["id-2"]
    assert len(after.rename) == replays


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12).flatmap(
        lambda pairs: st.permutations(list(enumerate(pairs)))
    ),
    st.integers(1, 4),
)
def test_names_do_not_depend_on_the_order_of_aliases(
    said: list[tuple[int, tuple[int, int]]], batch_size: int
) -> None:
    aliases = [AliasRow(at(n), a, b, f"id-{a}") for n, (a, b) in said if a != b]
    users = {n: user(n) for n in range(1, 7)}
    members = {n: n for n in users}
    for first in range(0, len(aliases), batch_size):
        after = regroup(users.values(), members, [], aliases[first : first + batch_size])
        for gone, root in after.merged.items():
            del users[gone]
            members = {id_: root if of == gone else of for id_, of in members.items()}
        for id_ in after.rename:
            mine = [a for a in aliases[: first + batch_size] if members[a.user] == id_]
            named_by, clock = replay_names(mine)
            users[id_].name, users[id_].merged = f"id-{named_by}", clock

    for id_, found in users.items():
        mine = [alias for alias in aliases if members[alias.user] == id_]
        assert found.name == (f"id-{replay_names(mine)[0]}" if mine else f"id-{id_}")


def test_earlier_claim_moves_a_visitor_and_rejoins_the_user_it_left() -> None:
    traits = traits_of(plan=(at(4), b"1"))
    visitor = identity(3, "anonymous", claimed_by=2, traits=traits)

    after = regroup(
        [user(1, 2, traits=deepcopy(traits)), user(2)], {1: 1, 2: 2, 3: 1}, [visitor], []
    )

    assert after.changed == [user(1, 1, traits=traits), user(2, 2, traits=traits)]
    assert (after.moved, after.rejoin) == ({3: 2}, frozenset({1}))


def test_visitor_moved_within_a_merged_user_stays() -> None:
    visitor = identity(3, "anonymous", claimed_by=2)

    after = regroup([user(1, 3)], {1: 1, 2: 1, 3: 1}, [visitor], [])

    assert (after.changed, after.moved, after.rejoin) == ([], {}, frozenset())


@pytest.mark.parametrize(
    ("kind", "clock", "standing", "wins"),
    [
        ("anonymous", at(5), None, True),
        ("anonymous", at(5), at(6), True),
        ("anonymous", at(5), at(5), False),
        ("user", at(5, "a"), at(5, "b"), True),
        ("email", at(5), at(6), False),
        ("phone", at(7), at(6), True),
        ("email", at(6), at(6), False),
    ],
)
def test_claims_of_visitors_are_the_first_of_contacts_the_last(
    kind: str, clock: Clock, standing: Clock | None, *, wins: bool
) -> None:
    assert claim_wins(kind, clock, standing) is wins  # type: ignore[arg-type]


def test_delta_that_changes_nothing_is_not_written() -> None:
    traits = traits_of(k=(at(3), b"1"))
    state = identity(1, "anonymous", group=(at(3), "g"), traits=traits, identified=True)
    older = Delta(
        listed=True, identified=True, group=(at(2), "h"), traits=traits_of(k=(at(2), b"2")),
        claim=call("identify", 2, user_id="id-1"),
    )  # fmt: skip

    assert apply_delta(state, older, 1) is Change.NOTHING


def test_delta_joins_every_register() -> None:
    state = identity(1, "anonymous", claim=None, listed=False)
    newer = Delta(
        listed=True, identified=True, group=(at(2), "h"), traits=traits_of(k=(at(2), b"2")),
        claim=NAMED,
    )  # fmt: skip

    assert apply_delta(state, newer, 7) is Change.MORE
    assert state == identity(
        1,
        "anonymous",
        claim=(NAMED.clock, 7),
        group=(at(2), "h"),
        traits=traits_of(k=(at(2), b"2")),
        identified=True,
    )


def test_delta_without_a_claim_leaves_the_standing_one() -> None:
    state = identity(1, "anonymous", claimed_by=7)

    assert apply_delta(state, Delta(listed=True, group=(at(2), "h")), None) is Change.MORE
    assert state == identity(1, "anonymous", claimed_by=7, group=(at(2), "h"))


def test_group_alone_is_reason_enough_to_write() -> None:
    state = identity(1)

    assert apply_delta(state, Delta(group=(at(2), "h")), None) is Change.MORE
    assert state.group == (at(2), "h")
    assert apply_delta(state, Delta(group=(at(2), "h")), None) is Change.NOTHING


@pytest.mark.parametrize(
    ("delta", "claimed_by", "change"),
    [
        (Delta(claim=NAMED), 7, Change.CLAIM_CLOCK),
        (Delta(claim=NAMED), 8, Change.MORE),
        (Delta(traits=traits_of(k=(at(2), b"2"))), None, Change.MORE),
        (Delta(traits=traits_of(k=(at(2), b"2")), claim=NAMED), 7, Change.MORE),
        (Delta(listed=True), None, Change.MORE),
        (Delta(identified=True), None, Change.MORE),
        (Delta(listed=True, claim=NAMED), 7, Change.MORE),
    ],
)
def test_only_what_changes_is_written(delta: Delta, claimed_by: int | None, change: Change) -> None:
    state = identity(1, "email", claimed_by=7, listed=False)

    assert apply_delta(state, delta, claimed_by) is change


def test_traits_of_a_user_identity_are_none_of_its_row() -> None:
    state = identity(1)

    assert apply_delta(state, Delta(traits=plan(2)), None) is Change.NOTHING
    assert state == identity(1)


def test_user_whose_traits_alone_change_is_told_from_others() -> None:
    changed = [
        identity(2, group=(at(2), "h")),
        # More with one identity, traits alone with another, in either order.
        identity(3, identified=True),
        identity(4, "anonymous", claimed_by=3, traits=plan(5)),
        identity(6, "anonymous", claimed_by=5, traits=plan(4)),
        identity(5, identified=True),
        identity(7),
    ]
    members = {1: 1, 2: 2, 3: 3, 4: 3, 5: 5, 6: 5, 7: 7, 8: 8}
    traits = {1: plan(4), 2: plan(4), 3: plan(4), 5: plan(5), 8: plan(1)}
    users = [user(n, traits=plan(2)) for n in (1, 2, 3, 5, 7, 8)]

    after = regroup(users, members, changed, [], traits=traits)

    assert [state.id for state in after.changed] == [1, 2, 3, 5]
    assert after.traits_alone == {1}


# What a member has set itself --------------------------------------------------------------------


def plan(second: int) -> Traits:
    return traits_of(plan=(at(second), b"%d" % second))


def test_what_a_user_identity_says_is_left_to_its_user_as_long_as_it_is_alone() -> None:
    contact = identity(2, "email", claimed_by=1)

    after = regroup([user(1)], {1: 1}, [contact], [], traits={1: plan(4)})

    assert (after.changed, after.own_traits) == ([user(1, 2, traits=plan(4))], {})


@pytest.mark.parametrize("found", [True, False])
def test_own_traits_are_kept_before_a_visitor_brings_others(*, found: bool) -> None:
    visitor = identity(2, "anonymous", claimed_by=1, traits=plan(5))
    users, members, changed = ([], {}, [identity(1), visitor]) if found else (
        [user(1, 2)], {1: 1, 2: 1}, [visitor]
    )  # fmt: skip

    after = regroup(users, members, changed, [], traits={1: plan(4)})

    assert after.changed == [user(1, 2, traits=plan(5))]
    assert after.own_traits == {1: plan(4)}


def test_own_traits_are_kept_before_a_merge() -> None:
    users = [user(1, 2, traits=plan(2)), user(2, traits=plan(3)), user(3)]
    aliases = [AliasRow(at(8), 2, 1), AliasRow(at(9), 3, 1)]

    after = regroup(users, {1: 1, 2: 2, 3: 3}, [], aliases, traits={1: plan(4), 2: plan(1)})

    assert after.changed == [user(1, 4, at(9), traits=plan(4))]
    # Of one that has none too: its user has some from now on.
    assert after.own_traits == {1: plan(4), 2: plan(3), 3: Traits()}


def test_own_traits_that_are_kept_take_what_their_identity_says_alone() -> None:
    users = [user(1, 3, at(5), traits=plan(6))]
    own = {1: plan(2), 2: plan(6), 4: plan(1)}
    visitor = identity(3, "anonymous", claimed_by=1, traits=plan(9))
    members = {1: 1, 2: 1, 3: 1, 4: 1}

    after = regroup(users, members, [visitor], [], traits={1: plan(4), 2: plan(5)}, own_traits=own)

    # An older one changes nothing; what a visitor brings is none of theirs.
    assert after.changed == [user(1, 3, at(5), traits=plan(9))]
    assert after.own_traits == {1: plan(4)}


def test_own_traits_are_kept_once() -> None:
    users = [user(1, 2, traits=plan(6))]
    visitor = identity(2, "anonymous", claimed_by=1, traits=plan(7))

    after = regroup(users, {1: 1, 2: 1}, [visitor], [], own_traits={1: plan(2)})

    assert (after.changed, after.own_traits) == ([user(1, 2, traits=plan(7))], {})


def test_user_that_gains_an_identity_changes_by_more_than_its_traits() -> None:
    visitor = identity(2, "anonymous", claimed_by=1, traits=traits_of(plan=(at(4), b"1")))

    after = regroup([user(1)], {1: 1}, [visitor], [])

    assert ([state.id for state in after.changed], after.traits_alone) == ([1], frozenset())


def test_member_that_brings_its_user_a_group_changes_it() -> None:
    visitor = identity(2, "anonymous", claimed_by=1, group=(at(2), "h"))

    after = regroup([user(1, 2)], {1: 1, 2: 1}, [visitor], [])

    assert after.changed == [user(1, 2, group=(at(2), "h"))]
    again = regroup([user(1, 2, group=(at(2), "h"))], {1: 1, 2: 1}, [visitor], [])
    assert again.changed == []


def test_standing_claim_that_nobody_brings_stays() -> None:
    # An id of the claiming identity without a claim says nothing.
    state = identity(1, "email", claimed_by=7)

    assert apply_delta(state, Delta(listed=True), 8) is Change.NOTHING
    assert state.claim == (at(1), 7)


@pytest.mark.parametrize("kind", ["email", "anonymous"])
def test_claims_are_judged_by_the_kind_of_identity(kind: str) -> None:
    state = identity(1, kind, claimed_by=7, listed=True)
    wins = kind == "email"

    change = apply_delta(state, Delta(listed=True, claim=NAMED), 8)

    assert change is (Change.MORE if wins else Change.NOTHING)
    assert state.claim == ((NAMED.clock, 8) if wins else (at(1), 7))


def test_users_that_are_not_stored_yet_are_founded() -> None:
    after = regroup([user(1)], {1: 1}, [identity(2), identity(3)], [AliasRow(at(9), 3, 1)])

    assert after.founded == {2, 3}


def test_user_that_an_identity_leaves_keeps_its_others() -> None:
    visitor = identity(4, "anonymous", claimed_by=2)

    after = regroup([user(1, 3), user(2)], {1: 1, 2: 2, 3: 1, 4: 1}, [visitor], [])

    assert after.changed == [user(1, 2), user(2, 2)]


def test_alias_that_is_late_for_its_previous_user_renames_the_one_that_took_it() -> None:
    users = [user(1, 2, at(50)), user(2, 3), user(3)]

    after = regroup(users, {1: 1, 2: 2, 3: 3}, [], [AliasRow(at(9), 1, 2)])

    assert after.rename == {2}


def test_alias_that_is_late_for_the_other_user_alone_asks_for_no_replay() -> None:
    users = [user(1), user(2, 3, at(50))]

    after = regroup(users, {1: 1, 2: 2}, [], [AliasRow(at(9), 1, 2)])

    assert [(found.name, found.merged) for found in after.changed] == [("id-2", at(50))]
    assert after.rename == frozenset()


def test_nobodys_visitor_changes_no_user() -> None:
    visitor = identity(3, "anonymous", claim=None, traits=traits_of(plan=(at(4), b"1")))

    after = regroup([user(1)], {1: 1}, [visitor], [])

    assert (after.changed, after.moved, after.rejoin) == ([], {}, frozenset())


@pytest.mark.parametrize(
    ("standing", "brought", "group"),
    [
        (None, (at(2), "a"), (at(2), "a")),
        ((at(1), "a"), (at(2), "b"), (at(2), "b")),
        ((at(2), "a"), (at(1), "b"), (at(2), "a")),
        ((at(2), "a"), None, (at(2), "a")),
    ],
)
def test_user_takes_the_newer_group_with_a_visitor_and_with_a_merge(
    standing: Group | None, brought: Group | None, group: Group | None
) -> None:
    visitor = identity(2, "anonymous", claimed_by=1, group=brought)

    claimed = regroup([user(1, group=standing)], {1: 1}, [visitor], [])
    merged = regroup(
        [user(1, group=standing), user(2, group=brought)], {1: 1, 2: 2}, [], [AliasRow(at(9), 2, 1)]
    )

    assert claimed.changed == [user(1, 2, group=group)]
    assert merged.changed == [user(1, 2, at(9), group=group)]


def test_alias_within_a_merged_user_renames_nothing_in_a_replay() -> None:
    aliases = [AliasRow(at(1), 1, 2), AliasRow(at(2), 2, 1)]

    assert replay_names(aliases) == (2, at(1))


def test_alias_within_a_user_ends_no_replay() -> None:
    aliases = [
        AliasRow(at(1), 1, 2),
        AliasRow(at(2), 2, 1),
        AliasRow(at(3), 2, 3),
    ]

    assert replay_names(aliases) == (3, at(3))


def test_alias_to_a_user_merged_twice_over_takes_the_last_name_in_a_replay() -> None:
    aliases = [
        AliasRow(at(1), 1, 2),
        AliasRow(at(2), 3, 4),
        AliasRow(at(3), 2, 4),
        AliasRow(at(4), 9, 1),
    ]

    assert replay_names(aliases) == (4, at(4))


def test_names_replay_as_the_log_says() -> None:
    # a -> b names b; c -> a joins them and takes the name of a's user, which is b.
    aliases = [
        AliasRow(at(1), 1, 2),
        AliasRow(at(2), 3, 1),
        AliasRow(at(3), 2, 3),
    ]

    for order in permutations(aliases):
        assert replay_names(order) == (2, at(2))


def test_names_of_a_long_chain_replay() -> None:
    aliases = [AliasRow(at(n), n, n + 1) for n in range(2_000)]

    assert replay_names(reversed(aliases)) == (2_000, at(1_999))


def test_names_need_an_alias() -> None:
    with pytest.raises(ValueError, match="no alias"):
        replay_names([])
