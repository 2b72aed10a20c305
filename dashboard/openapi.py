"""The endpoint as an OpenAPI document, made from structs: `/openapi.json`.

The structs say what senders should send; the endpoint takes more (ids in snake_case, types
in any case, unknown fields), so nothing is decoded into them.

Source: docs/contract.md, "The fields of a call".
"""

from importlib.metadata import version
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from dashboard.stamp import BATCH_CALLS_MAX, BODY_BYTES_MAX, CALL_BYTES_MAX

Json = dict[str, Any]
Id = Annotated[
    str | int | None,
    Meta(description="At most 512 characters, trimmed; ids that name nobody count as absent."),
]
Part = Annotated[dict[str, Any] | None, Meta(description="Any JSON object.")]
Time = Annotated[
    str | int | float | None, Meta(description="ISO 8601, or seconds or milliseconds since 1970.")
]
Key = Annotated[str | None, Meta(description="The source's token, where no header has it.")]


class CallFields(msgspec.Struct, rename="camel", kw_only=True):
    """What every call may say; one of `userId` and `anonymousId` it must."""

    user_id: Id = None
    anonymous_id: Id = None
    message_id: Annotated[
        str | None, Meta(description="Calls with the same one are one; made up where absent.")
    ] = None
    timestamp: Time = None
    sent_at: Annotated[
        Time,
        Meta(description="The sender's clock when it sent: it sets `timestamp` right."),
    ] = None
    context: Part = None
    integrations: Part = None
    write_key: Key = None


class Identify(CallFields, rename="camel", kw_only=True):
    """Who somebody is."""

    traits: Part = None


class Track(CallFields, rename="camel", kw_only=True):
    """What somebody did."""

    event: Annotated[str, Meta(min_length=1)]
    properties: Part = None


class Page(CallFields, rename="camel", kw_only=True):
    """What somebody looked at in a browser."""

    name: str | None = None
    properties: Part = None


class Screen(CallFields, rename="camel", kw_only=True):
    """What somebody looked at in an app."""

    name: str | None = None
    properties: Part = None


class Group(CallFields, rename="camel", kw_only=True):
    """Which group somebody belongs to."""

    group_id: Annotated[str | int, Meta(description="Of a company, say.")]
    traits: Part = None


class Alias(CallFields, rename="camel", kw_only=True):
    """That two ids are one person's."""

    previous_id: Id = None


class Batch(msgspec.Struct, rename="camel", kw_only=True):
    """Several calls, each with its `type`, and what they share."""

    batch: Annotated[
        list[dict[str, Any]], Meta(max_length=BATCH_CALLS_MAX, description="Calls, with `type`.")
    ]
    context: Part = None
    integrations: Part = None
    sent_at: Time = None
    write_key: Key = None


class Accepted(msgspec.Struct):
    """Kafka has all of the request's calls."""

    success: bool


class Refused(msgspec.Struct):
    """The request was not accepted; after a 503, or the topic's 413, Kafka may have some of it."""

    success: bool
    code: Annotated[str, Meta(description="snake_case, for a program.")]
    message: Annotated[str, Meta(description="Where and what, for a person.")]


_BODIES: Final[dict[str, type[msgspec.Struct]]] = {
    "identify": Identify, "track": Track, "page": Page, "screen": Screen, "group": Group,
    "alias": Alias, "batch": Batch, "import": Batch,
}  # fmt: skip
_REFUSALS: Final = {
    "400": "What was sent cannot be accepted; `message` names the place.",
    "401": "No token, an unknown one, or one that was revoked.",
    "413": f"Over {CALL_BYTES_MAX:,} bytes a call, {BODY_BYTES_MAX:,} or {BATCH_CALLS_MAX:,} calls"
    " a request.",
    "429": "This token sends too fast: again after `Retry-After` seconds.",
    "431": "The headers are too large.",
    "503": "Kafka is away, or too much is in flight: again after `Retry-After` seconds.",
}


def openapi() -> Json:
    """Make the document."""
    structs = [*dict.fromkeys(_BODIES.values()), Accepted, Refused]
    _, components = msgspec.json.schema_components(
        structs, ref_template="#/components/schemas/{name}"
    )
    paths = {f"/v1/{name}": {"post": _sending(name, body)} for name, body in _BODIES.items()}
    for prefix, operation_id in (("/v1", "settings"), ("", "settingsWithoutVersion")):
        paths[f"{prefix}/projects/{{token}}/settings"] = {"get": _settings(operation_id)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Windsor's endpoint",
            "version": version("windsor"),
            "description": "Segment's HTTP tracking API: every official SDK works unchanged.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "basic": {
                    "type": "http", "scheme": "basic",
                    "description": "The token as user name, no password.",
                },
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"basic": []}, {"bearer": []}, {}],
    }  # fmt: skip


def _sending(name: str, body: type[msgspec.Struct]) -> Json:
    content = {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
    return {
        "operationId": name,
        "summary": (body.__doc__ or "").partition("\n")[0],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": _answer("Kafka has all of the request's calls.", "Accepted"),
            **{code: _answer(words, "Refused") for code, words in _REFUSALS.items()},
        },
    }


def _settings(operation_id: str) -> Json:
    parameter = {"name": "token", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": operation_id,
        "summary": "What an SDK in a browser or an app asks for first.",
        "security": [],
        "parameters": [parameter],
        "responses": {
            "200": {
                "description": "Where to send.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **{code: _answer(_REFUSALS[code], "Refused") for code in ("401", "503")},
            "404": _answer("No such path.", "Refused"),
        },
    }


def _answer(description: str, schema: str) -> Json:
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {"description": description, "content": {"application/json": content}}
