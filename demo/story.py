"""A small startup's month, as its senders would put it on a topic.

The same seed tells the same story to the byte: people browse, sign up on two devices, try,
buy, open e-mails, open tickets, are charged, get text messages, join companies and audiences,
and are merged; some calls come late or twice, and a few records are broken. Arrival order is
the order of the list.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from consumer.core.call import RejectReason

SEED = 20_261_001
_START = datetime(2026, 10, 1, tzinfo=UTC)
_DAYS = 31

_FIRST_NAMES = (
    *("Amara", "Ben", "Chiara", "Dmitri", "Elif", "Femi", "Grace", "Hiro", "Ines", "Jonas"),
    *("Kavya", "Liam", "Mei", "Noor", "Otto", "Priya", "Quinn", "Rosa", "Sven", "Tariq"),
)
_LAST_NAMES = (
    *("Abara", "Bauer", "Conti", "Diaz", "Eriksen", "Fofanah", "Gupta", "Haas", "Ito", "Jansen"),
    *("Kovacs", "Moreau", "Nakamura", "Okafor", "Petrov", "Rossi", "Silva", "Tanaka", "Vance"),
)
_COMPANIES = [
    "Larkspur Labs",
    "Tin Kite",
    "Northfold",
    "Okra & Co",
    "Pale Blue Bikes",
    "Quillworks",
]
_FEATURES = ["Board Created", "Card Moved", "Report Exported", "Filter Saved", "Comment Added"]
_BOARDS = ["Roadmap", "Launch", "Hiring", "Q4 plans", "Bug hunt"]
_PAGES = ["Home", "Pricing", "Docs", "Blog", "Sign Up"]
_PRODUCTS = [("board-s", "Board S", 19.0), ("board-l", "Board L", 49.0), ("pens", "Pens", 6.5)]


class StoryRecord(NamedTuple):
    """One record of the story."""

    value: bytes | None
    timestamp_ms: int
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    expect: RejectReason | None = None
    """The reason of the dead letter that it becomes."""


class _Person(NamedTuple):
    user_id: str
    first: str
    last: str
    email: str
    phone: str
    visitor: str
    second_device: str | None
    company: int
    snake_case: bool


def story(seed: int = SEED) -> list[StoryRecord]:
    """Tell the month."""
    rng = random.Random(seed)
    records: list[StoryRecord] = []
    people = [_person(rng, number) for number in range(140)]
    for person in people:
        records += _sign_up(rng, person)
        records += _daily_use(rng, person)
        if rng.random() < 0.5:
            records += _orders(rng, person)
        records += _contacts(rng, person)
    for number in range(170):
        records += _passer_by(rng, number)
    records += _merged_people(rng, people)
    records += _audiences(rng, people)
    records += _server_batches(rng, people)
    records += _broken()
    records += [record for record in rng.sample(records, 150) if record.expect is None]
    return sorted(records, key=lambda record: record.timestamp_ms)


def live(now_ms: int, number: int) -> StoryRecord:
    """One more small thing that happens now: the month goes on."""
    rng = random.Random(SEED + number)
    people = rng.randrange(140)
    person = _person(random.Random(SEED + people), people)
    call = _call("track", person, datetime.fromtimestamp(now_ms / 1000, UTC), rng)
    call |= {"messageId": f"live-{now_ms}-{number}"} | _happening(rng)
    return StoryRecord(_json(call), now_ms, person.user_id.encode())


def _happening(rng: random.Random) -> dict[str, Any]:
    """What a live call says: mostly work, now and then the rest of a customer's life."""
    product_id, name, price = rng.choice(_PRODUCTS)
    order = {"order_id": rng.randint(1000, 9999), "total": price, "currency": "USD"}
    mail = {"email_subject": "What is new in October"}
    kinds: list[tuple[int, dict[str, Any]]] = [
        (9, {"event": rng.choice(_FEATURES), "properties": {"name": rng.choice(_BOARDS)}}),
        (3, {"type": "page", "name": rng.choice(_PAGES), "properties": {}}),
        (2, {"event": "Product Viewed", "properties": {"product_id": product_id, "name": name}}),
        (1, {"event": "Order Completed", "properties": order}),
        (1, {"event": "Charge Succeeded", "properties": {"amount": price, "currency": "usd"}}),
        (2, {"event": "Email Opened", "properties": mail}),
        (1, {"event": "Email Link Clicked", "properties": mail}),
        (1, {"event": "Ticket Created", "properties": {"subject": "Can I undo an import?"}}),
        (1, {"event": "Called Support", "properties": {"subject": "billing"}}),
        (1, {"event": "SMS Delivered", "properties": {"body": "Your code is on its way"}}),
        (1, {"event": "Signed In", "properties": {}}),
        (1, {"event": "Plan Upgraded", "properties": {"plan": "Business"}}),
    ]
    (found,) = rng.choices([what for _, what in kinds], [weight for weight, _ in kinds])
    return found


