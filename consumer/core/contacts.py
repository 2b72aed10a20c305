"""Emails and phones, compared as what they mean.

Source: docs/identity.md, "Contacts".
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import phonenumbers

from consumer.core.call import Identity

REGIONS: Final = frozenset(map(str, phonenumbers.SUPPORTED_REGIONS))
"""By their ISO 3166 codes: what a number without `+` may be of."""

_CONTACT_CHARS_MAX: Final = 512


def email_of(value: object) -> Identity | None:
    """The contact that an `email` names, trimmed and lower-cased; None if it is none."""
    if not isinstance(value, str) or "@" not in value:
        return None
    email = value.strip().lower()
    if len(email) > _CONTACT_CHARS_MAX or "\x00" in email:
        return None
    return Identity("email", email)


def phone_of(value: object, region: str | None) -> Identity | None:
    """The contact that a `phone` names, as E.164; None if it is no valid number.

    Args:
        value: What was decoded from JSON.
        region: ISO 3166 code for numbers without `+`, None to take none of those.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)[:_CONTACT_CHARS_MAX]
    if not isinstance(value, str) or len(value) > _CONTACT_CHARS_MAX:
        return None
    number = _e164(value, region)
    return None if number is None else Identity("phone", number)


def first_contact(places: Iterable[Mapping[str, object]], region: str | None) -> Identity | None:
    """The first email, else the first phone, in places in this order."""
    places = tuple(places)
    for place in places:
        if (email := email_of(place.get("email"))) is not None:
            return email
    for place in places:
        if (phone := phone_of(place.get("phone"), region)) is not None:
            return phone
    return None


def claimed_contacts(
    user_id: str, traits: Mapping[str, object], region: str | None
) -> tuple[Identity, ...]:
    """The contacts that an identify with a `userId` claims."""
    email = email_of(traits["email"]) if "email" in traits else email_of(user_id)
    phone = phone_of(traits.get("phone"), region)
    return tuple(contact for contact in (email, phone) if contact is not None)


# The same people are met again and again; the library takes some 100 µs a number.
@lru_cache(maxsize=65_536)
def _e164(text: str, region: str | None) -> str | None:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
