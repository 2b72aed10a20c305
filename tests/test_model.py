"""The reference model, sentence by sentence: what it says is what the documents say.

Every other proof holds the worker against the model, so the model is held against the
documents here: one example a sentence, in the words of the senders.

Source: README.md, "The one rule"; docs/identity.md; docs/data-model.md.
"""

import itertools
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.call import Call
from consumer.core.decode import Decoder
from tests.model import MONDAY_US, WEEK_US, Views, model_of
from tests.worlds import BROKEN, WORLDS, WorldRecord, deliver, records_of

MONDAY = datetime(2026, 10, 5, tzinfo=UTC)
START_US = 1_791_158_400_000_000
WEEK_SECONDS = 7 * 86_400
NOBODY = {"user_id": None, "message_id": None, "since": None}

Row = dict[str, Any]


def us(seconds: float) -> int:
    """The clock's microseconds of a moment in seconds since the first Monday."""
    return START_US + round(seconds * 1_000_000)


def call(type_: str, at: float, user: object = None, visitor: object = None, **fields: Any) -> Row:  # noqa: ANN401 - a call's own fields
    """A call as senders write it, `at` seconds after the first Monday; its id is `m<at>`."""
    return {
        "type": type_, "timestamp": (MONDAY + timedelta(seconds=at)).isoformat(),
        "messageId": f"m{at}", "userId": user, "anonymousId": visitor, **fields,
    }  # fmt: skip


def identify(at: float, user: object = None, visitor: object = None, **traits: Any) -> Row:  # noqa: ANN401 - traits are any JSON
    return call("identify", at, user, visitor, traits=traits)


def track(at: float, user: object = None, visitor: object = None, **properties: Any) -> Row:  # noqa: ANN401 - properties are any JSON
    return call("track", at, user, visitor, event="Order Completed", properties=properties)


def email_opened(at: float, email: str) -> Row:
    return call("track", at, event="Email Opened", properties={"email": email})


def alias(at: float, user: object, previous: object = None, visitor: object = None) -> Row:
    return call("alias", at, user, visitor, previousId=previous)


def group(at: float, user: object, group_id: object, visitor: object = None, **traits: Any) -> Row:  # noqa: ANN401 - traits are any JSON
    return call("group", at, user, visitor, groupId=group_id, traits=traits)


def sync(at: float, user: str, name: str, value: object, computation_class: object) -> Row:
    """What Engage sends of one user and one audience."""
    personas = {"computation_key": name, "computation_class": computation_class}
    return {**identify(at, user, **{name: value}), "context": {"personas": personas}}


def decoded(records: list[WorldRecord]) -> list[Call]:
    decoder = Decoder()
    outcomes = itertools.chain.from_iterable(map(decoder.decode, records))
    return [outcome for outcome in outcomes if isinstance(outcome, Call)]


def views(*sent: Row) -> Views:
    """The views once these arrived; the order written here is the order of arrival."""
    calls = decoded(records_of(sent))
    assert len(calls) == len(sent), "an example of a call is none"
    return model_of(calls)


def users(*sent: Row) -> dict[str, Row]:
    return {row["user_id"]: row for row in views(*sent)["users"]}


def ids(*sent: Row) -> dict[tuple[str, str], Row]:
    return {(row.pop("kind"), row.pop("value")): row for row in views(*sent)["user_ids"]}


def owners(*sent: Row) -> dict[tuple[str, str], str | None]:
    return {key: row["user_id"] for key, row in ids(*sent).items()}


def feed_owners(*sent: Row) -> dict[str, str | None]:
    return {row["message_id"]: row["user_id"] for row in views(*sent)["feed"]}


def traits(user: str, *sent: Row) -> Row:
    found: Row = users(*sent)[user]["traits"]
    return found


# The log: distinct calls, in clock order ----------------------------------------------------------


def test_nothing_stored_is_nothing_shown() -> None:
    assert views() == {
        "users": [], "user_ids": [], "groups": [], "feed": [], "audiences": [], "merges": [],
    }  # fmt: skip


def test_calls_apply_in_the_order_of_their_timestamps_not_of_arrival() -> None:
    assert traits("u1", identify(2, "u1", plan="new"), identify(1, "u1", plan="old")) == {
        "plan": "new"
    }


