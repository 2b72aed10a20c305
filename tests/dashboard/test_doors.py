"""The doors: a link that is good once, a password, a proxy's header; forms that carry a token."""

import re

import httpx
import pytest

from consumer.errors import ConfigError
from consumer.settings import Settings
from dashboard.doors import DoorOptions, Doors, door_options, hash_password, here
from tests.dashboard.looking import NOWHERE, looking, store_calls
from tests.dashboard.serving import dashboard, settings_for

PASSWORD = "correct horse battery staple"  # noqa: S105 - nobody's


async def test_link_signs_in_once(database: str) -> None:
    async with (
        dashboard(settings_for(NOWHERE, "calls", database)) as served,
        httpx.AsyncClient(base_url=served.url) as first,
        httpx.AsyncClient(base_url=served.url) as second,
    ):
        assert (await first.get("/users?q=a")).headers["location"] == (
            "/sign-in?to=%2Fusers%3Fq%3Da"
        )
        answer = await first.get(served.link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert (await first.get("/users")).status_code == 200
        again = await second.get(served.link)
        assert again.status_code == 403
        assert "used before" in again.text
        assert (await second.get("/users")).status_code == 303


async def test_link_does_not_yield_to_a_wrong_key(database: str) -> None:
    async with (
        dashboard(settings_for(NOWHERE, "calls", database)) as served,
        httpx.AsyncClient(base_url=served.url) as client,
    ):
        for key in ("", "x", "é", served.link.rsplit("=", 1)[1][:-1]):
            assert (await client.get("/open", params={"key": key})).status_code == 403
        assert (await client.get(served.link)).status_code == 303


async def test_password_signs_in_and_leads_on(database: str) -> None:
    settings = settings_for(
        NOWHERE, "calls", database, dashboard_password_hash=hash_password(PASSWORD)
    )
    async with (
        dashboard(settings) as served,
        httpx.AsyncClient(base_url=served.url) as client,
    ):
        assert served.link == f"{served.url}/"
        assert (await client.get("/open?key=")).status_code == 403
        wrong = await client.post("/sign-in", data={"password": "wrong"})
        assert wrong.status_code == 403
        right = await client.post("/sign-in", data={"password": PASSWORD, "to": "/users?q=a"})
        assert (right.status_code, right.headers["location"]) == (303, "/users?q=a")
        assert (await client.get("/users")).status_code == 200
        # And out again.
        token = re.search(r'name="csrf" content="([^"]+)"', (await client.get("/")).text)
        assert token is not None
        await client.post("/sign-out", data={"csrf": token[1]})
        assert (await client.get("/users")).status_code == 303


async def test_password_cannot_be_tried_for_ever(database: str) -> None:
    settings = settings_for(
        NOWHERE, "calls", database, dashboard_password_hash=hash_password(PASSWORD)
    )
    async with (
        dashboard(settings) as served,
        httpx.AsyncClient(base_url=served.url) as client,
    ):
        found = [
            (await client.post("/sign-in", data={"password": str(n)})).status_code for n in range(6)
        ]
        assert found == [403] * 5 + [429]
        assert (await client.post("/sign-in", data={"password": PASSWORD})).status_code == 429


async def test_header_is_believed_of_the_proxy_alone(database: str) -> None:
    header = {"X-Forwarded-Email": "jane@example.com"}
    for proxies, status in (("127.0.0.1", 200), ("10.0.0.1", 303)):
        settings = settings_for(
            NOWHERE, "calls", database, dashboard_proxies=proxies,
            dashboard_trusted_header="X-Forwarded-Email",
        )  # fmt: skip
        async with (
            dashboard(settings) as served,
            httpx.AsyncClient(base_url=served.url) as client,
        ):
            assert (await client.get("/users", headers=header)).status_code == status
            assert (await client.get("/users")).status_code == 303


def test_header_without_proxies_is_refused() -> None:
    for proxies in (None, "*", "*,", " ,"):
        settings = Settings(dashboard_trusted_header="X-User", dashboard_proxies=proxies)
        with pytest.raises(ConfigError, match="WINDSOR_DASHBOARD_PROXIES"):
            door_options(settings)


def test_hash_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="--hash-password"):
        door_options(Settings(dashboard_password_hash="secret"))  # noqa: S106 - the point


