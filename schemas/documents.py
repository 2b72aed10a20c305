"""The contract of the topic as documents: JSON Schema, AsyncAPI, a table for people.

`make schemas` writes them; a test fails when what is committed is not what is made here. The
schemas accept whatever the worker accepts, and refuse what it refuses where a schema can tell.

Source: JSON Schema draft-07, https://json-schema.org/draft-07; AsyncAPI 3.0.0,
https://www.asyncapi.com/docs/reference/specification/v3.0.0.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from schemas.fields import CALL_TYPES, FIELDS, REQUIRED, TYPED, Field, Part

Json = dict[str, Any]

_FOLDER: Final = Path(__file__).parent
RECORD_SCHEMA: Final = _FOLDER / "record.schema.json"
ASYNCAPI: Final = _FOLDER / "asyncapi.json"
CONTRACT: Final = _FOLDER.parent / "docs" / "contract.md"
_TABLE: Final = ("<!-- fields: made by `make schemas` -->\n", "<!-- end of fields -->\n")

_ALSO: Final = {field.name: field.also for field in FIELDS}
_NULL: Final[Json] = {"type": "null"}
# The Kelvin sign is a k in lower case.
_OTHER_CASES: Final = {"k": "\u212a"}


def record_schema() -> Json:
    """A record's value: one call, or an envelope."""
    envelopes = {
        "Batch": _described(
            "Several calls, and what the envelope lends to each.",
            [("batch", list[Any], True), ("context", Part, False)],
        ),
        "HttpPayload": _described(
            "A call or a batch within what a proxy put around it.", [("httpPayload", Any, True)]
        ),
    }
    envelopes["Batch"]["properties"]["batch"]["items"] = _ref("Call")
    envelopes["HttpPayload"]["properties"]["httpPayload"] = {
        "type": "object",
        "anyOf": [_ref("Call"), _ref("Batch")],
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Record",
        "description": "The value of a record on Windsor's topic; docs/contract.md has the words.",
        "anyOf": [_ref("Call"), _ref("Batch"), _ref("HttpPayload")],
        "definitions": {
            "Call": _call(),
            **{type_.title(): _call_of_type(type_) for type_ in CALL_TYPES},
            **envelopes,
        },
    }


def _call() -> Json:
    """What holds of every call."""
    call = _described(
        "One of Segment's calls. Unknown fields are ignored.",
        [
            (f.name, Annotated[f.read_as, msgspec.Meta(description=_words(f))], False)
            for f in FIELDS
        ],
    )
    aliases = [
        _when({"properties": {f.name: _NULL}}, {"properties": {f.also: _schema(f.read_as)}})
        for f in FIELDS
        if f.also and f.read_as is not Any
    ]
    types = [_ref(type_.title()) for type_ in CALL_TYPES]
    return {**call, "allOf": aliases, "anyOf": types}


def _call_of_type(type_: str) -> Json:
    """What holds of calls of one type only."""
    holds = [_is_type(type_)]
    for name, read_as in TYPED.get(type_, {}).items():
        holds.append({"properties": {name: _schema(read_as)}})
        if also := _ALSO[name]:
            holds.append(
                _when({"properties": {name: _NULL}}, {"properties": {also: _schema(read_as)}})
            )
    holds += [_is_given(name) for name in REQUIRED.get(type_, ())]
    if type_ == "alias":
        # The visitor stands in for who was.
        holds.append({"anyOf": [_is_given("previousId"), _is_given("anonymousId")]})
    return {"description": f"A call of type {type_}.", "allOf": holds}


def _is_type(type_: str) -> Json:
    letters = (f"[{c}{c.upper()}{_OTHER_CASES.get(c, '')}]" for c in type_)
    text = {"type": "string", "pattern": rf"^\s*{''.join(letters)}\s*$"}
    action = {"required": ["action"], "properties": {"type": _NULL, "action": text}}
    return {"anyOf": [_has("type", text), action]}