def test_message_ids_order_calls_of_one_timestamp_as_utf8_bytes() -> None:
    # U+FF5E sorts before U+1F600 in UTF-8, after it in UTF-16; "Z" before "a" in C.
    sent = {"Z": "first", "a": "second", "\uff5e": "third", "\U0001f600": "last"}
    calls = [{**identify(1, "u1", plan=plan), "messageId": key} for key, plan in sent.items()]

    assert all(traits("u1", *order) == {"plan": "last"} for order in itertools.permutations(calls))


def test_timestamps_order_calls_by_the_microsecond() -> None:
    late, early = identify(0.000_002, "u1", plan="late"), identify(0.000_001, "u1", plan="early")

    assert traits("u1", late, early) == {"plan": "late"}


def test_call_delivered_again_changes_nothing() -> None:
    sent = [identify(1, "u1", "v1", plan="pro"), track(2, "u1"), alias(3, "u2", "u1")]

    assert views(*sent, *sent, *reversed(sent)) == views(*sent)


def test_of_deliveries_that_differ_the_first_stays() -> None:
    first, second = identify(1, "u1", plan="pro"), {**track(2, "u2"), "messageId": "m1"}

    assert views(first, second) == views(first)
    assert views(second, first) == views(second)


def test_message_id_names_one_call_a_week_and_weeks_begin_on_monday_utc() -> None:
    last, first = track(WEEK_SECONDS - 0.000_001, "u1"), track(WEEK_SECONDS, "u1")
    same = {"messageId": "m"}

    assert len(views({**last, **same}, {**first, **same})["feed"]) == 2
    assert len(views({**track(0, "u1"), **same}, {**last, **same})["feed"]) == 1
    assert len(views({**track(-0.000_001, "u1"), **same}, {**last, **same})["feed"]) == 2


# Identities and users -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        identify(1, "u1"), track(1, "u1"), group(1, "u1", "g1"),
        call("page", 1, "u1"), call("screen", 1, "u1"), alias(1, "u1", "u1"),
    ],
    ids=lambda sent: sent["type"],
)  # fmt: skip
def test_user_exists_by_any_call_with_user_id(sent: Row) -> None:
    assert list(users(sent)) == ["u1"]


def test_user_that_nothing_is_known_of_is_a_whole_row() -> None:
    assert views(track(1, "u1"))["users"] == [{
        "user_id": "u1", "email": None, "name": None, "phone": None, "avatar": None,
        "group_id": None, "traits": {}, "identified": False,
        "first_seen_at": us(1), "last_seen_at": us(1),
    }]  # fmt: skip


def test_visitor_with_no_user_is_in_the_feed_not_among_users() -> None:
    found = views(track(1, visitor="v1"))

    assert found["users"] == []
    assert [(row["user_id"], row["anonymous_id"]) for row in found["feed"]] == [(None, "v1")]


def test_call_with_both_ids_gives_the_visitor_with_earlier_and_later_calls() -> None:
    sent = [track(1, visitor="v1"), track(2, "u1", "v1"), track(3, visitor="v1")]

    assert feed_owners(*sent) == {"m1": "u1", "m2": "u1", "m3": "u1"}


def test_claimed_visitor_brings_traits_and_group() -> None:
    sent = [identify(1, None, "v1", plan="pro"), group(2, None, "g1", "v1"), track(3, "u1", "v1")]
    user = users(*sent)["u1"]

    assert (user["traits"], user["group_id"]) == ({"plan": "pro"}, "g1")


def test_claim_of_the_least_clock_stands_whichever_arrives_first() -> None:
    first, second = track(1, "u1", "v1"), track(2, "u2", "v1")

    for sent in ([first, second], [second, first]):
        assert ids(*sent)["anonymous", "v1"] == {
            "user_id": "u1", "message_id": "m1", "since": us(1),
        }  # fmt: skip


def test_visitor_never_moves_but_the_calls_of_the_second_user_stay_its_own() -> None:
    sent = [track(1, "u1", "v1"), track(2, "u2", "v1"), track(3, visitor="v1")]

    assert feed_owners(*sent) == {"m1": "u1", "m2": "u2", "m3": "u1"}


def test_user_id_equal_to_an_anonymous_id_is_another_identity() -> None:
    assert owners(track(1, "x"), track(2, visitor="x")) == {
        ("user", "x"): "x", ("anonymous", "x"): None,
    }  # fmt: skip


