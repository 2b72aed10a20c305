"""Emails and phones, compared as what they mean."""

import pytest

from consumer.core.call import Identity
from consumer.core.contacts import claimed_contacts, email_of, first_contact, phone_of

JANE = Identity("email", "jane@example.com")
PHONE = Identity("phone", "+16502530000")


@pytest.mark.parametrize(
    ("sent", "email"),
    [
        ("jane@example.com", "jane@example.com"),
        (" \tJane@Example.COM\n", "jane@example.com"),
        ("J\u00dcRGEN@example.com", "j\u00fcrgen@example.com"),
        ("a@b@c", "a@b@c"),
        ("@", "@"),
        ("x" * 511 + "@", "x" * 511 + "@"),
    ],
)
def test_email_is_what_contains_an_at_sign_trimmed_and_lower_cased(sent: str, email: str) -> None:
    assert email_of(sent) == Identity("email", email)


@pytest.mark.parametrize(
    "sent",
    [
        "", "jane", "jane at example.com", None, 5, 1.5, True, ["jane@example.com"], {"@": 1},
        "x" * 512 + "@", "\u0130" * 511 + "@", "a@b\x00",
    ],
)  # fmt: skip
def test_anything_else_is_no_email(sent: object) -> None:
    assert email_of(sent) is None


@pytest.mark.parametrize(
    ("sent", "region", "phone"),
    [
        ("+16502530000", None, "+16502530000"),
        ("+1 (650) 253-0000", None, "+16502530000"),
        (" +1.650.253.0000 ", None, "+16502530000"),
        ("+44 20 7031 3000", "US", "+442070313000"),
        ("(650) 253-0000", "US", "+16502530000"),
        (6502530000, "US", "+16502530000"),
        ("020 7031 3000", "GB", "+442070313000"),
    ],
)
def test_phone_is_what_phonenumbers_calls_valid_as_e164(
    sent: object, region: str | None, phone: str
) -> None:
    assert phone_of(sent, region) == Identity("phone", phone)


@pytest.mark.parametrize(
    ("sent", "region"),
    [
        ("(650) 253-0000", None),
        (6502530000, None),
        (16502530000, None),
        ("+1", None),
        ("+1 555", None),
        ("+999 1234567", None),
        ("12", "US"),
        ("call me", "US"),
        ("", "US"),
        ("+16502530000" + " " * 512, None),
        (10**511, "US"),
        (None, "US"),
        (True, "US"),
        (6502530000.0, "US"),
        (["+16502530000"], "US"),
        ({}, "US"),
        ("+1650\x002530000x", None),
        ("\ufffd" * 200, "US"),
    ],
)
def test_anything_else_is_no_phone(sent: object, region: str | None) -> None:
    assert phone_of(sent, region) is None


@pytest.mark.parametrize(
    ("places", "contact"),
    [
        ([{"email": JANE.value}, {"email": "b@c"}], JANE),
        ([{}, {"email": JANE.value}], JANE),
        ([{"phone": PHONE.value}, {}, {"email": JANE.value}], JANE),
        ([{"phone": PHONE.value, "email": "none"}, {}], PHONE),
        ([{"phone": "none"}, {"phone": PHONE.value}], PHONE),
        ([{"Email": JANE.value, "mobile": PHONE.value}], None),
        ([], None),
    ],
)
def test_first_contact_is_the_first_email_else_the_first_phone(
    places: list[dict[str, object]], contact: Identity | None
) -> None:
    assert first_contact(places, None) == contact
    assert first_contact(iter(places), None) == contact


@pytest.mark.parametrize(
    ("user_id", "traits", "claims"),
    [
        ("jane", {"email": "Jane@example.com", "phone": PHONE.value}, (JANE, PHONE)),
        ("jane", {}, ()),
        ("Jane@example.com", {}, (JANE,)),
        ("a@b", {"email": JANE.value}, (JANE,)),
        ("a@b", {"email": None}, ()),
        ("+16502530000", {}, ()),
    ],
)
def test_email_that_is_a_user_id_is_claimed_where_the_traits_have_none(
    user_id: str, traits: dict[str, object], claims: tuple[Identity, ...]
) -> None:
    assert claimed_contacts(user_id, traits, None) == claims
