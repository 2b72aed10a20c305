"""What happened, in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.catalogue import CATEGORIES, Catalogue, icons, load_catalogue
from dashboard.people import one_line
from dashboard.summary import (
    Event,
    Part,
    TemplateError,
    compiled,
    sentence,
    sentence_of_name,
    text_of,
)
from schemas.catalogue import EVENTS, normalised


def told(name: str, **properties: object) -> str:
    return text_of(Catalogue().told(Event(name, properties, {}), "track", None).sentence)


@pytest.mark.parametrize(
    ("name", "properties", "words"),
    [
        ("Order Completed", {"order_id": 1042, "total": 39.95}, "completed order #1042 for $39.95"),
        ("orderCompleted", {"orderId": "A1", "revenue": "12"}, "completed order #A1 for $12.00"),
        ("order_completed", {"total": 10, "currency": "JPY"}, "completed an order for ¥10"),
        ("Order Completed", {}, "completed an order"),
        ("Product Added", {"product": {"name": "Pen"}, "quantity": 2},
         "added 2 \u00d7 Pen to the cart"),
        ("Products Searched", {"query": "pens"}, "searched for pens"),
        ("Email Opened", {"email_subject": "Your trial ends soon"}, "opened Your trial ends soon"),
        ("email_opened", {}, "opened an email"),
        ("Email Link Clicked", {"subject": "Hi", "link_url": "https://x.example"},
         "clicked a link in Hi to https://x.example"),
        ("Called Support", {}, "called support"),
        ("Charge Succeeded", {"amount": 49.0, "currency": "usd"}, "was charged $49.00"),
        # As Stripe sends it: in cents, or where there are none, in whole ones.
        ("charge.succeeded", {"amount": 4900, "currency": "usd"}, "was charged $49.00"),
        ("Charge Succeeded", {"id": "ch_1Abc", "amount": 4900}, "was charged $49.00"),
        ("charge.succeeded", {"amount": 4900, "currency": "jpy"}, "was charged ¥4,900"),
        ("Charge Failed", {"amount": 5, "failure_message": "no funds"},
         "could not be charged $5.00: no funds"),
        ("SMS Delivered", {"body": "Hello"}, "was sent a text message Hello"),
        ("WhatsApp Message Read", {}, "read a WhatsApp message"),
        ("Signed Up", {"plan": "Pro"}, "signed up for the plan Pro"),
        ("Experiment Viewed", {"experimentName": "Price", "variationName": "B"},
         "saw B of the experiment Price"),
        ("Video Playback Paused", {"title": "Intro", "position": 75}, "paused Intro at 1:15"),
        ("Live Chat Message Sent", {"message_body": "Hi"}, "wrote in the chat Hi"),
        ("Application Opened", {}, "opened the app"),
        ("Account Added User", {"role": "admin"}, "was added to the account as admin"),
        ("Ticket Created", {"subject": "Help"}, "opened the ticket Help"),
    ],
)  # fmt: skip
def test_well_known_event_is_told(name: str, properties: dict[str, object], words: str) -> None:
    assert told(name, **properties) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Report Exported", "exported a report"),
        ("card_moved", "moved a card"),
        ("apiKeyRotated", "rotated an api key"),
        ("API Key Rotated", "rotated an API key"),
        ("Filters Saved", "saved filters"),
        ("Onboarding Done", "did onboarding"),
        ("Review Written", "wrote a review"),
        ("Viewed Pricing", "viewed pricing"),
        ("Team Joined Via Link", "joined a team via link"),
        ("Spaceship Launch", "did Spaceship Launch"),
        ("Upgraded!", "upgraded"),
        ("{x} [*", "did {x} [*"),
        ("メール送信", "did メール送信"),
        ("", "did something"),
        ("\u202e", "did something"),
    ],
)
def test_unknown_event_gets_a_sensible_sentence(name: str, words: str) -> None:
    assert told(name) == words


def test_unknown_event_is_told_with_what_it_is_about() -> None:
    event = Event("Board Created", {"title": "Roadmap"}, {})
    assert sentence_of_name(event) == (Part("created a board "), Part("Roadmap", is_set_off=True))


def test_every_template_is_well_formed_and_says_something_without_properties() -> None:
    for event in set(EVENTS.values()):
        words = text_of(sentence(event.summary, Event(event.name, {}, {})))
        assert words.strip() == words, event.name
        assert "  " not in words, event.name
        assert words[0].islower() or words.startswith("SMS"), event.name
        assert not words.endswith((" of", " to", ":", ",")), event.name
        assert event.icon in icons(), event.name


@pytest.mark.parametrize(
    "template", ["[", "]", "[a", "*a", "{", "}", "{a", "{:money}", "{a:odd}", "[[a]]"]
)
def test_template_that_is_not_well_formed_is_refused(template: str) -> None:
    with pytest.raises(TemplateError):
        compiled(template)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["order_id", "total", "amount", "currency", "subject", "product", "id"])


@given(
    st.sampled_from(sorted(EVENTS)) | st.text(),
    st.dictionaries(KEYS | st.text(), VALUES, max_size=6),
)
def test_whatever_is_sent_gets_a_sentence_of_one_line(
    name: str, properties: dict[str, object]
) -> None:
    found = Catalogue().told(Event(name, properties, {}), "track", None)
    words = text_of(found.sentence)
    assert words
    assert len(words) < 1_000
    assert not set(words) & set("\n\r\t\x00\u202e\u2066")
    assert found.category in CATEGORIES
    assert found.icon in icons()


def test_workspaces_own_events_come_before_the_built_in_ones(tmp_path: object) -> None:
    path = f"{tmp_path}/events.toml"
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - a path as the settings have it
        file.write(
            '[[event]]\nname = "Board Created"\nvariants = ["New Board"]\n'
            'category = "lifecycle"\nicon = "rocket"\nsummary = "made the board *{title}*"\n'
            '[[event]]\nname = "Order Completed"\nsummary = "bought for {total:money}"\n'
        )
    catalogue = load_catalogue(path)
    new = catalogue.told(Event("new_board", {"title": "X"}, {}), "track", "analytics")
    assert (text_of(new.sentence), new.icon, new.category) == (
        "made the board X", "rocket", "lifecycle",
    )  # fmt: skip
    order = catalogue.told(Event("Order Completed", {"total": 5}, {}), "track", "analytics")
    assert (text_of(order.sentence), order.icon) == ("bought for $5.00", "bag")
    assert catalogue.moved("lifecycle") == (["Board Created", "New Board"], [])
    assert catalogue.moved("payment") == ([], ["Board Created", "New Board"])


def test_name_is_normalised_for_what_is_known() -> None:
    assert normalised("Order Completed") in EVENTS


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 80
    assert line == " ".join(line.split())
