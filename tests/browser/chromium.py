"""A real Chromium that is signed in to a dashboard, and axe-core to look at what it shows."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, Page, async_playwright

from tests import programs
from tests.dashboard.looking import Looker

_FOLDER = Path(__file__).parent

# An avatar that is not fetched, and a page that says that it is not there.
_EXPECTED = re.compile(r"net::ERR_FAILED|status of 404")
_NETWORK = re.compile(r"net::ERR_\w+")

Scheme = Literal["light", "dark"]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start the machine's Chromium."""
    path = programs.chromium()
    async with async_playwright() as playwright:
        # As root, in a container, it has no sandbox of its own.
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page_of(
    browser: Browser,
    looker: Looker,
    scheme: Scheme = "light",
    size: tuple[int, int] = (1280, 860),
    *,
    network_fails: bool = False,
) -> AsyncIterator[Page]:
    """A page that is signed in; what its console says against us fails the test at its end.

    Where the test breaks the network, what the console says of that is no fault.
    """
    expected = _NETWORK if network_fails else _EXPECTED
    context = await browser.new_context(
        base_url=looker.served.url,
        color_scheme=scheme,
        viewport={"width": size[0], "height": size[1]},
        timezone_id="UTC",
        locale="en-US",
    )
    session = looker.client.cookies["windsor_session"]
    await context.add_cookies(
        [{"name": "windsor_session", "value": session, "url": looker.served.url}]
    )
    # Avatars are others' affair; what they are is not asked of the network in a test.
    await context.route("**/*.example.com/**", lambda route: route.abort())
    faults: list[str] = []
    page = await context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda message: (
            faults.append(message.text)
            if message.type in {"error", "warning"} and not expected.search(message.text)
            else None
        ),
    )
    try:
        yield page
    finally:
        await context.close()
    assert faults == []


@cache
def axe_script() -> str:
    """axe-core, as its own lock file has it."""
    script = programs.npm_packages(_FOLDER) / "axe-core" / "axe.min.js"
    return script.read_text(encoding="utf-8")


async def barriers(page: Page) -> list[str]:
    """What axe-core finds that is serious, one line each."""
    # By the debugger, since the page's own policy lets no script in.
    await page.evaluate(axe_script())
    found: dict[str, Any] = await page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"][:3]
    ]


async def overflow(page: Page) -> int:
    """By how many pixels a page is wider than its window."""
    width: int = await page.evaluate(
        "Math.max(0, document.documentElement.scrollWidth - innerWidth)"
    )
    return width


async def until(page: Page, condition: str) -> None:
    """Wait for a script's word.

    By the debugger: what Playwright itself waits with is `eval`, which the page's own policy
    refuses unless the first look finds it.
    """
    async with asyncio.timeout(10):
        while not await page.evaluate(condition):  # noqa: ASYNC110 - nobody calls us
            await asyncio.sleep(0.02)