# People --------------------------------------------------------------------------------------


def _person(rng: random.Random, number: int) -> _Person:
    first, last = rng.choice(_FIRST_NAMES), rng.choice(_LAST_NAMES)
    return _Person(
        user_id=str(10_000 + number) if number % 5 == 0 else f"usr_{number:04}",
        first=first,
        last=last,
        email=f"{first}.{last}{number}@example.com".lower(),
        phone=f"+1415555{2000 + number:04}",
        visitor=_uuid(rng),
        second_device=_uuid(rng) if rng.random() < 0.4 else None,
        company=number % len(_COMPANIES),
        snake_case=number % 7 == 0,
    )


def _sign_up(rng: random.Random, person: _Person) -> Iterator[StoryRecord]:
    """Pages as a visitor, then an account, perhaps on a second device too."""
    at = _moment(rng, 0, 20)
    for page in rng.sample(_PAGES, 3):
        at += timedelta(minutes=rng.randint(1, 30))
        yield _record(_browser("page", None, person.visitor, at, rng, name=page))
    traits: dict[str, Any] = {"email": person.email, "plan": "trial", "phone": person.phone}
    if person.snake_case:
        traits |= {"first_name": person.first, "last_name": person.last}
    else:
        traits |= {"firstName": person.first, "lastName": person.last}
        traits["avatar"] = f"https://avatars.example.com/{person.user_id}.png"
    at += timedelta(minutes=5)
    user = person.user_id
    yield _record(_browser("identify", user, person.visitor, at, rng, traits=traits))
    yield _record(_browser("track", user, person.visitor, at, rng, event="Signed Up"))
    yield _record(_browser("track", user, person.visitor, at, rng, event="Trial Started",
                           properties={"trial_plan_name": "Business"}))  # fmt: skip
    yield _record(_browser(
        "group", user, person.visitor, at, rng, groupId=f"co_{person.company}",
        traits={"name": _COMPANIES[person.company], "employees": 10 + person.company,
                "total billed": 830 * person.company, "plan": "team"},
    ))  # fmt: skip
    if person.second_device is not None:
        at += timedelta(days=1, minutes=rng.randint(1, 600))
        yield _record(_mobile("screen", None, person.second_device, at, rng, name="Welcome"))
        yield _record(_mobile("identify", user, person.second_device, at, rng,
                              traits={"logins": rng.randint(1, 9)}))  # fmt: skip
    if rng.random() < 0.3:
        # The browser's SDK sends an alias of a user to itself after identify.
        yield _record(_browser("alias", user, None, at, rng, previousId=user))


def _daily_use(rng: random.Random, person: _Person) -> Iterator[StoryRecord]:
    device = person.second_device or person.visitor
    for _ in range(rng.randint(10, 40)):
        at = _moment(rng, 21, _DAYS - 1)
        if rng.random() < 0.35:
            yield _record(_browser("page", person.user_id, device, at, rng, name="App"))
        else:
            call = _browser("track", person.user_id, device, at, rng, event=rng.choice(_FEATURES))
            # Phones send late, when they are back in reach of a network.
            late = timedelta(hours=rng.randint(1, 60)) if rng.random() < 0.04 else timedelta()
            yield _record(call, late)


def _orders(rng: random.Random, person: _Person) -> Iterator[StoryRecord]:
    at = _moment(rng, 21, _DAYS - 2)
    product_id, name, price = rng.choice(_PRODUCTS)
    quantity = rng.randint(1, 4)
    order = {
        "orderId" if person.snake_case else "order_id": rng.randint(1000, 9999),
        "total": price * quantity,
        "currency": "USD",
        "products": [
            {"product_id": product_id, "name": name, "price": price, "quantity": quantity}
        ],
    }
    yield _record(_call("track", person, at, rng, event="Order Completed", properties=order))
    # The payment provider knows no user id, only the e-mail.
    yield _record({
        "type": "track", "event": "Charge Succeeded", "messageId": _uuid(rng),
        "timestamp": _iso(at + timedelta(seconds=9)),
        "properties": {"amount": price * quantity, "currency": "usd", "email": person.email},
    })  # fmt: skip