def test_identify_with_user_id_makes_its_user_identified() -> None:
    assert users(identify(1, "u1"))["u1"]["identified"] is True


def test_identify_of_a_claimed_visitor_does_not() -> None:
    assert users(identify(1, None, "v1"), track(2, "u1", "v1"))["u1"]["identified"] is False


def test_merged_user_is_identified_by_either() -> None:
    assert users(identify(1, "u1"), alias(2, "u2", "u1"))["u2"]["identified"] is True


# Traits: key by key, by clock, over all identities ------------------------------------------------


def test_traits_are_set_key_by_key() -> None:
    sent = [identify(1, "u1", plan="pro", age=7), identify(2, "u1", plan="free")]

    assert traits("u1", *sent) == {"plan": "free", "age": 7}


def test_traits_keep_any_json() -> None:
    value = {"list": [1, 2.5, None, True], "text": "é"}

    assert traits("u1", identify(1, "u1", plan=value)) == {"plan": value}


def test_null_removes_a_trait() -> None:
    assert traits("u1", identify(1, "u1", plan="pro"), identify(2, "u1", plan=None)) == {}


def test_older_value_does_not_come_back_after_a_null() -> None:
    assert traits("u1", identify(2, "u1", plan=None), identify(1, "u1", plan="pro")) == {}


def test_newer_value_stands_over_a_null() -> None:
    sent = [identify(1, "u1", plan=None), identify(2, "u1", plan="pro")]

    assert traits("u1", *sent) == {"plan": "pro"}


def test_trait_is_the_one_of_the_greatest_clock_over_all_identities() -> None:
    sent = [identify(2, None, "v1", plan="visitor"), identify(1, "u1", "v1", plan="user")]

    assert traits("u1", *sent) == {"plan": "visitor"}


def test_null_stays_a_tombstone_through_a_claim() -> None:
    sent = [identify(1, "u1", plan="pro"), identify(2, None, "v1", plan=None), track(3, "u1", "v1")]

    assert traits("u1", *sent) == {}


def test_null_stays_a_tombstone_through_a_merge() -> None:
    sent = [identify(1, "u1", plan="pro"), identify(2, "u2", plan=None), alias(3, "u1", "u2")]

    assert traits("u1", *sent) == {}


def test_traits_come_from_the_context_where_traits_are_absent_or_empty() -> None:
    context = {"traits": {"plan": "context"}}
    absent = call("identify", 1, "u1", context=context)
    empty = {**identify(1, "u1"), "context": context}
    there = {**identify(1, "u1", age=7), "context": context}

    assert traits("u1", absent) == traits("u1", empty) == {"plan": "context"}
    assert traits("u1", there) == {"age": 7}


@pytest.mark.parametrize("type_", ["track", "page", "screen"])
def test_traits_come_from_identify_calls_only(type_: str) -> None:
    sent = call(type_, 1, "u1", event="E", context={"traits": {"plan": "pro"}, "groupId": "g1"})

    assert traits("u1", sent) == {}


# Columns of users ---------------------------------------------------------------------------------


def test_columns_show_the_text_as_sent() -> None:
    user = users(identify(1, "u1", email=" Ann@X.org ", phone="(1) 2", name="", avatar="a.png"))

    assert {key: user["u1"][key] for key in ("email", "phone", "name", "avatar")} == {
        "email": " Ann@X.org ", "phone": "(1) 2", "name": "", "avatar": "a.png",
    }  # fmt: skip


@pytest.mark.parametrize("value", [7, True, None, {"a": 1}, ["text"]])
def test_columns_are_absent_where_the_trait_is_no_text(value: object) -> None:
    user = users(identify(1, "u1", email=value, phone=value, name=value, avatar=value))["u1"]

    assert {user[key] for key in ("email", "phone", "name", "avatar")} == {None}


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ({"firstName": "Ann", "lastName": "Lee"}, "Ann Lee"),
        ({"first_name": "Ann", "last_name": "Lee"}, "Ann Lee"),
        ({"firstName": "Ann"}, "Ann"),
        ({"lastName": "Lee"}, "Lee"),
        ({"firstName": 7, "lastName": "Lee"}, "Lee"),
        ({"name": 7, "firstName": "Ann"}, "Ann"),
        ({"name": None, "firstName": "Ann"}, "Ann"),
        ({"name": "Dr. Lee", "firstName": "Ann"}, "Dr. Lee"),
        ({"name": "", "firstName": "Ann"}, ""),
    ],
)
def test_name_falls_back_to_first_and_last_name(sent: Row, name: str) -> None:
    assert users(identify(1, "u1", **sent))["u1"]["name"] == name


