"""The endpoint over real HTTP, to a real Kafka."""

import asyncio
import base64
import gzip
import json
import logging
import random
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from dashboard import sources
from dashboard.stamp import BODY_BYTES_MAX
from dashboard.tokens import generate, revoke
from tests.dashboard.endpoint import (
    Endpoint,
    MakeTopic,
    endpoint,
    new_token,
    records_of,
    until_ready,
)
from tests.dashboard.serving import dashboard, settings_for

TRACK = {"userId": "u1", "event": "E", "messageId": "m1"}
SUCCESS = (200, {"success": True})


@pytest_asyncio.fixture
async def served(kafka_server: str, database: str, topic: MakeTopic) -> AsyncIterator[Endpoint]:
    """An endpoint with its defaults."""
    async with endpoint(kafka_server, await topic(3), database) as found:
        yield found


def told(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# Paths ------------------------------------------------------------------------------------------


async def test_every_path_takes_its_type(served: Endpoint) -> None:
    bodies = {
        "identify": {"userId": "u1"}, "track": TRACK, "page": {"userId": "u1"},
        "screen": {"userId": "u1"}, "group": {"userId": "u1", "groupId": "g1"},
        "alias": {"userId": "u1", "previousId": "v1"},
    }  # fmt: skip
    for type_, body in bodies.items():
        for path in (f"/v1/{type_}", f"/v1/{type_}/", f"/v1/{type_[0]}"):
            assert told(await served.client.post(path, json=body)) == SUCCESS, path

    found = sorted(call["type"] for call in await served.calls())
    assert found == sorted([*bodies] * 3)


async def test_every_path_of_batches_takes_calls_of_all_types(served: Endpoint) -> None:
    batch = {"batch": [{"type": "page", "userId": "u1"}, {"type": "track", **TRACK}]}
    paths = ["/v1/batch", "/v1/batch/", "/v1/import", "/v1/import/", "/v1/b", "/b"]
    for path in paths:
        assert told(await served.client.post(path, json=batch)) == SUCCESS, path

    found = [call["type"] for call in await served.calls()]
    assert sorted(found) == sorted(["page", "track"] * len(paths))


async def test_the_browsers_metrics_are_dropped(served: Endpoint) -> None:
    assert told(await served.client.post("/v1/m", json={"series": []})) == SUCCESS
    assert await served.records() == []


async def test_other_paths_and_methods_are_told_so(served: Endpoint) -> None:
    assert code(await served.client.post("/v1/dance", json={})) == (404, "not_found")
    wrong = await served.client.get("/v1/track")
    assert code(wrong) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST, OPTIONS"
    for method in ("POST", "OPTIONS"):
        wrong = await served.client.request(method, "/openapi.json")
        assert code(wrong) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "GET, HEAD"
    wrong = await served.client.post(f"/v1/projects/{served.token}/settings")
    assert code(wrong) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_head_is_answered_at_once_whatever_the_path(served: Endpoint) -> None:
    settings = f"/v1/projects/{served.token}/settings"
    began = time.perf_counter()
    for path, status in (
        ("/openapi.json", 200), (settings, 200), ("/v1/track", 405), ("/v1/dance", 404),
        ("/users", 303), ("/sign-in", 200), ("/static/no-such-file", 404),
    ):  # fmt: skip
        answer = await served.client.head(path)
        assert (answer.status_code, answer.content) == (status, b""), path
    assert time.perf_counter() - began < 10


async def test_settings_tell_a_browser_where_to_send(served: Endpoint) -> None:
    async with httpx.AsyncClient(base_url=served.url) as stranger:
        answer = await stranger.get(f"/v1/projects/{served.token}/settings")
        unknown = await stranger.get("/v1/projects/ws_00000000_1/settings")
        # Of clients whose host has no `/v1`, which send to `/b`.
        without = await stranger.get(f"/projects/{served.token}/settings")
        unknown_without = await stranger.get("/projects/ws_00000000_1/settings/")
        posted = await stranger.post(f"/projects/{served.token}/settings")

    settings = answer.json()
    assert told(without) == told(answer)
    assert code(unknown_without) == (401, "unknown_token")
    assert code(posted) == (405, "method_not_allowed")
    assert answer.status_code == 200
    assert settings["integrations"]["Segment.io"]["apiKey"] == served.token
    assert settings["integrations"]["Segment.io"]["protocol"] == "http"
    assert settings["integrations"]["Segment.io"]["apiHost"] == f"{served.url[7:]}/v1"
    assert answer.headers["cache-control"] == "no-store"
    assert code(unknown) == (401, "unknown_token")


# Records ----------------------------------------------------------------------------------------


async def test_a_record_is_the_call_keyed_by_user_with_its_source(served: Endpoint) -> None:
    before = time.time_ns() // 1_000_000
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await served.client.post("/v1/track", json=TRACK, headers={"traceparent": parent})
    (record,) = await served.records()

    assert told(answer) == SUCCESS
    assert record.key == b"u1"
    assert before <= record.timestamp <= time.time_ns() // 1_000_000
    assert record.headers == (
        ("source", served.source_id.encode()),
        ("traceparent", parent.encode()),
    )
    call = json.loads(record.value)
    assert call == {
        **TRACK,
        "type": "track",
        "receivedAt": call["receivedAt"],
        "timestamp": call["receivedAt"],
        "context": {"ip": "127.0.0.1"},
    }


async def test_calls_of_one_user_keep_their_order_across_requests(served: Endpoint) -> None:
    for number in range(0, 300, 100):
        batch = [
            {"type": "track", "userId": f"u{n % 7}", "event": "E", "messageId": f"m{n:03}"}
            for n in range(number, number + 100)
        ]
        await served.client.post("/v1/batch", json={"batch": batch})
    records = await served.records()

    assert {record.partition for record in records} == {0, 1, 2}
    by_user: dict[bytes, list[str]] = {}
    for record in records:
        by_user.setdefault(record.key, []).append(json.loads(record.value)["messageId"])
    assert by_user == {
        f"u{user}".encode(): [f"m{n:03}" for n in range(300) if n % 7 == user] for user in range(7)
    }


async def test_nothing_of_a_batch_with_a_bad_call_is_accepted(served: Endpoint) -> None:
    good = {"type": "track", "userId": "u1", "event": "E"}
    answer = await served.client.post(
        "/v1/batch", json={"batch": [good, good, good, {"type": "group", "userId": "u1"}]}
    )

    assert told(answer) == (400, {
        "success": False, "code": "missing_field", "message": "batch[3].groupId: missing",
    })  # fmt: skip
    assert await served.records() == []
    assert await served.metric('windsor_endpoint_refused_total{reason="missing_field"}') == 1


# Encodings --------------------------------------------------------------------------------------


async def test_bodies_come_plain_or_zipped_under_any_content_type(served: Endpoint) -> None:
    raw = json.dumps(TRACK).encode()
    for content_type in ("application/json", "text/plain", "application/octet-stream"):
        for body, headers in ((raw, {}), (gzip.compress(raw), {"content-encoding": "GZIP"})):
            answer = await served.client.post(
                "/v1/track", content=body, headers={"content-type": content_type, **headers}
            )
            assert told(answer) == SUCCESS

    assert len(await served.records()) == 6


async def test_bodies_come_in_chunks_too(served: Endpoint) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in json.dumps(TRACK).encode():
            yield bytes([byte])

    assert told(await served.client.post("/v1/track", content=chunks())) == SUCCESS
    assert len(await served.records()) == 1


ZIPPED = gzip.compress(b"{}", mtime=0)


@pytest.mark.parametrize("body", [b"{}", b"", ZIPPED[:-4], ZIPPED * 2])
async def test_what_says_gzip_and_is_none_is_refused(body: bytes, served: Endpoint) -> None:
    answer = await served.client.post(
        "/v1/track", content=body, headers={"content-encoding": "gzip"}
    )
    assert code(answer) == (400, "bad_encoding")


async def test_other_encodings_are_refused(served: Endpoint) -> None:
    answer = await served.client.post(
        "/v1/track", content=b"{}", headers={"content-encoding": "br"}
    )
    assert code(answer) == (400, "bad_encoding")


# Tokens -----------------------------------------------------------------------------------------


def basic(pair: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


async def test_a_token_comes_by_basic_by_bearer_or_in_the_body(served: Endpoint) -> None:
    token = served.token
    ways: list[tuple[dict[str, str], dict[str, str]]] = [
        (basic(f"{token}:"), {}),
        (basic(f"{token}:anything"), {}),
        (basic(token), {}),
        ({"authorization": f"bearer {token}"}, {}),
        ({}, {"writeKey": token}),
        # A header that is no token of ours stands in nobody's way.
        ({"authorization": "Digest x"}, {"writeKey": token}),
    ]
    async with httpx.AsyncClient(base_url=served.url) as client:
        for headers, fields in ways:
            answer = await client.post("/v1/track", json={**TRACK, **fields}, headers=headers)
            assert told(answer) == SUCCESS, headers
            answer = await client.post(
                "/v1/batch", json={"batch": [{"type": "track", **TRACK}], **fields},
                headers=headers,
            )  # fmt: skip
            assert told(answer) == SUCCESS, headers

    assert len(await served.records()) == 2 * len(ways)


async def test_no_token_another_token_and_a_revoked_one_are_401(served: Endpoint) -> None:
    gone, gone_token = await new_token(served.dsn, "gone")
    connection = await asyncpg.connect(served.dsn)
    try:
        await revoke(connection, gone.source_id)
    finally:
        await connection.close()
    # The id of a source alone opens nothing.
    forged = f"ws_{served.source_id}_{'0' * 40}"
    async with httpx.AsyncClient(base_url=served.url) as client:
        for fields, expected in (
            ({}, "no_token"), ({"writeKey": None}, "no_token"), ({"writeKey": 7}, "no_token"),
            ({"writeKey": "nobody"}, "unknown_token"), ({"writeKey": forged}, "unknown_token"),
            ({"writeKey": f"ws_00000000_{'0' * 40}"}, "unknown_token"),
            ({"writeKey": gone_token}, "revoked_token"),
        ):  # fmt: skip
            answer = await client.post("/v1/track", json={**TRACK, **fields})
            assert code(answer) == (401, expected), fields
            assert answer.headers["www-authenticate"].startswith("Basic ")
        answer = await client.post("/v1/track", content=b"no json", headers=basic("nobody:"))
        assert code(answer) == (401, "unknown_token")

    assert await served.records() == []


async def test_a_new_token_is_known_and_a_revoked_one_refused_at_once_on_every_replica(
    kafka_server: str, database: str, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They do not look by themselves while this test waits.
    monkeypatch.setattr(sources, "_POLL_SECONDS", 60.0)
    name = await topic(1)
    async with (
        dashboard(settings_for(kafka_server, name, database)) as first,
        dashboard(settings_for(kafka_server, name, database)) as second,
        httpx.AsyncClient(base_url=first.url) as one,
        httpx.AsyncClient(base_url=second.url) as other,
    ):
        await until_ready(first.probes_url)
        await until_ready(second.probes_url)
        source, token = await new_token(database, "shop")
        for client in (one, other):
            answer = await client.post("/v1/track", json={**TRACK, "writeKey": token})
            assert told(answer) == SUCCESS

        connection = await asyncpg.connect(database)
        try:
            await revoke(connection, source.source_id)
        finally:
            await connection.close()
        for client in (one, other):
            deadline = time.monotonic() + 20
            answer = await client.post("/v1/track", json={**TRACK, "writeKey": token})
            while answer.status_code == 200 and time.monotonic() < deadline:
                answer = await client.post("/v1/track", json={**TRACK, "writeKey": token})
            assert code(answer) == (401, "revoked_token")


async def test_the_last_use_of_a_token_is_kept(served: Endpoint) -> None:
    await served.client.post("/v1/track", json=TRACK)
    connection = await asyncpg.connect(served.dsn)
    try:
        async with asyncio.timeout(20):
            while not await connection.fetchval(  # noqa: ASYNC110 - the database tells nobody
                "SELECT last_used_at > now() - interval '1 minute'"
                " FROM windsor_private.sources_shown"
            ):
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def test_known_tokens_go_on_while_the_database_is_away(
    served: Endpoint, postgres_server: str
) -> None:
    assert told(await served.client.post("/v1/track", json=TRACK)) == SUCCESS
    name = served.dsn.partition("?")[0].rpartition("/")[2]
    connection = await asyncpg.connect(postgres_server)
    try:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        await asyncio.sleep(0.2)
        assert told(await served.client.post("/v1/track", json=TRACK)) == SUCCESS
        # Perhaps new, and made by another replica; its sender is to keep what it has.
        unheard = await served.client.post("/v1/track", json=TRACK, auth=(f"ws_1_{'0' * 40}", ""))
        assert code(unheard) == (503, "unavailable")
        forged = f"ws_{served.source_id}_{'0' * 40}"
        for wrong in (forged, "nobody"):
            answer = await served.client.post("/v1/track", json=TRACK, auth=(wrong, ""))
            assert code(answer) == (401, "unknown_token"), wrong
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await connection.close()
    _, token = await new_token(served.dsn, "late")
    status, deadline = 0, time.monotonic() + 20
    while status != 200:
        assert time.monotonic() < deadline, status
        answer = await served.client.post("/v1/track", json=TRACK, auth=(token, ""))
        status = answer.status_code


async def test_a_new_token_is_not_refused_while_the_database_is_slow(served: Endpoint) -> None:
    await served.client.post("/v1/track", json=TRACK)
    connection = await asyncpg.connect(served.dsn)
    try:
        async with connection.transaction():
            _, token = await generate(connection, "shop")
            await connection.execute("LOCK TABLE windsor_private.sources")
            answer = await served.client.post("/v1/track", json=TRACK, auth=(token, ""))
            assert code(answer) == (503, "unavailable")
            assert answer.headers["retry-after"] == "5"
        async with asyncio.timeout(20):
            while answer.status_code != 200:
                assert answer.status_code == 503
                answer = await served.client.post("/v1/track", json=TRACK, auth=(token, ""))
    finally:
        await connection.close()


async def test_tokens_that_cannot_be_checked_are_503(kafka_server: str, topic: MakeTopic) -> None:
    nowhere = "postgresql://windsor@127.0.0.1:1/windsor"
    async with (
        dashboard(settings_for(kafka_server, await topic(1), nowhere)) as found,
        httpx.AsyncClient(base_url=found.url) as client,
    ):
        answer = await client.post("/v1/track", json={**TRACK, "writeKey": "ws_00000000_0"})
        assert code(answer) == (503, "unavailable")
        assert answer.headers["retry-after"] == "5"


async def test_a_token_that_sends_too_fast_is_429(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    async with endpoint(kafka_server, await topic(1), database) as served:
        _, token = await new_token(database, "slow", calls_per_second_max=10)
        batch = {"batch": [{"type": "page", "userId": "u1"}] * 10}
        first = await served.client.post("/v1/batch", json=batch, auth=(token, ""))
        again = await served.client.post("/v1/batch", json=batch, auth=(token, ""))
        others = await served.client.post("/v1/batch", json=batch)
        assert told(first) == SUCCESS
        assert code(again) == (429, "rate_limited")
        assert int(again.headers["retry-after"]) == 1
        assert told(others) == SUCCESS
        assert len(await served.records()) == 20


# Browsers ---------------------------------------------------------------------------------------


async def test_a_browser_may_send_from_any_page(served: Endpoint) -> None:
    preflight = await served.client.request(
        "OPTIONS", "/v1/t", auth=None,
        headers={
            "origin": "https://shop.example.com",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type, x-retry-count",
        },
    )  # fmt: skip
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
    assert preflight.headers["access-control-allow-headers"] == (
        "authorization, content-type, x-retry-count"
    )
    # It is to read refusals too.
    for body in (TRACK, {}):
        answer = await served.client.post("/v1/t", json=body)
        assert answer.headers["access-control-allow-origin"] == "*"


# Bounds -----------------------------------------------------------------------------------------


async def test_a_body_that_says_it_is_too_large_is_refused_unread(served: Endpoint) -> None:
    host, _, port = served.url[7:].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(
            f"POST /v1/track HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY_BYTES_MAX + 1}\r\n"
            f"authorization: Bearer {served.token}\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)
    finally:
        writer.close()
    assert head == b"HTTP/1.1 413 Request Entity Too Large\r\n"


async def test_a_sender_of_too_much_hears_why(served: Endpoint) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 64 * 1024

    for content in (b"x" * (BODY_BYTES_MAX + 1), chunks()):
        answer = await served.client.post("/v1/track", content=content)
        assert code(answer) == (413, "too_large")


async def test_a_bomb_is_refused(served: Endpoint) -> None:
    # Members one after the other: the test itself never holds what it stands for.
    bomb = gzip.compress(bytes(64 * 1024 * 1024)) * 7
    assert len(bomb) < BODY_BYTES_MAX
    tracemalloc.start()
    try:
        answer = await served.client.post(
            "/v1/batch", content=bomb, headers={"content-encoding": "gzip"}
        )
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert code(answer) == (413, "too_large")
    assert most < 32 * 1024 * 1024


async def test_a_batch_of_500_kb_is_taken(served: Endpoint) -> None:
    call = {"type": "track", "userId": "u1", "event": "E", "properties": {"a": "x" * 1_000}}
    batch = json.dumps({"batch": [call] * 460}).encode()
    assert 480_000 < len(batch) <= BODY_BYTES_MAX
    assert told(await served.client.post("/v1/batch", content=batch)) == SUCCESS
    assert len(await served.records()) == 460


async def test_slow_senders_are_cut_off(kafka_server: str, database: str, topic: MakeTopic) -> None:
    async with endpoint(
        kafka_server, await topic(1), database, endpoint_receive_timeout_seconds=0.5
    ) as served:
        host, _, port = served.url[7:].partition(":")
        heads = {
            "nothing": b"",
            "half a header": b"POST /v1/track HTTP/1.1\r\nhost: x\r\nx-a: ",
            "half a body": (
                f"POST /v1/track HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.token}\r\n"
                "content-length: 100\r\n\r\n{"
            ).encode(),
        }
        for name, head in heads.items():
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head)
            began = time.perf_counter()
            # A byte now and then buys no time.
            for _ in range(150):
                await asyncio.sleep(0.1)
                if reader.at_eof() or writer.is_closing():
                    break
                if head:
                    writer.write(b"x")
            assert time.perf_counter() - began < 10, name
            writer.close()
        assert await served.metric('windsor_endpoint_cut_off_total{reason="slow"}') == 3
        # A connection that is kept open between requests is not slow.
        await served.client.post("/v1/track", json=TRACK)
        await asyncio.sleep(1)
        assert told(await served.client.post("/v1/track", json=TRACK)) == SUCCESS
        assert await served.metric('windsor_endpoint_cut_off_total{reason="slow"}') == 3


async def test_headers_have_a_bound(served: Endpoint) -> None:
    host, _, port = served.url[7:].partition(":")
    for piece in (b"x-a: " + b"a" * 20_000 + b"\r\n\r\n", b"x-a: " + b"a" * 20_000):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/track HTTP/1.1\r\nhost: x\r\n")
        await writer.drain()
        writer.write(piece)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)
        writer.close()
        assert head == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


async def test_what_is_no_http_is_refused_without_a_log(
    served: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = served.url[7:].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)
    writer.close()

    assert head == b"HTTP/1.1 400 Bad Request\r\n"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert await served.metric('windsor_endpoint_cut_off_total{reason="malformed"}') == 1


async def test_connections_have_a_bound(kafka_server: str, database: str, topic: MakeTopic) -> None:
    async with endpoint(
        kafka_server, await topic(1), database, endpoint_connections_max=3
    ) as served:
        host, _, port = served.url[7:].partition(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(httpx.TransportError):
            await served.client.post("/v1/track", json=TRACK)
        for _, writer in held:
            writer.close()
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = await served.client.post("/v1/track", json=TRACK)
            except httpx.TransportError:
                # It has not heard yet that they are gone.
                assert time.monotonic() < deadline
            else:
                break
        assert told(answer) == SUCCESS


async def test_what_is_in_flight_has_a_bound_and_is_given_back(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    async with endpoint(
        kafka_server, await topic(1), database, endpoint_bytes_max=1024 * 1024
    ) as served:
        host, _, port = served.url[7:].partition(":")
        head = (
            f"POST /v1/batch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.token}\r\n"
            f"content-length: {BODY_BYTES_MAX}\r\n\r\n"
        ).encode()
        held = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head)
            held.append(writer)
            del reader
        await served.until_metric("windsor_endpoint_bytes", 2 * BODY_BYTES_MAX)
        large = json.dumps({**TRACK, "properties": {"a": "x" * 30_000}}).encode()
        answer = await served.client.post("/v1/track", content=large)
        assert code(answer) == (503, "busy")
        assert answer.headers["retry-after"] == "1"
        for writer in held:
            writer.close()
        await served.until_metric("windsor_endpoint_bytes", 0)
        assert told(await served.client.post("/v1/track", content=large)) == SUCCESS
        await served.until_metric("windsor_endpoint_bytes", 0)


async def test_strangers_take_no_room_by_what_they_only_announce(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    async with endpoint(
        kafka_server, await topic(1), database, endpoint_bytes_max=1024 * 1024
    ) as served:
        host, _, port = served.url[7:].partition(":")
        head = f"POST /v1/batch HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY_BYTES_MAX}\r\n\r\n"
        held = []
        for _ in range(4):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(head.encode() + b"{" * 1000)
            held.append(writer)
        # What did come is counted.
        await served.until_metric("windsor_endpoint_bytes", 4 * 1000)
        assert told(await served.client.post("/v1/track", json=TRACK)) == SUCCESS
        for writer in held:
            writer.close()
        await served.until_metric("windsor_endpoint_bytes", 0)


async def test_garbage_of_all_kinds_is_answered_and_changes_nothing(served: Endpoint) -> None:
    rng = random.Random(6)
    seeds = [json.dumps({"batch": [{"type": "track", **TRACK}]}).encode(), b"{}", b"[]", b""]
    for _ in range(300):
        body = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            body.insert(rng.randint(0, len(body)), rng.randrange(256))
        answer = await served.client.post("/v1/batch", content=bytes(body))
        assert answer.status_code in {200, 400}, bytes(body)
        assert answer.json()["success"] is (answer.status_code == 200)


# Others -----------------------------------------------------------------------------------------


async def test_a_proxys_word_is_taken_only_from_one_that_was_named(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    said = "198.51.100.9"
    for number, (proxies, address, expected) in enumerate([
        (None, said, "127.0.0.1"), ("192.0.2.1, 10.0.0.0/8", said, "127.0.0.1"),
        ("127.0.0.1", said, said), ("*", f'{said}"', f'{said}"'),
    ]):  # fmt: skip
        forwarded = {"x-forwarded-for": address, "x-forwarded-proto": "https"}
        name = await topic(1)
        _, token = await new_token(database, f"proxied {number}")
        async with (
            dashboard(settings_for(kafka_server, name, database, dashboard_proxies=proxies)) as at,
            httpx.AsyncClient(base_url=at.url, auth=(token, "")) as client,
        ):
            await until_ready(at.probes_url)
            answer = await client.post("/v1/track", json=TRACK, headers=forwarded)
            assert told(answer) == SUCCESS
        (record,) = await records_of(kafka_server, name)
        assert json.loads(record.value)["context"] == {"ip": expected}


async def test_what_may_happen_is_counted_from_0(served: Endpoint) -> None:
    async with httpx.AsyncClient(base_url=served.probes_url) as client:
        shown = (await client.get("/metrics")).text.splitlines()

    counted = {line.partition(" ")[0]: line.rpartition(" ")[2] for line in shown}
    wanted = [
        *[
            f'requests_total{{code="{code}",path="{path}"}}'
            for path in ("/v1/batch", "/v1/t", "/v1/m", "/b")
            for code in (200, 400, 401, 413, 503)
        ],
        *[
            f'cut_off_total{{reason="{reason}"}}'
            for reason in ("slow", "headers", "malformed", "connections")
        ],
        *[
            f'refused_total{{reason="{reason}"}}'
            for reason in ("busy", "unavailable", "rate_limited", "unknown_token", "missing_field")
        ],
        'calls_total{type="alias"}',
    ]
    assert {name: counted.get(f"windsor_endpoint_{name}") for name in wanted} == dict.fromkeys(
        wanted, "0.0"
    )
    assert len([name for name in counted if name.startswith("windsor_endpoint_")]) < 300


async def test_what_was_answered_is_counted(served: Endpoint) -> None:
    await served.client.post("/v1/batch", json={"batch": [{"type": "track", **TRACK}] * 3})
    await served.client.post("/v1/track", json={})
    await served.client.get("/v1/projects/ws_1/settings")
    await served.client.get("/projects/ws_1/settings")

    requests = "windsor_endpoint_requests_total"
    assert await served.metric(f'{requests}{{code="200",path="/v1/batch"}}') == 1
    assert await served.metric(f'{requests}{{code="400",path="/v1/track"}}') == 1
    for path in ("/v1/projects/TOKEN/settings", "/projects/TOKEN/settings"):
        assert await served.metric(f'{requests}{{code="401",path="{path}"}}') == 1
    assert await served.metric('windsor_endpoint_calls_total{type="track"}') == 3
    assert await served.metric("windsor_endpoint_records_total") == 3
    assert await served.metric("windsor_endpoint_request_duration_seconds_count") == 1
    assert await served.metric("windsor_endpoint_produce_duration_seconds_count") >= 1