def _contacts(rng: random.Random, person: _Person) -> Iterator[StoryRecord]:
    """What reaches people by mail, phone and ticket, from senders that know no user id."""
    for event in ("Email Delivered", "Email Opened", "Email Link Clicked")[: rng.randint(1, 3)]:
        at = _moment(rng, 21, _DAYS - 1)
        yield _record({
            "action": "track", "event": event, "timestamp": _iso(at), "messageId": _uuid(rng),
            "context": {"traits": {"email": person.email.title()}},
            "properties": {"email_subject": "Your trial ends soon", "campaign_name": "Trial"},
        })  # fmt: skip
    if rng.random() < 0.2:
        at = _moment(rng, 21, _DAYS - 1)
        yield _record({
            "type": "track", "event": "SMS Delivered", "timestamp": _iso(at),
            "messageId": _uuid(rng), "properties": {"phone": person.phone, "body": "Hello"},
        })  # fmt: skip
    if rng.random() < 0.25:
        at = _moment(rng, 21, _DAYS - 1)
        yield _record({
            "type": "Track", "user_id": person.user_id, "event": "Ticket Created",
            "timestamp": _iso(at), "message_id": _uuid(rng), "sentAt": None,
            "properties": {"subject": "How do I export?", "priority": "normal"},
        })  # fmt: skip


def _passer_by(rng: random.Random, number: int) -> Iterator[StoryRecord]:
    visitor = f"visitor-{number}"
    at = _moment(rng, 0, _DAYS - 1)
    for page in rng.sample(_PAGES, rng.randint(1, 4)):
        at += timedelta(minutes=rng.randint(1, 9))
        yield _record(_browser("page", None, visitor, at, rng, name=page))


def _merged_people(rng: random.Random, people: list[_Person]) -> Iterator[StoryRecord]:
    """Accounts made twice, old devices, a chain, and one merge that arrives days late."""
    at = _moment(rng, 25, 27)
    for old, new in ((people[3], people[4]), (people[4], people[5]), (people[8], people[9])):
        at += timedelta(hours=1)
        yield _record(_call("alias", new, at, rng, previousId=old.user_id))
    for person in people[20:30]:
        yield _record(_mobile("alias", person.user_id, f"ios-{person.user_id}", at, rng))
    late = _call("alias", people[12], at - timedelta(days=4), rng, previousId=people[13].user_id)
    yield _record(late, timedelta(days=4))


def _audiences(rng: random.Random, people: list[_Person]) -> Iterator[StoryRecord]:
    """A first audience sync, a journey's text, and a computed trait."""
    at = _moment(rng, 28, 28)
    for person in people[:60]:
        yield _sync(person, at, "power_users", "audience", rng.random() < 0.7)
    for person in people[40:70]:
        yield _sync(person, at, "onboarding_journey", "audience", "true")
    for person in people[:80]:
        revenue = round(rng.uniform(10, 900), 2)
        yield _sync(person, at, "total_revenue_30_days", "trait", revenue)


def _server_batches(rng: random.Random, people: list[_Person]) -> Iterator[StoryRecord]:
    """Envelopes as servers send them: a context for the whole batch, numeric ids."""
    for start in range(0, 60, 20):
        at = _moment(rng, 22, 26)
        batch = [
            {"type": "track", "userId": int(p.user_id) if p.user_id.isdigit() else p.user_id,
             "event": "Invoice Paid", "timestamp": _iso(at), "messageId": _uuid(rng),
             "properties": {"total": 49, "currency": "USD"}}
            for p in people[start : start + 20]
        ]  # fmt: skip
        library = {"library": {"name": "analytics-go", "version": "3.3.0"}}
        envelope = {"batch": batch, "context": library, "sentAt": _iso(at)}
        yield StoryRecord(_json(envelope), _ms(at), headers=(("source", b"billing"),))
    at = _moment(rng, 22, 22)
    call = _call("track", people[0], at, rng, event="Report Exported")
    yield StoryRecord(_json({"httpPayload": call}), _ms(at))


