"""What happened, in words: an event's sentence from its template and its properties.

A template says what somebody did, as the rest of a sentence that begins with their name:

    completed [order #{order_id|number};an order][ for {total|revenue:money}]

- `{order_id|number}` is the first of these properties that has a value. Case and punctuation do
  not count (`orderId` is `order_id`); a dot goes inside (`product.name`, `products.0.name`), and
  `context.` and `traits.` begin there.
- `{total:money}` shows it another way: `money` in the currency of the properties, `stripe` as
  Stripe counts (cents, where it comes as Stripe sent it), `count`, `percent`, `seconds`.
- `[...;...]` is the first of its choices whose properties are all there, or nothing.
- `*...*` is set off, as a title is.

An event without a template gets a sentence from its name: `Report Exported` is "exported a
report", `Spaceship Launch` is "did Spaceship Launch". What a sender wrote is cut to one line.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from babel.numbers import format_currency, format_decimal, format_percent, get_currency_precision

from dashboard.people import one_line
from schemas.catalogue import normalised

VALUE_CHARS_MAX: Final = 90
"""Of one value; a sentence is to stay a sentence."""

_LOCALE: Final = "en_US"
_DIGITS_MAX: Final = 18
_CURRENCY: Final = re.compile(r"[A-Za-z]{3}")
_STRIPE_ID: Final = re.compile(r"(ch|py|in|pi|sub|re|ii|cs|dp|du|po|tr|txn|seti)_\w+")


class Part(NamedTuple):
    """A piece of a sentence."""

    text: str
    is_set_off: bool = False


Sentence: TypeAlias = tuple[Part, ...]


class Field(NamedTuple):
    """`{path|path:shown}`."""

    paths: tuple[tuple[str, ...], ...]
    shown: str


Piece: TypeAlias = "str | Field"
Choice: TypeAlias = tuple[tuple[Piece, bool], ...]
Template: TypeAlias = tuple[tuple[Choice, ...], ...]
"""Slots one after the other; of each the first choice that can be filled."""


class TemplateError(ValueError):
    """A template cannot be read; the text says why."""


_TOKENS: Final = re.compile(r"[\[\];*]|\{[^{}]*\}|[^\[\];*{}]+|[{}]")
_FORMATS: Final = ("text", "money", "stripe", "count", "percent", "seconds")


@lru_cache(maxsize=4096)
def compiled(template: str) -> Template:
    """Read a template.

    Raises:
        TemplateError: It is not well formed.
    """
    slots: list[tuple[Choice, ...]] = []
    choices: list[list[tuple[Piece, bool]]] = [[]]
    is_inside = is_set_off = False
    for sign in _TOKENS.findall(template):
        if sign == "[" and not is_inside:
            slots.append((tuple(choices[0]),))
            choices, is_inside = [[]], True
        elif sign == "]" and is_inside:
            slots.append(tuple(map(tuple, choices)))
            choices, is_inside = [[]], False
        elif sign in "[]{}":
            raise TemplateError(f"a {sign} without its like")
        elif sign == "*":
            is_set_off = not is_set_off
        elif sign == ";" and is_inside:
            choices.append([])
        else:
            choices[-1].append((_field(sign) if sign[0] == "{" else sign, is_set_off))
    if is_inside or is_set_off:
        raise TemplateError(f"a {'[' if is_inside else '*'} that does not end")
    return (*slots, (tuple(choices[0]),))


def _field(token: str) -> Field:
    names, _, shown = token[1:-1].partition(":")
    if (shown or "text") not in _FORMATS:
        raise TemplateError(f"no {shown!r}: a value is shown as one of {', '.join(_FORMATS)}")
    paths = tuple(tuple(name.strip().split(".")) for name in names.split("|"))
    if not all(all(steps) for steps in paths):
        raise TemplateError(f"{token} names no property")
    return Field(tuple(tuple(map(normalised, steps)) for steps in paths), shown or "text")


class Event(NamedTuple):
    """What a sentence may say of an event."""

    name: str
    properties: Mapping[str, Any]
    context: Mapping[str, Any]


def sentence(template: str, event: Event) -> Sentence:
    """Fill a template.

    Args:
        template: A well-formed one.
        event: Whatever its sender put in.

    Returns:
        Its parts, without empty ones; neighbours are of different kinds.
    """
    parts: list[Part] = []
    for choices in compiled(template):
        for choice in choices:
            filled = _filled(choice, event)
            if filled is not None:
                parts += filled
                break
    return _joined(parts)


def _filled(choice: Choice, event: Event) -> list[Part] | None:
    """The parts of a choice, None where a property is not there."""
    parts = []
    for piece, is_set_off in choice:
        text = _value(piece, event) if isinstance(piece, Field) else piece
        if text is None:
            return None
        parts.append(Part(text, is_set_off))
    return parts


def _joined(parts: Sequence[Part]) -> Sentence:
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].is_set_off == part.is_set_off:
            joined[-1] = Part(joined[-1].text + part.text, part.is_set_off)
        elif part.text:
            joined.append(part)
    return tuple(joined)


# Values ----------------------------------------------------------------------------------------


def _value(field: Field, event: Event) -> str | None:
    show = _SHOWN[field.shown]
    for path in field.paths:
        shown = show(_looked_up(path, event), event)
        if shown:
            return shown
    return None


def _looked_up(path: tuple[str, ...], event: Event) -> Any:  # noqa: ANN401 - whatever was sent
    if path[0] == "context":
        value: Any = event.context
    elif path[0] == "traits":
        value = event.context.get("traits")
    else:
        value = _step(event.properties, path[0])
    for step in path[1:]:
        value = _step(value, step)
    return value


def _step(value: Any, step: str) -> Any:  # noqa: ANN401 - whatever was sent
    if isinstance(value, Mapping):
        if step in value:
            return value[step]
        return next((value[key] for key in value if normalised(key[:256]) == step), None)
    if isinstance(value, Sequence) and not isinstance(value, str) and step.isdecimal():
        return value[int(step[:4])] if int(step[:4]) < len(value) else None
    return None


def _text(value: Any, _: Event) -> str | None:  # noqa: ANN401 - whatever was sent
    if isinstance(value, str):
        return one_line(value, VALUE_CHARS_MAX) or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return one_line(str(value), VALUE_CHARS_MAX)


def _money(value: Any, event: Event) -> str | None:  # noqa: ANN401 - whatever was sent
    amount = _number(value)
    return None if amount is None else _in_currency(amount, event)


def _stripe(value: Any, event: Event) -> str | None:  # noqa: ANN401 - whatever was sent
    """Stripe counts in the smallest unit; what passed through other hands may be in whole ones.

    As Stripe sent it is what has Stripe's own name (`charge.succeeded`), kind or id.
    """
    amount = _number(value)
    if amount is None:
        return None
    id_ = _step(event.properties, "id")
    is_raw = (
        "." in event.name
        or isinstance(_step(event.properties, "object"), str)
        or (isinstance(id_, str) and _STRIPE_ID.fullmatch(id_) is not None)
    )
    if is_raw and amount == amount.to_integral_value():
        amount = amount.scaleb(-_precision(_currency(event)))
    return _in_currency(amount, event)


def _in_currency(amount: Decimal, event: Event) -> str:
    currency = _currency(event)
    if currency is None:
        return str(format_decimal(amount, locale=_LOCALE))
    return str(format_currency(amount, currency, locale=_LOCALE))


def _currency(event: Event) -> str | None:
    """The properties' currency; dollars where they name none, as the e-commerce spec has it."""
    for key in ("currency", "currencycode"):
        found = _step(event.properties, key)
        if found is not None:
            is_code = isinstance(found, str) and _CURRENCY.fullmatch(found.strip())
            return found.strip().upper() if is_code else None
    return "USD"


