"""Real payloads, written by nobody here, through real Kafka into real Postgres, held whole.

Each file goes through a worker of its own into a database of its own. What is expected of it
is written here: whose it is, when it happened, what every view holds, or why it is set aside.
What a sender put into `properties`, `context` and `traits` is looked up in the file, for the
files are kept beside this repository and never in it.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.verify import verify_database
from tests.conftest import fresh_database
from tests.payloads import real_payloads, real_records
from tests.views import stored_views
from tests.worker import PRODUCED_MS, produce, until_consumed, working

PRODUCED_US = PRODUCED_MS * 1000
# Workers at a time; each is small, and the broker is one.
WORKERS_MAX = 6

VIEWS = ("users", "user_ids", "groups", "feed", "audiences", "merges", "letters")

Row = dict[str, Any]
Whole = dict[str, list[Row]]


class Payload(NamedTuple):
    """A file, as bytes and as a value."""

    value: bytes
    record: Mapping[str, Any]

    def hashed(self, position: int = 0) -> str:
        """The message id of a call that has none."""
        salt = position.to_bytes(16, "big")
        return hashlib.blake2b(self.value, digest_size=16, salt=salt).hexdigest()


Expectation = Callable[[Payload], Whole]


# Rows of the views ------------------------------------------------------------------------------


def us(text: str) -> int:
    """Microseconds of a time."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def whole(**views: list[Row]) -> Whole:
    """Every view, those that are not given empty."""
    return {view: sorted(views.get(view, []), key=repr) for view in VIEWS}


def user(user_id: str, first: int, last: int | None = None, **columns: Any) -> Row:  # noqa: ANN401 - a view's columns
    absent = dict.fromkeys(("email", "name", "phone", "avatar", "group_id"))
    seen = {"first_seen_at": first, "last_seen_at": first if last is None else last}
    return {
        "user_id": user_id, **absent, "traits": {}, "identified": False, **seen, **columns,
    }  # fmt: skip


def identity(kind: str, value: str, user_id: str | None, message_id: str | None, at: int) -> Row:
    return {
        "kind": kind, "value": value, "user_id": user_id, "message_id": message_id,
        "since": None if message_id is None else at,
    }  # fmt: skip


def nobodys(kind: str, value: str) -> Row:
    return identity(kind, value, None, None, 0)


def event(message_id: str, user_id: str | None, call: Mapping[str, Any], **columns: Any) -> Row:  # noqa: ANN401 - a view's columns
    """A row of the feed; properties and context are what the call says."""
    return {
        "message_id": message_id, "user_id": user_id, "anonymous_id": None, "type": "track",
        "name": call.get("event"), "category": "analytics", "hidden": False,
        "occurred_at": PRODUCED_US, "received_at": PRODUCED_US,
        "properties": call.get("properties"), "context": call.get("context"), **columns,
    }  # fmt: skip


def merge(message_id: str, previous_id: str, user_id: str, at: int) -> Row:
    return {
        "message_id": message_id, "previous_id": previous_id, "user_id": user_id,
        "occurred_at": at, "undone_at": None,
    }  # fmt: skip


def audience(name: str, computation_class: str) -> Row:
    return {
        "name": name, "computation_class": computation_class, "last_synced_at": PRODUCED_US,
        "members_count": 1,
    }  # fmt: skip


# What is expected of many -----------------------------------------------------------------------


def tracked(
    user_id: str,
    category: str = "analytics",
    *,
    message_id: str | None = None,
    visitor: str | None = None,
    at: int = PRODUCED_US,
    received_at: int = PRODUCED_US,
    **columns: Any,  # noqa: ANN401 - a view's columns
) -> Expectation:
    """One event of one user, who thereby exists and has whatever visitor the call carries."""

    def expected(payload: Payload) -> Whole:
        id_ = message_id or payload.hashed()
        visitors = [] if visitor is None else [identity("anonymous", visitor, user_id, id_, at)]
        return whole(
            users=[user(user_id, at)],
            user_ids=[identity("user", user_id, user_id, id_, at), *visitors],
            feed=[
                event(
                    id_, user_id, payload.record, category=category, anonymous_id=visitor,
                    occurred_at=at, received_at=received_at, **columns,
                )
            ],
        )  # fmt: skip

    return expected