def _broken() -> Iterator[StoryRecord]:
    """What a worker meets in the wild and must set aside."""
    cases: list[tuple[bytes, RejectReason]] = [
        (b'{"type":"track","event":"Cut o', "malformed_json"),
        (b"\x00\x00\x00\x00\x01\x1aAvro", "malformed_json"),
        (b'["not","a","call"]', "not_a_call"),
        (b'{"type":"charge","userId":"usr_0001"}', "unknown_type"),
        (b'{"type":"track","event":"Nobody"}', "missing_id"),
        (b'{"type":"track","event":"Junk","userId":"null"}', "blocked_id"),
        (b'{"type":"alias","userId":"usr_0001","previousId":"undefined"}', "blocked_id"),
        (b'{"type":"group","userId":"usr_0001"}', "missing_field"),
        (b'{"type":"track","userId":"usr_0001"}', "missing_field"),
        (b'{"type":"track","event":"X","userId":"a\\u0000b"}', "invalid_field"),
        (b'{"type":"identify","userId":["usr_0001"]}', "invalid_field"),
        (b'{"type":"track","event":"Long","userId":"' + b"x" * 513 + b'"}', "id_too_long"),
    ]
    at = _START + timedelta(days=15)
    for number, (value, reason) in enumerate(cases):
        yield StoryRecord(value, _ms(at + timedelta(minutes=number)), expect=reason)
    yield StoryRecord(None, _ms(at), b"usr_gone")
    filtered = {"type": "track", "event": "X", "userId": "u", "integrations": {"Windsor": False}}
    yield StoryRecord(_json(filtered), _ms(at))


# Shapes --------------------------------------------------------------------------------------


def _call(
    type_: str, person: _Person, at: datetime, rng: random.Random, **fields: object
) -> dict[str, Any]:
    """A call as a server's SDK sends it."""
    return {
        "type": type_, "userId": person.user_id, "timestamp": _iso(at), "messageId": _uuid(rng),
        "context": {"library": {"name": "analytics-python", "version": "2.3.4"}}, **fields,
    }  # fmt: skip


def _browser(
    type_: str, user: str | None, visitor: str | None, at: datetime, rng: random.Random,
    **fields: object,
) -> dict[str, Any]:  # fmt: skip
    """A call as the browser's SDK sends it."""
    path = f"/{fields.get('name', 'app')}".lower().replace(" ", "-")
    return {
        "type": type_, "userId": user, "anonymousId": visitor,
        "messageId": f"ajs-next-{_ms(at)}-{_uuid(rng)}", "timestamp": _iso(at),
        "originalTimestamp": _iso(at), "receivedAt": _iso(at), "sentAt": _iso(at),
        "context": {
            "library": {"name": "analytics.js", "version": "next-1.81.0"},
            "page": {"path": path, "url": f"https://example.com{path}"}, "locale": "en-US",
            "userAgent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)",
        },
        "integrations": {}, "properties": {"path": path}, **fields,
    }  # fmt: skip


def _mobile(
    type_: str, user: str | None, visitor: str, at: datetime, rng: random.Random, **fields: object
) -> dict[str, Any]:
    """A call as a phone's SDK sends it."""
    call = {
        "type": type_, "anonymousId": visitor, "messageId": _uuid(rng), "timestamp": _iso(at),
        "channel": "mobile", "context": {"device": {"type": "ios"}, "os": {"name": "iOS"}},
        **fields,
    }  # fmt: skip
    return call if user is None else {**call, "userId": user}


def _sync(
    person: _Person, at: datetime, key: str, computation_class: str, value: object
) -> StoryRecord:
    call = {
        "type": "identify", "userId": person.user_id, "traits": {key: value},
        "timestamp": _iso(at), "messageId": f"personas_{key}_{person.user_id}",
        "context": {"personas": {
            "computation_class": computation_class, "computation_key": key,
            "computation_id": f"aud_{key}",
        }},
    }  # fmt: skip
    return StoryRecord(_json(call), _ms(at), person.user_id.encode())


def _record(call: dict[str, Any], late: timedelta = timedelta()) -> StoryRecord:
    at = datetime.fromisoformat(str(call["timestamp"]))
    key = call.get("userId") or call.get("anonymousId")
    return StoryRecord(_json(call), _ms(at + late), str(key).encode() if key else None)


def _moment(rng: random.Random, first_day: int, last_day: int) -> datetime:
    """Some time of some day; working hours, and working days more often."""
    day = rng.randint(first_day, last_day)
    moment = _START + timedelta(days=day)
    if moment.isoweekday() > 5 and rng.random() < 0.7:
        moment -= timedelta(days=min(2, day))
    return moment + timedelta(
        hours=8 + rng.betavariate(2, 2) * 12, milliseconds=rng.randint(0, 999)
    )


def _json(call: object) -> bytes:
    return json.dumps(call, separators=(",", ":")).encode()


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _uuid(rng: random.Random) -> str:
    text = f"{rng.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