async def test_nothing_changes_without_the_forms_token(database: str) -> None:
    async with looking(database) as looker:
        token = await looker.csrf_token()
        for path, form in (
            ("/hidden/hide", {"name": "X"}), ("/hidden/show", {"name": "X"}),
            ("/hidden/switch", {"shown": "yes"}), ("/sources/generate", {"name": "X"}),
            ("/sources/revoke", {"source_id": "x"}), ("/dead-letters/replay", {"id": "1"}),
            ("/dead-letters/discard", {"id": "1"}), ("/sign-out", {}),
        ):  # fmt: skip
            for more in ({}, {"csrf": ""}, {"csrf": token[:-1]}):
                answer = await looker.client.post(path, data={**form, **more})
                assert answer.status_code == 403, path
            for headers in (
                {"Origin": "https://evil.example"},
                {"Sec-Fetch-Site": "cross-site"},
            ):
                answer = await looker.client.post(
                    path, data={**form, "csrf": token}, headers=headers
                )
                assert answer.status_code == 403, path
        assert "No sources yet" in await looker.page("/sources")


async def test_form_that_is_too_large_is_refused(database: str) -> None:
    async with looking(database) as looker:
        answer = await looker.send("/hidden/hide", name="x" * 200_000)
        assert answer.status_code == 413


def test_session_is_neither_forged_nor_kept_after_another_password() -> None:
    secret = "s" * 32
    doors = Doors(DoorOptions(hash_password("one"), None, secret))
    session = doors.session()
    assert doors.session_of(session) is not None
    assert Doors(DoorOptions(doors.options.password_hash, None, secret)).session_of(session)
    assert doors.session_of(session[:-1]) is None
    assert doors.session_of("") is None
    assert Doors(DoorOptions(hash_password("two"), None, secret)).session_of(session) is None
    assert Doors(DoorOptions(doors.options.password_hash)).session_of(session) is None


def test_address_to_go_back_to_is_here() -> None:
    for address in ("/", "/users?q=a#b", "/user?id=a%2Fb"):
        assert here(address) == address
    for address in ("", "//evil.example", "/\\evil.example", "https://evil.example", "/\n/x", "x"):
        assert here(address) == "/"


async def test_api_takes_the_token_of_a_source_that_may_read(database: str) -> None:
    await store_calls(database, [
        {"type": "track", "userId": "u1", "event": "Order Completed", "messageId": "m1",
         "timestamp": "2026-10-05T10:00:00Z", "properties": {"order_id": 7, "total": 5}},
    ])  # fmt: skip
    async with looking(database) as looker, httpx.AsyncClient() as script:
        tokens = {}
        for name, more in (("site", {}), ("script", {"may_read": "yes"})):
            made = await looker.send("/sources/generate", name=name, **more)
            tokens[name] = made.text.split('id="token">')[1].split("<")[0]
        assert "may read" in await looker.page("/sources")
        url = f"{looker.served.url}/api/feed"
        bearer = {"Authorization": f"Bearer {tokens['script']}"}
        answer = await script.get(url, headers=bearer)
        assert answer.json() == {
            "items": [{
                "message_id": "m1", "user_id": "u1", "person": "u1", "type": "track",
                "name": "Order Completed", "category": "analytics",
                "summary": "u1 completed order #7 for $5.00",
                "occurred_at": "2026-10-05T10:00:00Z", "group_id": None,
            }],
            "next": None,
        }  # fmt: skip
        assert (await script.get(url, auth=(tokens["script"], ""))).status_code == 200
        for token in (tokens["site"], "x", tokens["script"][:-1], "ws_none_x"):
            answer = await script.get(url, headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        # It reads under /api/ and nowhere else, and changes nothing.
        assert (await script.get(looker.served.url, headers=bearer)).status_code == 303
        assert (await script.post(url, headers=bearer)).status_code == 401
        await looker.send("/sources/revoke", source_id=tokens["script"].split("_")[1])
        assert (await script.get(url, headers=bearer)).status_code == 401