def test_spelling_of_the_greater_clock_wins() -> None:
    camel, snake = {"firstName": "Camel"}, {"first_name": "Snake"}

    assert users(identify(1, "u1", **camel), identify(2, "u1", **snake))["u1"]["name"] == "Snake"
    assert users(identify(2, "u1", **camel), identify(1, "u1", **snake))["u1"]["name"] == "Camel"


def test_removed_spelling_wins_by_clock_like_any_value() -> None:
    sent = [identify(1, "u1", first_name="Ann"), identify(2, "u1", firstName=None)]

    assert users(*sent)["u1"]["name"] is None


def test_camel_case_wins_within_one_call() -> None:
    sent = identify(1, "u1", first_name="Snake", firstName="Camel")

    assert users(sent)["u1"]["name"] == "Camel"


def test_email_falls_back_to_a_user_id_that_contains_an_at_sign() -> None:
    assert users(track(1, "a@x"))["a@x"]["email"] == "a@x"
    assert users(identify(1, "a@x", email="b@y"))["a@x"]["email"] == "b@y"


def test_email_falls_back_to_the_name_of_the_merged_user_only() -> None:
    found = users(track(1, "a@x"), alias(2, "u1", "a@x"))

    assert found["u1"]["email"] is None


# Groups -------------------------------------------------------------------------------------------


def test_newer_group_call_replaces_the_one_group() -> None:
    first, second = group(1, "u1", "g1"), group(2, "u1", "g2")

    assert users(second, first)["u1"]["group_id"] == "g2"


def test_group_is_the_one_of_the_greatest_clock_over_all_identities() -> None:
    sent = [group(2, None, "visitors", "v1"), group(1, "u1", "users", "v1")]

    assert users(*sent)["u1"]["group_id"] == "visitors"


def test_group_traits_are_set_key_by_key_by_clock_whoever_sends_them() -> None:
    sent = [
        group(2, "u2", "g1", plan="new", size=None), group(1, "u1", "g1", plan="old", size=5, age=1)
    ]  # fmt: skip

    assert views(*sent)["groups"] == [
        {"group_id": "g1", "traits": {"plan": "new", "age": 1}, "members_count": 2}
    ]


def test_group_once_named_stays_listed_without_members() -> None:
    found = views(group(1, "u1", "g1"), group(2, "u1", "g2"))["groups"]

    assert [(row["group_id"], row["members_count"]) for row in found] == [("g1", 0), ("g2", 1)]


def test_members_of_a_group_are_users_counted_once() -> None:
    visitor = group(1, None, "g1", "v1")
    claimed, merged = track(2, "u1", "v1"), [group(3, "u2", "g1"), alias(4, "u1", "u2")]

    def members_count(*sent: Row) -> int:
        return int(views(*sent)["groups"][0]["members_count"])

    assert members_count(visitor) == 0
    assert members_count(visitor, claimed) == 1
    assert members_count(visitor, claimed, *merged) == 1


def test_context_group_id_sets_nothing() -> None:
    found = views({**identify(1, "u1"), "context": {"groupId": "g1"}})

    assert (found["users"][0]["group_id"], found["groups"]) == (None, [])


# Alias --------------------------------------------------------------------------------------------


def test_alias_merges_the_user_of_previous_id_into_the_user_of_user_id() -> None:
    sent = [identify(1, "u1", plan="pro"), identify(2, "u2", age=7), alias(3, "u2", "u1")]

    assert list(users(*sent)) == ["u2"]
    assert traits("u2", *sent) == {"plan": "pro", "age": 7}
    assert feed_owners(*sent, track(4, "u1")) == {"m4": "u2"}


def test_both_ids_come_to_exist_and_lead_to_the_merged_user() -> None:
    assert ids(alias(1, "u2", "u1")) == {
        ("user", "u1"): {"user_id": "u2", "message_id": "m1", "since": us(1)},
        ("user", "u2"): {"user_id": "u2", "message_id": "m1", "since": us(1)},
    }