def aliased(
    previous_id: str,
    user_id: str,
    at: int = PRODUCED_US,
    message_id: str | None = None,
    visitor: str | None = None,
) -> Expectation:
    """Two users that are one, named as the alias says."""

    def expected(payload: Payload) -> Whole:
        id_ = message_id or payload.hashed()
        visitors = [] if visitor is None else [identity("anonymous", visitor, user_id, id_, at)]
        return whole(
            users=[user(user_id, at)],
            user_ids=[
                identity("user", previous_id, user_id, id_, at),
                identity("user", user_id, user_id, id_, at),
                *visitors,
            ],
            merges=[merge(id_, previous_id, user_id, at)],
        )

    return expected


def synced(user_id: str, name: str, computation_class: str) -> Expectation:
    """An audience or computed trait of Engage, with its one member."""

    def expected(payload: Payload) -> Whole:
        return whole(
            users=[
                user(user_id, PRODUCED_US, traits=payload.record["traits"], identified=True)
            ],
            user_ids=[identity("user", user_id, user_id, payload.hashed(), PRODUCED_US)],
            audiences=[audience(name, computation_class)],
        )  # fmt: skip

    return expected


def refused(reason: str, detail: str) -> Expectation:
    def expected(payload: Payload) -> Whole:
        return whole(
            letters=[
                {
                    "partition": 0, "offset": 0, "position": 0, "reason": reason, "detail": detail,
                    "record_timestamp": PRODUCED_US, "key": b"k", "value": payload.value,
                    "headers": '[["source", "dGVzdA=="]]', "replayed_at": None,
                    "discarded_at": None,
                }
            ]
        )  # fmt: skip

    return expected


# What is expected of one ------------------------------------------------------------------------


def identified_with_nulls(payload: Payload) -> Whole:
    kept = {key: value for key, value in payload.record["traits"].items() if value is not None}
    id_ = payload.hashed()
    return whole(
        users=[
            # The phone is shown as sent, but names nobody: it is none.
            user("user-id", PRODUCED_US, email="jd@example.com", name="john doe",
                 phone="5555-5555", traits=kept, identified=True)
        ],
        user_ids=[
            identity("user", "user-id", "user-id", id_, PRODUCED_US),
            identity("email", "jd@example.com", "user-id", id_, PRODUCED_US),
        ],
    )  # fmt: skip


def identified_fully(payload: Payload) -> Whole:
    at, id_, user_id = us("2015-02-23T22:28:55.111"), payload.record["messageId"], "97980cfea0067"
    visitor = payload.record["anonymousId"]
    return whole(
        users=[
            user(user_id, at, email="peter@example.com", name="Peter Gibbons",
                 traits=payload.record["traits"], identified=True)
        ],
        user_ids=[
            identity("user", user_id, user_id, id_, at),
            identity("anonymous", visitor, user_id, id_, at),
            identity("email", "peter@example.com", user_id, id_, at),
        ],
    )  # fmt: skip


def visitor_of_nobody(payload: Payload) -> Whole:
    return whole(user_ids=[nobodys("anonymous", payload.record["anonymousId"])])


def event_by_email_alone(payload: Payload) -> Whole:
    at = us("2014-01-01")
    return whole(
        user_ids=[nobodys("email", "jd@example.com")],
        feed=[event(payload.hashed(), None, payload.record, occurred_at=at)],
    )


def grouped(payload: Payload) -> Whole:
    at, id_, user_id = us("2015-02-23T22:28:55.111"), payload.record["messageId"], "97980cfea0067"
    group_id = "0e8c78ea9d97a7b8185e8632"
    return whole(
        users=[user(user_id, at, group_id=group_id)],
        user_ids=[
            identity("user", user_id, user_id, id_, at),
            identity("anonymous", payload.record["anonymousId"], user_id, id_, at),
        ],
        groups=[{"group_id": group_id, "traits": payload.record["traits"], "members_count": 1}],
    )