def _precision(currency: str | None) -> int:
    return int(get_currency_precision(currency or "USD"))


def _number(value: Any) -> Decimal | None:  # noqa: ANN401 - whatever was sent
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value)[:40].strip().lstrip("$€£").replace(",", ""))
    except InvalidOperation:
        return None
    # `1e999` is a number too, and would be written out.
    return number if number.is_finite() and abs(number.adjusted()) < _DIGITS_MAX else None


def _count(value: Any, _: Event) -> str | None:  # noqa: ANN401 - whatever was sent
    if isinstance(value, Sequence) and not isinstance(value, str):
        return str(format_decimal(len(value), locale=_LOCALE))
    number = _number(value)
    return None if number is None else str(format_decimal(number, locale=_LOCALE))


def _percent(value: Any, _: Event) -> str | None:  # noqa: ANN401 - whatever was sent
    number = _number(value)
    return None if number is None else str(format_percent(number / 100, locale=_LOCALE))


def _seconds(value: Any, _: Event) -> str | None:  # noqa: ANN401 - whatever was sent
    number = _number(value)
    if number is None or number < 0:
        return None
    minutes, seconds = divmod(int(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


_SHOWN: Final[Mapping[str, Callable[[Any, Event], str | None]]] = {
    "text": _text,
    "money": _money,
    "stripe": _stripe,
    "count": _count,
    "percent": _percent,
    "seconds": _seconds,
}


# Names that nobody wrote a template for ---------------------------------------------------------

_WORDS: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z'\u2019]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
_IRREGULAR: Final = frozenset(
    (
        *("began", "bought", "broke", "brought", "built", "caught", "chose", "cut"),
        *("did", "drew", "found", "gave", "got", "heard", "held", "hid"),
        *("hit", "kept", "knew", "laid", "led", "left", "lost", "made", "met"),
        *("opened", "paid", "put", "ran", "read", "said", "saw", "sent", "set"),
        *("shut", "sold", "spent", "split", "spoke", "started", "stopped", "swiped", "took"),
        *("taught", "told", "undid", "upsold", "went", "won", "wrote"),
    )
)
# Names say `Comment Written`, sentences that somebody wrote one.
_PARTICIPLES: Final[Mapping[str, str]] = {
    "chosen": "chose",
    "done": "did",
    "given": "gave",
    "hidden": "hid",
    "known": "knew",
    "seen": "saw",
    "shown": "showed",
    "taken": "took",
    "withdrawn": "withdrew",
    "written": "wrote",
    "begun": "began",
    "driven": "drove",
    "undone": "undid",
}
_NOT_VERBS: Final = frozenset(
    (
        *("need", "feed", "seed", "speed", "bed", "red", "embed", "shed", "breed", "weed"),
        "unified",
    )
)
_UNCOUNTABLE: Final = frozenset(
    (
        *("access", "activity", "analytics", "billing", "checkout", "content", "data", "feedback"),
        *("help", "information", "inventory", "media", "music", "news", "onboarding", "progress"),
        *("search", "software", "support", "traffic"),
    )
)
# Of a sentence; a name of more words is one by itself.
_NAME_WORDS_MAX: Final = 6
_BED: Final = len("bed")
_DETAILS: Final = "[ *{name|title|subject|label}*]"


def sentence_of_name(event: Event) -> Sentence:
    """Make a sentence of a name that has no template."""
    template = _template_of_name(one_line(event.name, VALUE_CHARS_MAX))
    return sentence(template, event) if template else _did(event.name)


def _did(name: str) -> Sentence:
    shown = one_line(name, VALUE_CHARS_MAX)
    return (Part("did "), Part(shown, is_set_off=True)) if shown else (Part("did something"),)


@lru_cache(maxsize=4096)
def _template_of_name(name: str) -> str | None:
    words = _WORDS.findall(name)
    lower = [word if word.isupper() and len(word) > 1 else word.lower() for word in words]
    lower = [_PARTICIPLES.get(word, word) for word in lower]
    if not 1 < len(words) <= _NAME_WORDS_MAX or "".join(words) != re.sub(r"[\W_]+", "", name):
        # One word, prose, or letters that the rules below say nothing of.
        return f"{lower[0]}{_DETAILS}" if len(words) == 1 and _is_past(lower[0]) else None
    if _is_past(lower[0]):
        return f"{' '.join(lower)}{_DETAILS}"
    if _is_past(lower[-1]):
        return f"{lower[-1]} {_with_article(lower[:-1])}{_DETAILS}"
    verbs = [number for number, word in enumerate(lower) if _is_past(word)]
    if len(verbs) == 1 and verbs[0] > 0:
        at = verbs[0]
        return f"{lower[at]} {_with_article(lower[:at])} {' '.join(lower[at + 1 :])}{_DETAILS}"
    return None


def _is_past(word: str) -> bool:
    if word in _NOT_VERBS or not word.isascii():
        return False
    return word.lower() in _IRREGULAR or (len(word) > _BED and word.lower().endswith("ed"))


def _with_article(words: Sequence[str]) -> str:
    noun = words[-1]
    text = " ".join(words)
    is_plural = noun.endswith("s") and not noun.endswith(("ss", "us", "is"))
    if is_plural or noun in _UNCOUNTABLE or noun.isdecimal() or words[0] in {"my", "your", "the"}:
        return text
    return f"{_article(words[0])} {text}"


def _article(word: str) -> str:
    if word.isupper() and len(word) > 1:
        return "an" if word[0] in "AEFHILMNORSX" else "a"
    if word.startswith(("uni", "use", "eu", "one")):
        return "a"
    return "an" if word[0] in "aeiou" else "a"


def text_of(parts: Sentence) -> str:
    """A sentence as plain text."""
    return "".join(part.text for part in parts)