def test_merged_user_takes_the_name_that_the_user_has_at_that_clock() -> None:
    # At 2 the user of "b" is named "c": merging "a" into "b" gives "c".
    assert list(users(alias(1, "c", "b"), alias(2, "b", "a"))) == ["c"]
    # At 1 it is still named "b"; then its whole user goes into "c".
    assert list(users(alias(2, "c", "b"), alias(1, "b", "a"))) == ["c"]
    # The user of "b" is named "c", and goes into "a".
    assert list(users(alias(1, "c", "b"), alias(2, "a", "b"))) == ["a"]


def test_late_alias_renames_as_if_it_had_come_in_time() -> None:
    # Without the alias at 1 the one at 2 merges, into "b"; with it both are "a" already.
    late, in_time = alias(1, "a", "b"), alias(2, "b", "a")

    assert list(users(in_time)) == ["b"]
    assert list(users(in_time, late)) == ["a"]


def test_alias_of_what_is_one_user_already_changes_no_name() -> None:
    assert list(users(alias(1, "b", "a"), alias(2, "c", "b"), alias(3, "a", "c"))) == ["c"]


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_membership_does_not_depend_on_the_order_of_aliases(order: tuple[int, int, int]) -> None:
    chain = zip(order, [("b", "a"), ("c", "b"), ("d", "c")], strict=True)
    found = ids(*[alias(at, user, previous) for at, (user, previous) in chain])

    assert len({row["user_id"] for row in found.values()}) == 1
    assert list(found) == [("user", name) for name in "abcd"]


def test_alias_claims_the_visitor_named_previous_id_where_nobodys() -> None:
    sent = [track(1, visitor="v1"), alias(2, "u1", "v1")]

    assert ids(*sent) == {
        ("anonymous", "v1"): {"user_id": "u1", "message_id": "m2", "since": us(2)},
        ("user", "u1"): {"user_id": "u1", "message_id": "m2", "since": us(2)},
        ("user", "v1"): {"user_id": "u1", "message_id": "m2", "since": us(2)},
    }
    assert feed_owners(*sent) == {"m1": "u1"}


def test_alias_leaves_a_visitor_that_is_somebodys_but_merges_the_user_of_that_name() -> None:
    sent = [track(1, "u2", "v1"), alias(2, "u1", "v1")]

    assert owners(*sent) == {
        ("anonymous", "v1"): "u2", ("user", "u1"): "u1", ("user", "u2"): "u2", ("user", "v1"): "u1",
    }  # fmt: skip


def test_alias_claims_its_own_anonymous_id_too() -> None:
    assert owners(alias(1, "u1", "u0", "v1"))["anonymous", "v1"] == "u1"


def test_alias_of_one_user_still_claims_both_visitors() -> None:
    sent = [alias(1, "u1", "x"), track(2, visitor="u1"), alias(3, "u1", "u1", "v2")]

    assert ids(*sent)["anonymous", "u1"] == {"user_id": "u1", "message_id": "m3", "since": us(3)}
    assert ids(*sent)["anonymous", "v2"] == {"user_id": "u1", "message_id": "m3", "since": us(3)}


def test_anonymous_id_stands_in_for_an_absent_previous_id() -> None:
    assert views(alias(1, "u1", None, "v1")) == views(alias(1, "u1", "v1", "v1"))
    assert views(alias(1, "u1", None, "v1"))["merges"] == [{
        "message_id": "m1", "previous_id": "v1", "user_id": "u1",
        "occurred_at": us(1), "undone_at": None,
    }]  # fmt: skip


def test_aliasing_to_oneself_merges_nothing() -> None:
    found = views(identify(1, "u1"), alias(2, "u1", "u1"))

    assert [row["user_id"] for row in found["users"]] == ["u1"]
    assert found["merges"] == []


def test_merges_lists_every_alias_with_differing_ids_as_the_call_has_them() -> None:
    sent = [alias(1, " b ", "a"), alias(2, "c", "b"), alias(3, "a", 7), alias(4, "a", "b")]
    found = views(*sent)["merges"]

    assert [(row["message_id"], row["previous_id"], row["user_id"]) for row in found] == [
        ("m1", "a", "b"), ("m2", "b", "c"), ("m3", "7", "a"), ("m4", "b", "a"),
    ]  # fmt: skip


