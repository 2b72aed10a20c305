"""A dashboard as a whole: probes, headers, what stops it from starting."""

import httpx

from tests.dashboard.serving import dashboard, settings_for

NOWHERE = "127.0.0.1:1"


async def test_probes_tell_of_the_database(database: str) -> None:
    async with (
        dashboard(settings_for(NOWHERE, "calls", database)) as served,
        httpx.AsyncClient(base_url=served.probes_url) as client,
    ):
        healthy = await client.get("/healthz")
    assert (healthy.status_code, healthy.text) == (200, "ok")


async def test_every_answer_carries_the_security_headers(database: str) -> None:
    async with (
        dashboard(settings_for(NOWHERE, "calls", database)) as served,
        httpx.AsyncClient(base_url=served.url) as client,
    ):
        answer = await client.get("/no-such-page")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/sign-in?to=%2Fno-such-page",
    )
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert "server" not in answer.headers
