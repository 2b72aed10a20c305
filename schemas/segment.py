"""Segment's calls as they cross the topic, as lenient as senders are.

Parts that are stored as they are (`properties`, `context`, `traits`) stay raw JSON, and
fields whose type senders get wrong are read as anything, to be refused with a clear word
rather than by a decoding error.

Source: https://segment.com/docs/connections/spec/common/; docs/contract.md, "The fields of a call".
"""

from typing import Any

import msgspec

RAW_ABSENT = msgspec.Raw(b"")


class WireCall(msgspec.Struct, gc=False):
    """One call; unknown fields are ignored."""

    type: Any = None
    action: Any = None
    user_id: Any = msgspec.field(default=None, name="userId")
    user_id_snake: Any = msgspec.field(default=None, name="user_id")
    anonymous_id: Any = msgspec.field(default=None, name="anonymousId")
    anonymous_id_snake: Any = msgspec.field(default=None, name="anonymous_id")
    previous_id: Any = msgspec.field(default=None, name="previousId")
    previous_id_snake: Any = msgspec.field(default=None, name="previous_id")
    group_id: Any = msgspec.field(default=None, name="groupId")
    group_id_snake: Any = msgspec.field(default=None, name="group_id")
    message_id: Any = msgspec.field(default=None, name="messageId")
    message_id_snake: Any = msgspec.field(default=None, name="message_id")
    event: Any = None
    name: Any = None
    timestamp: Any = None
    original_timestamp: Any = msgspec.field(default=None, name="originalTimestamp")
    original_timestamp_snake: Any = msgspec.field(default=None, name="original_timestamp")
    received_at: Any = msgspec.field(default=None, name="receivedAt")
    received_at_snake: Any = msgspec.field(default=None, name="received_at")
    sent_at: Any = msgspec.field(default=None, name="sentAt")
    sent_at_snake: Any = msgspec.field(default=None, name="sent_at")
    properties: msgspec.Raw = RAW_ABSENT
    context: msgspec.Raw = RAW_ABSENT
    traits: msgspec.Raw = RAW_ABSENT
    integrations: msgspec.Raw = RAW_ABSENT
    batch: msgspec.Raw = RAW_ABSENT
    http_payload: msgspec.Raw = msgspec.field(default=RAW_ABSENT, name="httpPayload")
