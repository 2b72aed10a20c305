"""Every page in a real Chromium: whole, without barriers, on a desk and on a phone."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Route, expect

from tests.browser.chromium import Scheme, barriers, chromium, overflow, page_of, until
from tests.dashboard.looking import Looker, looking, store_calls, store_story
from tests.proxy import Address, Fault, proxying

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGES = [
    "/", "/users", "/user?id=10005", "/identity?kind=anonymous&id=visitor-3", "/groups",
    "/group?id=co_1", "/audiences", "/audience?name=power_users", "/sources", "/dead-letters",
    "/dead-letter?id=2", "/health", "/users?q=nobody+at+all", "/none",
]  # fmt: skip
PHONE = (390, 844)
DESK = (1280, 860)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def looker(database_of_module: str) -> AsyncIterator[Looker]:
    await store_story(database_of_module)
    async with looking(database_of_module) as looker:
        await looker.send("/sources/generate", name="Segment")
        yield looker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


def call(number: int) -> dict[str, object]:
    return {
        "type": "track", "userId": f"u{number}", "event": "Report Exported",
        "messageId": f"m{number}", "timestamp": datetime.now(UTC).isoformat(),
    }  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)])
async def test_page_has_no_barrier_and_fits_its_window(
    path: str, scheme: Scheme, size: tuple[int, int], looker: Looker, browser: Browser
) -> None:
    async with page_of(browser, looker, scheme, size) as page:
        await page.goto(path)
        await page.wait_for_timeout(400)
        assert await barriers(page) == []
        assert await overflow(page) == 0


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)])
async def test_a_token_is_generated_with_what_one_does_with_it(
    scheme: Scheme, size: tuple[int, int], looker: Looker, browser: Browser
) -> None:
    async with page_of(browser, looker, scheme, size) as page:
        await page.goto("/sources")
        await expect(page.get_by_role("radio", name="Segment")).to_be_checked()
        await page.get_by_label("Name of the new source").fill(f"Shop, {scheme}")
        await page.get_by_role("button", name="Generate Token").click()
        await expect(page.locator("#token")).to_contain_text("ws_")
        await expect(page.locator(".steps li")).to_have_count(6)
        await expect(page.locator("pre code")).to_have_count(4)
        assert await barriers(page) == []
        assert await overflow(page) == 0


async def test_details_open_by_keyboard_and_close_again(looker: Looker, browser: Browser) -> None:
    async with page_of(browser, looker) as page:
        await page.goto("/")
        button = page.locator(".open").first
        await button.focus()
        await page.keyboard.press("Enter")
        details = page.locator(".line").first.locator(".details")
        await expect(details).to_contain_text("Message id")
        await expect(button).to_have_attribute("aria-expanded", "true")
        assert await barriers(page) == []
        await page.keyboard.press("Enter")
        await expect(details).to_be_hidden()


async def test_search_finds_as_one_types(looker: Looker, browser: Browser) -> None:
    async with page_of(browser, looker) as page:
        await page.goto("/users")
        await page.keyboard.type("hiro kov")
        await expect(page.locator("#found tbody tr")).to_have_count(1)
        await expect(page.locator("#found")).to_contain_text("Hiro Kovacs")
        assert page.url.endswith("/users?q=hiro%20kov&audience=&group=&trait=&value=")
        # Whoever types goes on where they are.
        await expect(page.locator("#search")).to_be_focused()


async def test_feed_goes_on_as_one_scrolls(looker: Looker, browser: Browser) -> None:
    async with page_of(browser, looker) as page:
        await page.goto("/")
        await expect(page.locator(".line")).to_have_count(50)
        await page.mouse.wheel(0, 50_000)
        await expect(page.locator(".line")).to_have_count(100)
        ids = await page.eval_on_selector_all(".line", "all => all.map(one => one.id)")
        assert len(set(ids)) == len(ids)
        days = await page.eval_on_selector_all(".day", "all => all.map(one => one.textContent)")
        assert len(set(days)) == len(days)


async def test_category_filters_and_live_goes_on_with_it(looker: Looker, browser: Browser) -> None:
    async with page_of(browser, looker) as page:
        await page.goto("/")
        await page.get_by_role("radio", name="Payment").check()
        await expect(page.locator(".badge.analytics")).to_have_count(0)
        await expect(page.locator(".badge.payment").first).to_be_visible()
        assert await page.locator("[data-live]").get_attribute("data-live") == (
            "/feed/live?category=payment"
        )
        await expect(page.locator("[data-live-word]")).to_have_text("Live")


async def test_switch_brings_pages_in_and_is_remembered(looker: Looker, browser: Browser) -> None:
    async with page_of(browser, looker) as page:
        await page.goto("/?user=visitor-3")
        await expect(page.locator(".line")).to_have_count(0)
        await page.get_by_role("switch").click()
        await expect(page.locator(".line").first).to_contain_text("viewed the page")
        await page.goto("/?user=visitor-3")
        await expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "true")


async def test_events_arrive_without_losing_ones_place(database: str, browser: Browser) -> None:
    await store_calls(database, map(call, range(60)))
    async with looking(database) as looker, page_of(browser, looker) as page:
        await page.goto("/")
        await expect(page.locator("[data-live-word]")).to_have_text("Live")
        # At the top, what arrives is there at once.
        await store_calls(database, [call(60)])
        await expect(page.locator(".line").first).to_contain_text("u60 exported a report")
        await expect(page.locator(".arrivals")).to_be_hidden()
        # Further down it waits, and what one reads stays where it is.
        await page.mouse.wheel(0, 900)
        await until(page, "window.scrollY > 500")
        line = page.locator(".line").nth(14)
        before = await line.bounding_box()
        assert before is not None
        text = await line.inner_text()
        await store_calls(database, [call(61), call(62)])
        await expect(page.locator(".arrivals")).to_have_text("↑ 2 new events")
        after = await line.bounding_box()
        assert after is not None
        # A browser counts in fractions of a pixel.
        assert abs(after["y"] - before["y"]) < 1
        assert await line.inner_text() == text
        await page.locator(".arrivals").click()
        await expect(page.locator(".line").first).to_contain_text("u62 exported a report")
        await until(page, "window.scrollY === 0")


async def test_what_was_stored_while_the_stream_was_away_arrives_too(
    database: str, browser: Browser
) -> None:
    await store_calls(database, map(call, range(3)))
    async with looking(database) as looker, page_of(browser, looker, network_fails=True) as page:
        port = urlsplit(looker.served.url).port
        async with proxying(Address(port)) as proxy:
            await page.goto(f"http://127.0.0.1:{proxy.port}/")
            await expect(page.locator("[data-live-word]")).to_have_text("Live")
            proxy.fail(Fault.CLOSED)
            await expect(page.locator("[data-live-word]")).to_have_text("Reconnecting")
            hour_ago = datetime.now(UTC) - timedelta(hours=1)
            late = {**call(9), "timestamp": hour_ago.isoformat()}
            await store_calls(database, [call(3), call(4), late])
            proxy.mend()
            await expect(page.locator("[data-live-word]")).to_have_text("Live", timeout=30_000)
            await expect(page.locator(".line")).to_have_count(6)
            await expect(page.locator(".line").first).to_contain_text("u4 exported a report")
            # The stream goes on.
            await store_calls(database, [call(5)])
            await expect(page.locator(".line").first).to_contain_text("u5 exported a report")


@pytest.mark.parametrize(("calls_count", "lines_count"), [(1, 4), (60, 53)])
async def test_what_was_stored_between_a_page_and_its_stream_arrives_too(
    database: str, browser: Browser, calls_count: int, lines_count: int
) -> None:
    await store_calls(database, map(call, range(3)))
    async with looking(database) as looker, page_of(browser, looker) as page:
        stored = asyncio.Event()

        async def hold(route: Route) -> None:
            await stored.wait()
            await route.continue_()

        await page.route("**/feed/live*", hold)
        await page.goto("/")
        await expect(page.locator(".line")).to_have_count(3)
        await page.evaluate("window.isAsOpened = true")
        await store_calls(database, map(call, range(3, 3 + calls_count)))
        stored.set()
        newest = f"u{2 + calls_count} exported a report"
        await expect(page.locator(".line").first).to_contain_text(newest)
        await expect(page.locator(".line")).to_have_count(lines_count)
        # However much it was: a busy feed would load its page for ever.
        assert await page.evaluate("window.isAsOpened")


async def test_page_that_missed_more_than_it_holds_is_loaded_anew(
    database: str, browser: Browser
) -> None:
    await store_calls(database, map(call, range(3)))
    async with looking(database) as looker, page_of(browser, looker, network_fails=True) as page:
        port = urlsplit(looker.served.url).port
        async with proxying(Address(port)) as proxy:
            stored = asyncio.Event()

            async def hold(route: Route) -> None:
                await stored.wait()
                await route.continue_()

            await page.route("**/feed/live*", hold)
            await page.goto(f"http://127.0.0.1:{proxy.port}/")
            await expect(page.locator(".line")).to_have_count(3)
            # The stream fails before it has begun.
            proxy.fail(Fault.CLOSED)
            stored.set()
            await expect(page.locator("[data-live-word]")).to_have_text("Reconnecting")
            await store_calls(database, map(call, range(3, 63)))
            proxy.mend()
            await expect(page.locator(".line")).to_have_count(50, timeout=30_000)
            await expect(page.locator(".line").first).to_contain_text("u62 exported a report")


async def test_theme_is_switched_and_remembered(looker: Looker, browser: Browser) -> None:
    async with page_of(browser, looker) as page:
        await page.goto("/health")
        await page.locator("[data-theme-switch]").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        await page.goto("/users")
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert await barriers(page) == []


async def test_pages_work_without_scripts(looker: Looker, browser: Browser) -> None:
    context = await browser.new_context(base_url=looker.served.url, java_script_enabled=False)
    await context.add_cookies([{
        "name": "windsor_session", "value": looker.client.cookies["windsor_session"],
        "url": looker.served.url,
    }])  # fmt: skip
    page = await context.new_page()
    await page.goto("/")
    await page.get_by_label("Event name").fill("Order Completed")
    await page.get_by_role("button", name="Apply").click()
    await expect(page.locator(".line").first).to_contain_text("completed order #")
    await page.get_by_role("link", name="Older events").click()
    await expect(page.locator(".line").first).to_contain_text("completed order #")
    await context.close()
