"""The endpoint keeps to its published document, whatever is sent."""

import asyncio
import json
from typing import Any

import httpx
import schemathesis
from hypothesis import Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dashboard.ingest import PATHS
from dashboard.openapi import openapi
from tests.dashboard.endpoint import Endpoint, MakeTopic, endpoint

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CASES_EACH = 25


def test_document_names_a_path_for_all_that_is_taken() -> None:
    documented = {path.rpartition("/")[2] for path in openapi()["paths"]}

    # The browser's metrics are dropped.
    assert set(PATHS.values()) - {"metrics"} <= documented


async def test_document_is_served_to_everybody(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    async with (
        endpoint(kafka_server, await topic(1), database) as served,
        httpx.AsyncClient(base_url=served.url) as stranger,
    ):
        answer = await stranger.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == json.loads(json.dumps(openapi()))


async def test_answers_keep_to_the_document(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    async with endpoint(kafka_server, await topic(1), database) as served:
        statuses = await asyncio.to_thread(tried, served)

    # It was both kinds of answer that did.
    assert {200, 400} <= statuses
    assert statuses <= {200, 400, 401, 413}


def tried(served: Endpoint) -> set[int]:
    """Send what the document allows, and what it does not; the statuses that came."""
    statuses: set[int] = set()
    few = settings(max_examples=CASES_EACH, phases=[Phase.generate], database=None)
    headers = {"authorization": f"Bearer {served.token}"}
    for found in schemathesis.openapi.from_dict(openapi()).get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        modes = [*GenerationMode] if operation.method == "post" else [GenerationMode.POSITIVE]
        for mode in modes:

            @few
            @given(case=operation.as_strategy(mode))
            def send(case: Case[Any]) -> None:
                answer = case.call(base_url=served.url, headers=headers)
                case.validate_response(answer, checks=CHECKS)
                statuses.add(answer.status_code)

            send()
    return statuses
