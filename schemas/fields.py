"""What is accepted of a call, field by field: the one table that documents are made from.

`schemas.segment` has the same fields as they are decoded; a test fails when the two part.

Source: docs/identity.md, "Ids", "The clock"; docs/contract.md, "What is refused".
"""

from typing import Annotated, Any, Final, NamedTuple, TypeAlias

from msgspec import Meta

# Blanks around an id do not count, and NUL is in none.
_ID: Final = r"^\s*(?:[^\s\u0000](?:[^\u0000]{0,510}[^\s\u0000])?)?\s*$"

Id: TypeAlias = Annotated[str, Meta(pattern=_ID)] | int | None
MessageId: TypeAlias = Annotated[str, Meta(pattern=r"^[^\u0000]{0,512}$")] | int | None
# PHP sends its empty object as an empty array.
Part: TypeAlias = dict[str, Any] | Annotated[list[Any], Meta(max_length=0)] | None

CALL_TYPES: Final = ("identify", "track", "page", "screen", "group", "alias")


class Field(NamedTuple):
    """One field of a call."""

    name: str
    read_as: Any
    """The type that is accepted of every call; Any where another reading is not refused, or
    depends on the call's type (`REQUIRED`, `TYPED`)."""
    type_words: str
    calls: str
    does: str
    refused: str = ""
    """With which reason, and when."""
    also: str = ""
    """Another name, read where the first is absent or null."""


_ID_REFUSED: Final = (
    "`invalid_field`: another type, a fraction, or NUL within; "
    "`id_too_long`: over 512 characters after trimming"
)
_PERSON: Final = "string or integer; trimmed, empty is absent"
_TIME: Final = "ISO 8601 text, or epoch seconds or milliseconds"
_UNREAD: Final = "nothing: what cannot be read counts as absent"
_PART_REFUSED: Final = (
    "`invalid_field`: another type, a NUL in a key, or a number beyond Postgres' `numeric`"
)
_PART: Final = "object; null and an empty array are an absent one"

FIELDS: Final = (
    Field(
        "type", Any, "string, in any case", "all",
        "says which of the six calls it is",
        "`unknown_type`: missing, no string, or none of the six", also="action",
    ),
    Field(
        "userId", Id, _PERSON, "all; alias needs it",
        "names the user whose call it is, and makes them exist",
        f"{_ID_REFUSED}; `blocked_id`: a junk id where nothing else names anybody, and in an "
        "alias; `missing_id`: no id, email or phone at all; `missing_field`: an alias without it",
        also="user_id",
    ),
    Field(
        "anonymousId", Id, _PERSON, "all",
        "names the visitor; beside `userId` the visitor becomes that user's",
        f"{_ID_REFUSED}; `blocked_id`, `missing_id`: as for `userId`", also="anonymous_id",
    ),
    Field(
        "previousId", Any, _PERSON, "alias",
        "whose user is merged into the user of `userId`; `anonymousId` stands in for it",
        f"{_ID_REFUSED}; `blocked_id`: a junk id; `missing_field`: neither it nor `anonymousId`",
        also="previous_id",
    ),
    Field(
        "groupId", Any, _PERSON, "group",
        "the one group of whoever the call is by, from its time on",
        f"{_ID_REFUSED}; `missing_field`: missing or empty", also="group_id",
    ),
    Field(
        "messageId", MessageId, "string or integer; kept untrimmed, empty is absent", "all",
        "tells a redelivery from another call; without it, a hash of the record's value and the "
        "call's place in it",
        "`invalid_field`: another type, a fraction, or NUL within; "
        "`id_too_long`: over 512 characters", also="message_id",
    ),
    Field(
        "event", Any, "string; NUL becomes U+FFFD", "track", "the event's name in the feed",
        "`missing_field`: missing or empty; `invalid_field`: another type",
    ),
    Field(
        "name", Any, "string; NUL becomes U+FFFD", "page, screen",
        "the page's or screen's name in the feed", "`invalid_field`: another type",
    ),
    Field(
        "timestamp", Any, _TIME, "all",
        "when it happened; over 24 h after the record's own timestamp, or before the year 2000, "
        "the record's is taken", _UNREAD,
    ),
    Field(
        "originalTimestamp", Any, _TIME, "all",
        "when it happened by the sender's clock, where there is no `timestamp`: "
        "`receivedAt - (sentAt - originalTimestamp)`", _UNREAD, also="original_timestamp",
    ),
    Field(
        "receivedAt", Any, _TIME, "all",
        "shown in the feed, and when it happened where nothing else says so", _UNREAD,
        also="received_at",
    ),
    Field(
        "sentAt", Any, _TIME, "all", "corrects `originalTimestamp`", _UNREAD, also="sent_at",
    ),
    Field(
        "properties", Part, _PART, "track, page, screen",
        "kept in the feed; its `email` or `phone` says whom a track of an email, support, payment "
        "or SMS tool is about", _PART_REFUSED,
    ),
    Field(
        "context", Part, _PART, "all",
        "kept in the feed; `traits` in it stand in for absent ones of an identify, and for "
        "contacts; `personas` make an identify an audience's or computed trait's", _PART_REFUSED,
    ),
    Field(
        "traits", Part, _PART, "identify, group",
        "set key by key on the user, or on the group; null removes; of an identify with a "
        "`userId`, `email` and `phone` claim those contacts", _PART_REFUSED,
    ),
    Field(
        "integrations", Any, "any", "all",
        '`"Windsor": false` leaves the call out: skipped, and counted', "nothing",
    ),
    Field(
        "batch", Any, "array of calls", "an envelope",
        "each is a call of its own; the envelope lends `context` (a call's own keys win), "
        "`integrations`, `sentAt` and `receivedAt`",
        "`not_a_call`: no array and no call either, or an envelope within an envelope",
    ),
    Field(
        "httpPayload", Any, "object", "an envelope",
        "the call, or the batch, that it holds is taken in place of what is around it",
        "`not_a_call`: an envelope within it again",
    ),
)  # fmt: skip
"""In the order of the document; unknown fields are ignored."""

REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "track": ("event",),
    "group": ("groupId",),
    "alias": ("userId",),
}
TYPED: Final[dict[str, dict[str, Any]]] = {
    "track": {"event": Annotated[str, Meta(min_length=1)]},
    "page": {"name": str | None},
    "screen": {"name": str | None},
    "group": {"groupId": Id},
    "alias": {"previousId": Id},
}
"""What a field must be in calls of one type only."""