def batch_of_two_users(payload: Payload) -> Whole:
    context = payload.record["context"]
    calls = payload.record["batch"]
    jake, cindy = "019mr8mf4r", "971mj8mk7p"
    # "2015-2-02" is read, though it is no ISO 8601.
    at = [us("2012-12-02T00:30:08.276"), us("2012-12-02T00:30:12.984"),
          us("2015-02-02T00:30:08.276"), us("2015-02-02T00:30:12.984")]  # fmt: skip
    return whole(
        users=[
            user(jake, at[0], at[1], email="jake@yahoo.com", name="Jake Peterson",
                 traits=calls[0]["traits"], identified=True),
            user(cindy, at[2], at[3], email="cindy@example.com", name="Cindy Gonzalez",
                 traits=calls[2]["traits"], identified=True),
        ],
        user_ids=[
            identity("user", jake, jake, payload.hashed(0), at[0]),
            identity("email", "jake@yahoo.com", jake, payload.hashed(0), at[0]),
            identity("user", cindy, cindy, payload.hashed(2), at[2]),
            identity("email", "cindy@example.com", cindy, payload.hashed(2), at[2]),
        ],
        feed=[
            event(payload.hashed(1), jake, calls[1], occurred_at=at[1], context=context),
            event(payload.hashed(3), cindy, calls[3], occurred_at=at[3], context=context),
        ],
    )  # fmt: skip


def batch_of_one_identify(_payload: Payload) -> Whole:
    at = us("2009-11-10T23:00:00")
    return whole(
        users=[user("B", at, identified=True)],
        user_ids=[identity("user", "B", "B", "I'm unique", at)],
    )


def batch_of_one_message_id(payload: Payload) -> Whole:
    at = us("2009-11-10T23:00:00")
    first = payload.record["batch"][0]
    assert first["properties"]["version"] == 0
    return whole(
        users=[user("123456", at)],
        user_ids=[identity("user", "123456", "123456", "I'm unique", at)],
        feed=[
            event("I'm unique", "123456", first, occurred_at=at, context=payload.record["context"])
        ],
    )


DOCS_MESSAGE = "022bb90c-bbac-11e4-8dfc-aa07a5b093db"
DOCS_VISITOR = "507f191e810c19729de860ea"
DOCS_AT = us("2015-02-23T22:28:55.111")
COURSE: Row = {
    "message_id": "ajs-f8ca1e4de5024d9430b3928bd8ac6b96",
    "visitor": "23adfd82-aa0f-45a7-a756-24f2a7a4c895",
    "at": us("2015-12-12T19:11:01.249"),
    "received_at": us("2015-12-12T19:11:01.266"),
}