def test_chain_of_visitors_and_aliases_ends_at_one_user() -> None:
    sent = [
        track(1, visitor="v1"),
        track(2, "u1", "v1"),
        alias(3, "u2", "u1"),
        alias(4, "u3", "u2"),
    ]

    assert feed_owners(*sent) == {"m1": "u3", "m2": "u3"}


# Contacts -----------------------------------------------------------------------------------------


def test_contact_belongs_to_the_greatest_clock_identify_that_claimed_it() -> None:
    first, second = identify(1, "u1", email="a@x"), identify(2, "u2", email="a@x")

    for sent in ([first, second], [second, first]):
        assert ids(*sent)["email", "a@x"] == {"user_id": "u2", "message_id": "m2", "since": us(2)}


def test_claim_of_a_contact_is_never_released() -> None:
    sent = [identify(1, "u1", email="a@x"), identify(2, "u1", email="b@x"), email_opened(3, "a@x")]

    assert feed_owners(*sent) == {"m3": "u1"}
    assert owners(*sent, identify(4, "u1", email=None))["email", "a@x"] == "u1"


def test_claim_needs_a_user_id() -> None:
    sent = [identify(1, None, "v1", email="a@x"), track(2, "u1", "v1"), email_opened(3, "a@x")]

    assert ids(*sent)["email", "a@x"] == NOBODY
    assert feed_owners(*sent) == {"m2": "u1", "m3": None}


def test_user_id_that_is_an_email_claims_it_where_traits_have_no_email_key() -> None:
    assert owners(identify(1, "a@x"))["email", "a@x"] == "a@x"
    assert owners(identify(1, "A@x"))["email", "a@x"] == "A@x"
    assert ("email", "a@x") not in ids(identify(1, "a@x", email=None))
    assert ("email", "a@x") not in ids(identify(1, "a@x", email="b@x"))
    assert ("email", "a@x") not in ids(track(1, "a@x"))


def test_contacts_never_merge_users() -> None:
    assert list(users(identify(1, "u1", email="a@x"), identify(2, "u2", email="a@x"))) == [
        "u1", "u2",
    ]  # fmt: skip


def test_emails_are_one_trimmed_and_lower_cased_phones_as_e164() -> None:
    sent = identify(1, "u1", email=" Ann@X.org", phone="+1 415-555-2671")

    assert owners(sent, email_opened(2, "ANN@x.org ")) == {
        ("email", "ann@x.org"): "u1", ("phone", "+14155552671"): "u1", ("user", "u1"): "u1",
    }  # fmt: skip


def test_calls_that_came_by_a_contact_follow_its_owner_through_a_merge() -> None:
    sent = [email_opened(1, "a@x"), identify(2, "u1", email="a@x"), alias(3, "u2", "u1")]

    assert feed_owners(*sent) == {"m1": "u2"}


def test_traits_and_group_of_a_contact_follow_its_owner() -> None:
    by_contact = [
        identify(1, email="a@x", plan="pro"),
        {**group(2, None, "g1", email="a@x"), "context": {"traits": {"email": "a@x"}}},
    ]
    first, second = identify(3, "u1", email="a@x"), identify(4, "u2", email="a@x")

    found = users(*by_contact, first)["u1"]
    assert (found["traits"], found["group_id"]) == ({"email": "a@x", "plan": "pro"}, "g1")
    found = users(*by_contact, first, second)["u1"]
    assert (found["traits"], found["group_id"]) == ({"email": "a@x"}, None)
    assert views(*by_contact)["groups"][0]["members_count"] == 0


def test_contact_that_a_call_came_by_is_listed_as_nobodys() -> None:
    assert ids(email_opened(1, "a@x")) == {("email", "a@x"): NOBODY}


def test_delivered_email_belongs_to_the_contact_not_to_the_visitor_it_names() -> None:
    sent = {**email_opened(1, "a@x"), "anonymousId": "v1"}

    assert owners(sent) == {("anonymous", "v1"): None, ("email", "a@x"): None}
    assert feed_owners(sent, track(2, "u1", "v1")) == {"m1": None, "m2": "u1"}
    assert views(sent)["feed"][0]["anonymous_id"] == "v1"


# Seen ---------------------------------------------------------------------------------------------


def test_seen_times_are_of_calls_of_any_type_over_all_identities() -> None:
    sent = [
        group(5, "u1", "g1"),
        track(3, "u1", "v1"),
        call("page", 1, None, "v1"),
        identify(2, "u1"),
    ]
    found = users(*sent)["u1"]

    assert (found["first_seen_at"], found["last_seen_at"]) == (us(1), us(5))


