import csv
import re
from importlib import resources
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalogue import (
    EVENTS,
    NAME_CHARS_MAX,
    Category,
    Event,
    category_of,
    normalised,
)

CATEGORIES = set(get_args(Category))


def lines() -> list[str]:
    text = (resources.files("schemas") / "catalogue.tsv").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n")


def rows() -> list[list[str]]:
    return list(csv.reader(lines()[1:], delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize(
    ("event", "category"),
    [
        # Segment's specs.
        ("Products Searched", "analytics"),
        ("Order Completed", "analytics"),
        ("Order Refunded", "analytics"),
        ("Wishlist Product Added to Cart", "analytics"),
        ("Account Created", "lifecycle"),
        ("Account Removed User", "lifecycle"),
        ("Trial Ended", "lifecycle"),
        ("Application Installed", "lifecycle"),
        ("Application Unhidden", "lifecycle"),
        ("Push Notification Tapped", "analytics"),
        ("Video Playback Seek Completed", "analytics"),
        ("Video Ad Playing", "analytics"),
        ("Experiment Viewed", "analytics"),
        ("Email Link Clicked", "email"),
        ("Email Marked as Spam", "email"),
        ("Unsubscribed", "email"),
        ("Live Chat Conversation Started", "support"),
        ("Live Chat Message Received", "support"),
        ("Conversation Ended", "support"),
        ("Message Sent", "support"),
        # Segment Engage.
        ("Audience Entered", "analytics"),
        ("Trait Computed", "analytics"),
        ("Journey Step Entered", "analytics"),
        ("Email Machine Opened", "email"),
        ("Group Subscription Updated", "email"),
        ("SMS Undelivered", "sms"),
        ("WhatsApp Message Read", "sms"),
        # Tools that send to Segment.
        ("Email Reported As Spam", "email"),
        ("group_resubscribe", "email"),
        ("com.twilio.messaging.inbound-message.received", "sms"),
        ("conversation.admin.replied", "support"),
        ("Ticket Solved", "support"),
        ("call.voicemail_left", "support"),
        ("convo.customer.reply.created", "support"),
        ("charge.dispute.funds_reinstated", "payment"),
        ("Invoice Payment Failed", "payment"),
        ("customer.subscription.deleted", "payment"),
        ("PAYMENT.CAPTURE.COMPLETED", "payment"),
        ("rc_renewal_event", "payment"),
        ("Subscription Cancelled", "payment"),
        ("Payment Refunded", "payment"),
    ],
)
def test_well_known_event_has_its_category(event: str, category: Category) -> None:
    assert normalised(event) in EVENTS
    assert category_of(event) == category


@pytest.mark.parametrize(
    "event",
    [
        "Payment Info Entered",
        "Payment Submitted",
        "Newsletter Subscribed",
        "Email Captured",
        "Contact Form Submitted",
        "Checkout Started",
        "Signed Up",
        "Invite Sent",
        "Email Verified",
    ],
)
def test_visitor_who_leaves_a_contact_is_not_found_by_it(event: str) -> None:
    assert normalised(event) in EVENTS
    assert category_of(event) in {"analytics", "lifecycle"}


@pytest.mark.parametrize(
    "spelling",
    [
        "Email Link Clicked",
        "email_link_clicked",
        "emailLinkClicked",
        "EMAIL  LINK CLICKED",
        "email-link-clicked",
        "email.link.clicked",
        " Email Link Clicked\n",
    ],
)
def test_spelling_makes_no_difference(spelling: str) -> None:
    assert category_of(spelling) == "email"


def test_variant_is_the_same_event() -> None:
    event = EVENTS[normalised("subscription_canceled")]
    assert event is EVENTS[normalised("Subscription Cancelled")]
    assert (event.name, event.category, event.spec) == (
        "Subscription Cancelled",
        "payment",
        "common",
    )
    assert "Subscription Canceled" in event.variants
    assert category_of("Subscription Canceled") == "payment"


@pytest.mark.parametrize("event", ["", " ", "...", "Spaceship Launched", "\ud800", "🚀", "メール"])
def test_unknown_event_is_analytics(event: str) -> None:
    assert normalised(event) not in EVENTS
    assert category_of(event) == "analytics"


def test_name_that_is_too_long_is_unknown() -> None:
    padded = "Email Opened".ljust(NAME_CHARS_MAX)
    assert category_of(padded) == "email"
    assert category_of(padded + " ") == "analytics"
    assert category_of("Email Opened" * 100_000) == "analytics"


@given(st.text(st.characters()))
def test_any_text_has_a_category(event: str) -> None:
    assert category_of(event) in CATEGORIES


@st.composite
def respelled(draw: st.DrawFn) -> tuple[str, Event]:
    event = draw(st.sampled_from(sorted(set(EVENTS.values()))))
    name = draw(st.sampled_from([event.name, *event.variants]))
    words = re.split(r"[\W_]+", name)
    changed = [draw(st.sampled_from([word, word.upper(), word.lower()])) for word in words]
    separator = draw(st.sampled_from(["", " ", "  ", "_", "-", ".", "\t"]))
    return separator.join(changed), event


@given(respelled())
def test_every_event_is_known_in_every_spelling(spelled: tuple[str, Event]) -> None:
    name, event = spelled
    assert category_of(name) == event.category


def test_file_has_its_header_and_is_sorted() -> None:
    assert lines()[0] == "event\tcategory\tspec\ticon\tsummary\tvariants"
    names = [row[0] for row in rows()]
    assert names == sorted(names)


def test_lines_are_whole() -> None:
    for row in rows():
        name, category, spec, icon, summary, variants = row
        assert all(field == field.strip() for field in row)
        assert category in CATEGORIES, name
        assert re.fullmatch(r"[a-z0-9-]+", spec), name
        assert icon, name
        assert summary, name
        assert len(name) * 5 <= NAME_CHARS_MAX, name
        assert variants == "; ".join(sorted(variants.split("; "))), name


def test_no_name_is_there_twice() -> None:
    names = [
        normalised(name)
        for event, _, _, _, _, variants in rows()
        for name in (event, *filter(None, variants.split("; ")))
    ]
    assert all(names)
    assert sorted(names) == sorted(EVENTS)


def test_every_line_is_loaded() -> None:
    loaded = {
        Event(name, category, spec, icon, summary, tuple(filter(None, variants.split("; "))))  # type: ignore[arg-type] # any text until loaded
        for name, category, spec, icon, summary, variants in rows()
    }
    assert loaded == set(EVENTS.values())


def test_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        EVENTS["order completed"] = next(iter(EVENTS.values()))  # type: ignore[index] # the point