def _is_given(name: str) -> Json:
    """There by either name; an id of blanks is absent."""
    also = _ALSO[name]
    if not also:
        return {"required": [name]}
    there = {"type": ["string", "integer"], "pattern": r"\S"}
    snake = {"required": [also], "properties": {name: _NULL, also: there}}
    return {"anyOf": [_has(name, there), snake]}


def _has(name: str, schema: Json) -> Json:
    return {"required": [name], "properties": {name: schema}}


def _when(condition: Json, then: Json) -> Json:
    return {"if": condition, "then": then}


def _ref(name: str) -> Json:
    return {"$ref": f"#/definitions/{name}"}


def _schema(type_: Any) -> Json:  # noqa: ANN401 - any type
    return msgspec.json.schema(type_)


def _described(description: str, fields: list[tuple[str, Any, bool]]) -> Json:
    """The schema of an object, by a struct of those names, types and whether they are needed."""
    needed = [(name, type_) for name, type_, is_needed in fields if is_needed]
    others = [(name, type_, msgspec.UNSET) for name, type_, is_needed in fields if not is_needed]
    struct = msgspec.defstruct("Described", [*needed, *others])
    (_,), components = msgspec.json.schema_components([struct])
    schema = components["Described"]
    del schema["title"]
    return {"description": description, **schema}


def _words(field: Field) -> str:
    """A field's description; JSON has no markup."""
    also = f"; also as {field.also}" if field.also else ""
    text = f"{field.does}. Of {field.calls}: {field.type_words}{also}."
    return (text[0].upper() + text[1:]).replace("`", "")


def asyncapi() -> Json:
    """The topic, as AsyncAPI has it."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Windsor",
            "version": "1.0.0",
            "description": "Customer data calls on Kafka, from which Windsor makes users, groups, "
            "audiences and a feed in Postgres.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "segmentEvents": {
                "address": "segment-events",
                "description": "The topics of WINDSOR_KAFKA_TOPICS; this is the default. A "
                "user's calls may be on any partition, in any order, and more than once.",
                "messages": {"record": {"$ref": "#/components/messages/record"}},
            }
        },
        "operations": {
            "applyCalls": {
                "action": "receive",
                "channel": {"$ref": "#/channels/segmentEvents"},
                "summary": "Apply each call once, in clock order, whatever order they arrive in.",
                "messages": [{"$ref": "#/channels/segmentEvents/messages/record"}],
            }
        },
        "components": {
            "messages": {
                "record": {
                    "name": "record",
                    "title": "One call, or an envelope of calls",
                    "contentType": "application/json",
                    "headers": {
                        "type": "object",
                        "description": "All are kept on dead letters.",
                        "properties": {
                            "traceparent": {
                                "type": "string",
                                "description": "W3C Trace Context: the trace is continued.",
                            }
                        },
                    },
                    "payload": {
                        "schemaFormat": "application/schema+json;version=draft-07",
                        "schema": {"$ref": f"./{RECORD_SCHEMA.name}"},
                    },
                    "bindings": {
                        "kafka": {
                            "key": {"description": "Anything, or none: it is not used to route."},
                            "bindingVersion": "0.5.0",
                        }
                    },
                }
            }
        },
    }


def fields_table() -> str:
    """The table of fields for people, as Markdown."""
    rows = [
        (
            f"`{field.name}`",
            f"`{field.also}`" if field.also else "",
            field.type_words,
            field.calls,
            field.does,
            field.refused,
        )
        for field in FIELDS
    ]
    head = [("name", "also", "type", "calls", "what it does", "refused"), ("---",) * 6]
    return "".join(f"| {' | '.join(row)} |\n" for row in [*head, *rows])


def contract_page(page: str) -> str:
    """The page of the contract with its table as it is now."""
    begin, end = _TABLE
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{fields_table()}\n{end}{rest.partition(end)[2]}"


def as_text(document: Json) -> str:
    """A document as it is committed."""
    return json.dumps(document, indent=2) + "\n"


def main() -> None:
    """Write all documents."""
    RECORD_SCHEMA.write_text(as_text(record_schema()))
    ASYNCAPI.write_text(as_text(asyncapi()))
    CONTRACT.write_text(contract_page(CONTRACT.read_text()))


if __name__ == "__main__":
    main()