def test_seen_times_of_merged_users_join() -> None:
    found = users(track(1, "u1"), track(5, "u1"), track(3, "u2"), alias(4, "u2", "u1"))["u2"]

    assert (found["first_seen_at"], found["last_seen_at"]) == (us(1), us(5))


def test_delivered_email_is_no_sighting() -> None:
    sent = [email_opened(1, "a@x"), identify(2, "u1", email="a@x"), email_opened(3, "a@x")]
    found = users(*sent)["u1"]

    assert (found["first_seen_at"], found["last_seen_at"]) == (us(2), us(2))


def test_user_that_only_a_previous_id_names_was_never_seen_until_merged() -> None:
    # The alias is a sighting of its own identity, the user id, and so of the merged user.
    found = users(alias(1, "u1", "u0"))["u1"]

    assert (found["first_seen_at"], found["last_seen_at"]) == (us(1), us(1))


# The views user_ids and feed ----------------------------------------------------------------------


def test_user_row_has_the_least_clock_call_that_names_it() -> None:
    sent = [track(3, "u1"), alias(2, "u2", "u1"), identify(4, "u1")]

    assert ids(*sent)["user", "u1"] == {"user_id": "u2", "message_id": "m2", "since": us(2)}


def test_visitor_that_only_a_previous_id_names_is_listed_once_a_call_carries_it() -> None:
    claimed = alias(1, "u1", "v1")

    assert ("anonymous", "v1") not in ids(claimed)
    assert ids(claimed, track(2, visitor="v1"))["anonymous", "v1"] == {
        "user_id": "u1", "message_id": "m1", "since": us(1),
    }  # fmt: skip


def test_visitor_who_is_nobodys_is_listed_without_claim() -> None:
    assert ids(track(1, visitor="v1")) == {("anonymous", "v1"): NOBODY}


def test_feed_holds_track_page_and_screen_and_hides_pages() -> None:
    sent = [
        track(1, "u1"), call("page", 2, "u1", name="Home"), call("screen", 3, "u1", name="Main"),
        identify(4, "u1"), group(5, "u1", "g1"), alias(6, "u1", "u0"),
    ]  # fmt: skip

    assert [(row["type"], row["name"], row["hidden"]) for row in views(*sent)["feed"]] == [
        ("track", "Order Completed", False), ("page", "Home", True), ("screen", "Main", False),
    ]  # fmt: skip


def test_row_of_the_feed_is_the_call() -> None:
    sent = {
        **track(1, "u1", "v1", total=9.5), "context": {"ip": "::1"},
        "receivedAt": (MONDAY + timedelta(seconds=2)).isoformat(),
    }  # fmt: skip

    assert views(sent)["feed"] == [{
        "message_id": "m1", "user_id": "u1", "anonymous_id": "v1", "type": "track",
        "name": "Order Completed", "category": "analytics", "hidden": False,
        "occurred_at": us(1), "received_at": us(2),
        "properties": {"total": 9.5}, "context": {"ip": "::1"},
    }]  # fmt: skip


# Audiences ----------------------------------------------------------------------------------------


def test_audience_sync_is_an_ordinary_trait_and_lists_the_audience() -> None:
    sent = sync(1, "u1", "vip", value=True, computation_class="audience")

    assert traits("u1", sent) == {"vip": True}
    assert views(sent)["audiences"] == [
        {
            "name": "vip",
            "computation_class": "audience",
            "members_count": 1,
            "last_synced_at": us(1),
        }
    ]


@pytest.mark.parametrize(
    ("computation_class", "value", "members_count"),
    [
        ("audience", True, 1), ("audience", "true", 1), ("audience", False, 0),
        ("audience", "TRUE", 0), ("audience", 1, 0), ("audience", "gold", 0), (None, True, 1),
        ("computed_trait", "gold", 1), ("trait", 0, 1), ("computed_trait", False, 1),
        ("sql_trait", "", 1), ("computed_trait", None, 0),
    ],
)  # fmt: skip
def test_members_are_true_or_for_a_computed_trait_any_value(
    computation_class: str | None, value: object, members_count: int
) -> None:
    found = views(sync(1, "u1", "vip", value, computation_class))["audiences"]

    assert [row["members_count"] for row in found] == [members_count]


