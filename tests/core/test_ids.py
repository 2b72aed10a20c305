"""Ids: strings or integers, trimmed, of bounded length, and never a junk id by mistake."""

import pytest

from consumer.core.call import RefusedError
from consumer.core.ids import BLOCKED_IDS, ID_CHARS_MAX, is_blocked, normalised_id


@pytest.mark.parametrize(
    ("sent", "id_"),
    [
        ("jane", "jane"),
        ("  jane\t\r\n", "jane"),
        ("\u00a0jane\u3000", "jane"),
        ("jane doe", "jane doe"),
        ("a\nb", "a\nb"),
        ("Jane", "Jane"),
        ("a" * 512, "a" * 512),
        (f"  {'a' * 512}  ", "a" * 512),
        ("\U0001f600" * 512, "\U0001f600" * 512),
        ("\u202ejane", "\u202ejane"),
        ("\u200b", "\u200b"),
        ("", None),
        (" \n", None),
        (None, None),
        (0, "0"),
        (-7, "-7"),
        (2**64, "18446744073709551616"),
        (10**511, "1" + "0" * 511),
        (-(10**510), "-1" + "0" * 510),
    ],
)
def test_id_is_the_trimmed_text_or_the_decimal_text_of_an_integer(
    sent: object, id_: str | None
) -> None:
    assert normalised_id(sent, "userId", ID_CHARS_MAX) == id_


@pytest.mark.parametrize(("sent", "id_"), [("  m\n", "  m\n"), (" ", " "), ("", None), (5, "5")])
def test_message_id_is_not_trimmed(sent: object, id_: str | None) -> None:
    assert normalised_id(sent, "messageId", ID_CHARS_MAX, trim=False) == id_


@pytest.mark.parametrize(
    ("sent", "reason", "detail"),
    [
        (True, "invalid_field", "userId: a boolean, must be a string or integer"),
        (False, "invalid_field", "userId: a boolean, must be a string or integer"),
        (1.0, "invalid_field", "userId: a fraction, must be a string or integer"),
        ([], "invalid_field", "userId: an array, must be a string or integer"),
        ({}, "invalid_field", "userId: an object, must be a string or integer"),
        ("a\x00b", "invalid_field", "userId: holds a NUL character"),
        ("\x00", "invalid_field", "userId: holds a NUL character"),
        ("a" * 513, "id_too_long", "userId: 513 characters, at most 512"),
        (" " + "\U0001f600" * 513, "id_too_long", "userId: 513 characters, at most 512"),
        (10**512, "id_too_long", "userId: longer than 512 characters"),
        (-(10**511), "id_too_long", "userId: 513 characters, at most 512"),
    ],
)
def test_other_ids_are_refused_with_the_field_and_a_reason(
    sent: object, reason: str, detail: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        normalised_id(sent, "userId", ID_CHARS_MAX)

    assert (refused.value.reason, str(refused.value)) == (reason, detail)


@pytest.mark.parametrize("sign", [1, -1])
def test_integer_too_long_for_python_to_write_out_is_too_long_for_an_id(sign: int) -> None:
    with pytest.raises(RefusedError, match=r"^userId: longer than 512 characters$"):
        normalised_id(sign * 10**4_999, "userId", ID_CHARS_MAX)


@pytest.mark.parametrize(
    "junk",
    [
        *sorted(BLOCKED_IDS),
        "NULL", "Undefined", "None", "NaN", "TRUE", "Guest", "[object Object]",
        "00", "000000000", "-0", "0-0", "00000000-0000-0000-0000-000000000000",
    ],
)  # fmt: skip
def test_junk_ids_are_blocked_in_any_case(junk: str) -> None:
    assert is_blocked(junk, BLOCKED_IDS) is True


@pytest.mark.parametrize(
    "id_",
    [
        "jane", "1", "-2", "10", "0.0", "0x0", "0 0", "-", "--", "nulls", "anonymous-1", "nan1",
        "00000000-0000-0000-0000-000000000001", "1-0", "\u0660", "\u200bnull",
    ],
)  # fmt: skip
def test_ids_that_only_look_like_junk_name_somebody(id_: str) -> None:
    assert is_blocked(id_, BLOCKED_IDS) is False


def test_zeros_are_blocked_whatever_is_configured() -> None:
    assert [is_blocked(id_, frozenset({"x"})) for id_ in ("x", "X", "null", "0000")] == [
        True, True, False, True,
    ]  # fmt: skip
