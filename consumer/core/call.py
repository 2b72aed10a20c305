"""The values that travel through the worker: records in, calls and refusals out.

A *record* is what Kafka delivers. Decoding turns it into one or more outcomes: a
`Call` (one Segment message, normalised), a `Rejected` (a dead letter to be), or a
`Skipped` (neither stored nor an error, but counted).

Source: docs/identity.md, "Calls and identities"; docs/contract.md, "What is refused".
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias, cast

import msgspec

CallType: TypeAlias = Literal["identify", "track", "page", "screen", "group", "alias"]
IdentityKind: TypeAlias = Literal["user", "anonymous", "email", "phone"]

RejectReason: TypeAlias = Literal[
    "malformed_json",
    "not_a_call",
    "unknown_type",
    "missing_id",
    "blocked_id",
    "id_too_long",
    "missing_field",
    "invalid_field",
    "too_large",
    "too_deep",
    "rejected_by_database",
]
SkipReason: TypeAlias = Literal["tombstone", "integrations", "expired"]


class Record(Protocol):
    """What the core needs of a Kafka record; aiokafka's `ConsumerRecord` fits.

    `timestamp` is in milliseconds since the epoch, -1 where the record has none.
    """

    @property
    def topic(self) -> str:
        """The topic it was read from."""

    @property
    def partition(self) -> int:
        """The partition it was read from."""

    @property
    def offset(self) -> int:
        """Its offset in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch, -1 for none."""

    @property
    def key(self) -> bytes | None:
        """Any bytes, or none; not used to route."""

    @property
    def value(self) -> bytes | None:
        """One JSON call or an envelope; None is a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Kept on dead letters."""


class Identity(NamedTuple):
    """Whom a call points at: a user id, a visitor's anonymous id, or a contact."""

    kind: IdentityKind
    value: str


class Clock(NamedTuple):
    """The position of a call in the log; compares as docs/identity.md, "The clock", says.

    Code points of a `str` order as its UTF-8 bytes do, so tuples compare as Postgres
    compares `(timestamptz, text COLLATE "C")`.
    """

    at: int
    """Microseconds since the epoch, UTC."""
    message_id: str


class AudienceSync(NamedTuple):
    """What `context.personas` says of an identify call."""

    name: str
    computation_class: str | None


class Call(msgspec.Struct, gc=False):
    """One Segment call, normalised and ready to be stored and applied.

    `properties`, `context` and `traits` are JSON objects as raw bytes, safe for jsonb.
    `trait_values` (identify and group only) maps each effective trait to its raw JSON
    value, `b"null"` for one that is removed; an identify without `traits` takes those
    of `context.traits`.
    """

    type: CallType
    at: int
    """Microseconds since the epoch, UTC."""
    message_id: str
    message_key: bytes
    """16 bytes: BLAKE2b of the message id's UTF-8."""
    record: Record
    position: int
    """Place in a batch envelope, 0 for a record that is one call."""
    received_at: int
    """Microseconds since the epoch, UTC."""
    user_id: str | None = None
    anonymous_id: str | None = None
    contact: Identity | None = None
    """The email or phone that the call came by, where it points at that."""
    previous_id: str | None = None
    """Alias only: `previousId`, or `anonymousId` where that stands in for it."""
    group_id: str | None = None
    name: str | None = None
    """The event's, page's or screen's."""
    category: str | None = None
    properties: bytes | None = None
    context: bytes | None = None
    traits: bytes | None = None
    trait_values: dict[str, bytes] | None = None
    claims: tuple[Identity, ...] = ()
    """Contacts (email, phone) that an identify with a `userId` claims."""
    audience: AudienceSync | None = None
    timestamp_replaced: bool = False
    """The call's own timestamp was implausible and the record's was taken."""
    size: int = 0
    """Bytes of JSON, for the bound on a batch."""

    @property
    def clock(self) -> Clock:
        """Its position in the log."""
        return Clock(self.at, self.message_id)

    @property
    def identity(self) -> Identity:
        """Whom it points at: its user id, else the contact it came by, else its visitor."""
        if self.user_id is not None:
            return Identity("user", self.user_id)
        return self.contact or Identity("anonymous", cast("str", self.anonymous_id))


class Rejected(msgspec.Struct, gc=False, frozen=True):
    """A record, or one call of a batch envelope, that cannot be applied."""

    record: Record
    position: int
    reason: RejectReason
    detail: str
    """What is wrong and where, for a person: `traits.plan[3]: number beyond numeric`."""


class Skipped(msgspec.Struct, gc=False, frozen=True):
    """Neither stored nor an error; counted by reason."""

    reason: SkipReason


Outcome: TypeAlias = Call | Rejected | Skipped


class RefusedError(Exception):
    """A call cannot be applied; the decoder makes it a `Rejected`, it goes no further."""

    def __init__(self, reason: RejectReason, field: str, words: str) -> None:
        """Say why.

        Args:
            reason: The dead letter's.
            field: Where in the call, empty for all of it.
            words: What is wrong, for a person.
        """
        super().__init__(f"{field}: {words}" if field else words)
        self.reason = reason
        self.field = field
        self.words = words
