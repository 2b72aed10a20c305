"""The documents of the contract say what the worker does."""

import json
import re
from collections.abc import Sequence
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from prometheus_client import CollectorRegistry

from consumer.core.call import Call, Outcome, RejectReason, SkipReason
from consumer.core.decode import Decoder
from consumer.core.ids import BLOCKED_IDS
from consumer.metrics import Metrics
from consumer.settings import Settings
from schemas import documents
from schemas.fields import CALL_TYPES, FIELDS
from schemas.segment import WireCall
from tests.core.calls import HandRecord
from tests.core.hostile import HOSTILE, Hostile
from tests.core.mutations import mutated_values
from tests.core.outcomes import Refused, decode
from tests.payloads import real_payloads

PAGE = documents.CONTRACT.read_text()
RECORD = jsonschema.Draft7Validator(documents.record_schema())
CALL = RECORD.evolve(
    schema={**documents.record_schema(), "anyOf": [{"$ref": "#/definitions/Call"}]}
)


def parse(value: bytes) -> Any:  # noqa: ANN401 - any JSON
    """A value as a validator sees it; Python reads no integer of more than 4,300 digits."""
    return json.loads(value, parse_int=lambda digits: int(digits[:4_000]))


def first_column(heading: str) -> list[str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)`", section, re.MULTILINE)


# The documents are as made ----------------------------------------------------------------------


def test_committed_documents_are_those_that_are_made() -> None:
    assert documents.RECORD_SCHEMA.read_text() == documents.as_text(documents.record_schema())
    assert documents.ASYNCAPI.read_text() == documents.as_text(documents.asyncapi())
    assert documents.contract_page(PAGE) == PAGE


def test_every_field_that_is_decoded_is_documented_and_no_other() -> None:
    documented = {name for field in FIELDS for name in (field.name, field.also) if name}

    assert documented == {field.encode_name for field in msgspec.structs.fields(WireCall)}
    assert first_column("The fields of a call") == [field.name for field in FIELDS]


def test_every_reason_is_documented() -> None:
    assert first_column("What is refused") == list(get_args(RejectReason))
    assert first_column("What is skipped") == list(get_args(SkipReason))


def test_every_junk_id_is_documented() -> None:
    listed = PAGE.split("are absent:")[1].split("and ids of zeros")[0]

    assert set(re.findall(r"`(.*?)`", listed.lower())) == BLOCKED_IDS


def test_settings_and_metrics_that_the_page_names_exist() -> None:
    settings_named = set(re.findall(r"WINDSOR_\w+", PAGE))
    metrics = Metrics(CollectorRegistry())
    metrics_named = set(re.findall(r"windsor_\w+", PAGE))

    assert settings_named <= {field.encode_name for field in msgspec.structs.fields(Settings)}
    assert metrics_named <= {f"{family.name}_total" for family in metrics.registry.collect()}


# The schema accepts what the worker accepts -----------------------------------------------------


def assert_accepted(value: bytes, outcomes: Sequence[Outcome]) -> None:
    """A record all of whose calls are kept is valid, and so is each call that is kept."""
    kept = [outcome for outcome in outcomes if isinstance(outcome, Call)]
    if not kept:
        return
    record = parse(value)
    if len(kept) == len(outcomes):
        RECORD.validate(record)
    if isinstance(record.get("httpPayload"), dict):
        record = record["httpPayload"]
    if isinstance(record.get("batch"), list) and record["batch"]:
        for call in kept:
            CALL.validate(record["batch"][call.position])
    else:
        CALL.validate(record)


def test_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(documents.record_schema())


@pytest.mark.parametrize("hostile", [h for h in HOSTILE if h.value], ids=lambda h: h.name)
def test_odd_record_that_the_worker_accepts_is_valid(hostile: Hostile) -> None:
    assert hostile.value is not None
    assert_accepted(hostile.value, decode(hostile.value))


@settings(max_examples=400)
@given(mutated_values())
def test_whatever_the_worker_accepts_is_valid(value: bytes) -> None:
    assert_accepted(value, decode(value))


def test_real_payloads_that_the_worker_accepts_are_valid() -> None:
    for value in real_payloads().values():
        assert_accepted(value, decode(value))


# The schema refuses what a schema can -----------------------------------------------------------

# What a schema cannot tell: bytes, sizes and depths, who else is named, what is within a part, and
# that 1.0 is no integer.
BEYOND_SCHEMA = re.compile(r"a key holds|beyond numeric|longer than 512")
WHOLE_FRACTIONS = re.compile(rb":(1\.0|-0\.0|1e3)[,}]")
TELLABLE = ("not_a_call", "unknown_type", "missing_field", "invalid_field", "id_too_long")


def tellable(hostile: Hostile) -> bool:
    value, outcome = hostile.value, hostile.outcomes[0] if len(hostile.outcomes) == 1 else None
    return (
        value is not None
        and isinstance(outcome, Refused)
        and outcome.reason in TELLABLE
        and not BEYOND_SCHEMA.search(outcome.detail or "longer than 512")
        and not WHOLE_FRACTIONS.search(value)
    )


@pytest.mark.parametrize("hostile", [h for h in HOSTILE if tellable(h)], ids=lambda h: h.name)
def test_record_that_is_refused_for_its_shape_is_invalid(hostile: Hostile) -> None:
    assert hostile.value is not None
    assert not RECORD.is_valid(parse(hostile.value))


@pytest.mark.parametrize(
    ("record", "valid"),
    [
        ({"type": "group", "userId": "jane"}, False),
        ({"type": "group", "userId": "jane", "groupId": None, "group_id": "acme"}, True),
        ({"type": "alias", "userId": "jane"}, False),
        ({"type": "alias", "userId": "jane", "anonymousId": "phone"}, True),
        ({"type": "alias", "userId": " ", "previousId": "old"}, False),
        ({"type": "track", "userId": "jane", "event": ""}, False),
        ({"action": "Track", "user_id": 5, "event": "Clicked"}, True),
        ({"type": "identify", "userId": "jane", "user_id": []}, True),
        ({"type": "identify", "userId": None, "user_id": []}, False),
        ({"batch": [{"type": "page"}, {"type": "dance"}]}, False),
        ({"httpPayload": {"batch": [{"type": "page", "name": 5}]}}, False),
        ({"httpPayload": {"batch": [{"type": "page", "name": None}]}}, True),
    ],
)
def test_schema_knows_what_each_call_needs(record: dict[str, Any], *, valid: bool) -> None:
    assert RECORD.is_valid(record) is valid
    refused = Decoder().decode(HandRecord(value=json.dumps({**record}).encode()))
    reasons = {getattr(outcome, "reason", None) for outcome in refused} - {None, "missing_id"}
    assert bool(reasons) is not valid


# The topic --------------------------------------------------------------------------------------


def test_asyncapi_describes_the_topic_of_the_settings() -> None:
    document = documents.asyncapi()
    channel = document["channels"]["segmentEvents"]
    message = document["components"]["messages"]["record"]

    assert document["asyncapi"] == "3.0.0"
    assert channel["address"] == Settings().kafka_topics
    assert message["payload"]["schema"] == {"$ref": f"./{documents.RECORD_SCHEMA.name}"}
    assert {type_.title() for type_ in CALL_TYPES} < set(documents.record_schema()["definitions"])


def test_every_reference_within_asyncapi_leads_somewhere() -> None:
    document = documents.asyncapi()
    references = re.findall(r'"\$ref": "#/(.*?)"', json.dumps(document))

    assert len(references) == 3
    for reference in references:
        found: Any = document
        for step in reference.split("/"):
            found = found[step]
        assert found