def test_class_and_last_sync_are_those_of_the_greatest_clock() -> None:
    late = sync(2, "u1", "vip", value=True, computation_class="audience")
    early = sync(1, "u2", "vip", value="gold", computation_class="computed_trait")

    assert views(late, early)["audiences"] == [
        {
            "name": "vip",
            "computation_class": "audience",
            "members_count": 1,
            "last_synced_at": us(2),
        }
    ]


def test_members_are_users_by_the_trait_they_have_now() -> None:
    joined = sync(1, "u1", "vip", value=True, computation_class="audience")
    visitor = {**joined, **identify(2, None, "v1", vip=True)}
    left = identify(3, "u1", vip=False)
    by_hand = identify(4, "u2", vip=True)

    def members_count(*sent: Row) -> int:
        return int(views(*sent)["audiences"][0]["members_count"])

    assert members_count(joined, visitor) == 1
    assert members_count(joined, left) == 0
    assert members_count(joined, by_hand) == 2
    assert members_count(joined, by_hand, alias(5, "u1", "u2")) == 1


# The rule over whole worlds ----------------------------------------------------------------------


def first_deliveries(calls: list[Call]) -> list[Call]:
    """One call a week and message id: what differs under one id is decided by arrival."""
    first: dict[tuple[int, str], Call] = {}
    for each in calls:
        first.setdefault(((each.clock.at - MONDAY_US) // WEEK_US, each.clock.message_id), each)
    return list(first.values())


@given(WORLDS, st.lists(BROKEN, max_size=5), st.randoms(use_true_random=False))
def test_any_delivery_of_one_set_gives_the_same_views(
    world: list[Row], broken: list[bytes | None], rng: random.Random
) -> None:
    calls = first_deliveries(decoded(records_of(world)))
    refused = [WorldRecord(value, offset) for offset, value in enumerate(broken)]
    records = [record for each in calls if isinstance(record := each.record, WorldRecord)]
    assert len(records) == len(calls)

    lanes = deliver([*records, *refused], rng, lanes_count=3)
    arrived = itertools.chain.from_iterable(itertools.chain.from_iterable(lanes))

    assert model_of(decoded(list(arrived))) == model_of(calls)


@given(WORLDS)
def test_each_call_of_a_world_leaves_views_that_agree_with_each_other(world: list[Row]) -> None:
    found = views_of(world)
    names = {row["user_id"] for row in found["users"]}
    members = [row for row in found["user_ids"] if row["kind"] == "user"]

    # Every user is named after one of its own ids, and no row names another user.
    assert names <= {row["value"] for row in members if row["value"] == row["user_id"]}
    assert {row["user_id"] for row in found["user_ids"]} | {
        row["user_id"] for row in found["feed"]
    } <= {*names, None}
    assert all(row["user_id"] is not None for row in members)
    # Only what is somebody's has a claim.
    assert all((row["user_id"] is None) == (row["since"] is None) for row in found["user_ids"])
    assert len({row["message_id"] for row in found["merges"]}) <= len(found["merges"])
    # What a merge names leads to one user.
    owner = {row["value"]: row["user_id"] for row in members}
    assert all(owner[row["previous_id"]] == owner[row["user_id"]] for row in found["merges"])
    assert all(row["first_seen_at"] is not None for row in found["users"])


def views_of(world: list[Row]) -> Views:
    return model_of(decoded(records_of(world)))


@given(BROKEN)
def test_broken_records_hold_no_call(value: bytes | None) -> None:
    assert decoded([WorldRecord(value)]) == []


def test_worlds_reach_every_view() -> None:
    """A strategy that never merges, claims or clashes would prove nothing."""
    rng_calls: list[Row] = []

    @given(WORLDS)
    def collect(world: list[Row]) -> None:
        rng_calls.append(
            {
                **{name: bool(rows) for name, rows in views_of(world).items()},
                "clash": len(first_deliveries(decoded(records_of(world)))) < len(world),
                "contact": b"Email Opened" in json.dumps(world).encode(),
            }
        )

    collect()
    reached = {name for row in rng_calls for name, there in row.items() if there}
    assert reached == {
        "users", "user_ids", "groups", "feed", "audiences", "merges", "clash", "contact",
    }  # fmt: skip
