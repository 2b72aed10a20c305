"""Hostile text cannot drive a terminal; progress is for people only."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.terminal import printable, progress


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("Ann Müller, 安 🙂", "Ann Müller, 安 🙂"),
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("a\rb\nc\td\x7f\x00", r"a\rb\nc\td\x7f\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("user\u202egnp.exe", r"user\u202egnp.exe"),
        ("in\u200bvis\u2028ible\U000e0041", r"in\u200bvis\u2028ible\U000e0041"),
        (b"\xff\xfe{}", r"\xff\xfe{}"),
        ("Ann Müller".encode(), "Ann Müller"),
    ],
)
def test_what_is_no_plain_character_is_escaped(hostile: str | bytes, shown: str) -> None:
    assert printable(hostile) == shown


@given(st.one_of(st.text(), st.binary()))
def test_nothing_that_drives_a_terminal_is_left(hostile: str | bytes) -> None:
    shown = printable(hostile)

    assert {unicodedata.category(char) for char in shown}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    shown.encode()


def test_progress_says_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sending", 2) as done:
        done(2)

    assert capsys.readouterr() == ("", "")