EXPECTED: dict[str, Expectation] = {
    "b2b-account-removed-user.json": tracked("019mr8mf4r", "lifecycle"),
    "b2b-invite-sent.json": tracked("019mr8mf4r", "lifecycle"),
    "b2b-trial-started.json": tracked("019mr8mf4r", "lifecycle"),
    "boneyard-google-analytics-completed-order-basic.json": tracked("user-id"),
    "boneyard-google-analytics-refunded-order-partial.json": tracked("user-id"),
    "boneyard-hubspot-identify-null.json": identified_with_nulls,
    "boneyard-iterable-identify-advanced.json": visitor_of_nobody,
    "boneyard-iterable-track-email-no-userId.json": event_by_email_alone,
    # The email in its properties is whom the order is for, not who came.
    "boneyard-iterable-track-purchase.json": tracked("some-uid", at=us("2014-01-01")),
    "boneyard-kissmetrics-alias-basic.json": aliased("previous-id", "user-id", us("2014-01-01")),
    "boneyard-mixpanel-track-context.json": tracked("999999", at=us("2016-01-01")),
    # The messageId in its properties is not the call's.
    "copilot-message-sent-action-envelope.json": tracked("123", "support"),
    "docs-alias-full.json": aliased(
        "39239-239239-239239-23923", "507f191e81", DOCS_AT, DOCS_MESSAGE, DOCS_VISITOR
    ),
    # The id that was aliased away is an email, and the user's name is not.
    "docs-alias-minimal.json": aliased("jen@email.com", "507f191e81"),
    "docs-group-full.json": grouped,
    "docs-http-batch.json": batch_of_two_users,
    "docs-identify-full.json": identified_fully,
    "docs-screen-full.json": tracked(
        "97980cfea0067", message_id=DOCS_MESSAGE, visitor="3a12eab0-bca7-11e4-8dfc-aa07a5b093db",
        at=DOCS_AT, received_at=us("2015-02-23T22:28:55.387"), type="screen", name="Home",
    ),
    "docs-track-clock-skew.json": tracked("AiUGstSDIg", **COURSE),
    # Its context.groupId sets nothing.
    "docs-track-common-full.json": tracked(
        "97980cfea0067", message_id=DOCS_MESSAGE, visitor=DOCS_VISITOR,
        at=us("2015-12-10T04:08:31.905"), received_at=us("2015-12-10T04:08:31.909"),
    ),
    # Its context.traits set nothing: it is no identify.
    "docs-track-context-traits.json": tracked("AiUGstSDIg", **COURSE),
    "email-link-clicked-snakecase-envelope.json": tracked("019mr8mf4r", "email"),
    "engage-identify-audience.json": synced("u123", "first_time_shopper", "audience"),
    "engage-identify-computed-trait.json": synced("u123", "total_revenue_180_days", "trait"),
    "engage-journey-v1-string-true.json": refused(
        "missing_id", "neither userId nor anonymousId, and no email or phone"
    ),
    "engage-journey-v2-track.json": refused("unknown_type", "type: missing"),
    "engage-track-audience-entered.json": tracked("u123"),
    "engage-track-trait-computed.json": tracked("u123"),
    "go-test-enqueue-alias.json": aliased("A", "B", us("2009-11-10T23:00:00"), "I'm unique"),
    "go-test-enqueue-identify.json": batch_of_one_identify,
    "go-test-many-track.json": batch_of_one_message_id,
    "jitsu-page.json": tracked(
        "userId2", message_id="d0c6abf6-97f7-487a-a197-8f236c728fa8",
        visitor="6638caf0-d2c2-4bc0-aecf-8b290b559a37", at=us("2022-11-14T08:56:34.395"),
        type="page", hidden=True,
    ),
    "livechat-message-received.json": tracked("019mr8mf4r", "support"),
    "mobile-push-notification-tapped.json": tracked("019mr8mf4r"),
    "video-ad-playing.json": tracked("userId"),
}  # fmt: skip


# What is there ----------------------------------------------------------------------------------

LETTERS = """
SELECT partition, "offset", position, reason, detail,
    (extract(epoch FROM record_timestamp) * 1000000)::bigint AS record_timestamp,
    key, value, headers, replayed_at, discarded_at
FROM windsor.dead_letters
"""


async def consumed(kafka: str, postgres: str, topic: str, value: bytes) -> Whole:
    """What a worker makes of one record in an empty database."""
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(fresh_database(postgres))
        await produce(kafka, topic, [value])
        # In one lane, of different calls of one messageId the first sent stays.
        async with working(kafka, topic, dsn, group=topic, lanes=1):
            await until_consumed(kafka, topic, group=topic)
        connection = await asyncpg.connect(dsn)
        letters = [dict(row) for row in await connection.fetch(LETTERS)]
        await connection.close()
        assert (await verify_database(dsn)).differences == 0
        return {**await stored_views(dsn), "letters": letters}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stored(kafka_server: str, postgres_server: str) -> AsyncIterator[dict[str, Whole]]:
    payloads = real_payloads()
    topics = {name: f"payload-{number}" for number, name in enumerate(payloads)}
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1) for topic in topics.values()])
    turn = asyncio.Semaphore(WORKERS_MAX)

    async def of(name: str) -> Whole:
        async with turn:
            return await consumed(kafka_server, postgres_server, topics[name], payloads[name])

    found = await asyncio.gather(*map(of, payloads))
    await admin.delete_topics(list(topics.values()))
    await admin.close()
    yield dict(zip(payloads, found, strict=True))


def test_every_payload_has_its_expectation() -> None:
    assert set(EXPECTED) == set(real_payloads())


@pytest.mark.parametrize("name", EXPECTED)
def test_payload_is_stored_whole_or_set_aside(stored: dict[str, Whole], name: str) -> None:
    payload = Payload(real_payloads()[name], real_records()[name])

    assert stored[name] == EXPECTED[name](payload)
