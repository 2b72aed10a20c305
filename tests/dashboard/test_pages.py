"""Every page of a dashboard over the story's database: what it shows, and where it goes on."""

import csv
import html
import io
import re
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import quote

import asyncpg
import pytest
import pytest_asyncio

from dashboard.setup import STEPS, snippets
from tests.dashboard.looking import (
    Looker,
    lines_of,
    looking,
    more_of,
    store_calls,
    store_story,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story_database(database_of_module: str) -> str:
    await store_story(database_of_module)
    return database_of_module


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def looker(story_database: str) -> AsyncIterator[Looker]:
    async with looking(story_database) as looker:
        yield looker


@pytest_asyncio.fixture(loop_scope="module")
async def sql(story_database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(story_database)
    yield connection
    await connection.close()


Sql = asyncpg.Connection  # a fixture's type, for its tests


async def all_of(looker: Looker, path: str) -> list[str]:
    """The pages from one on, until there are no more."""
    pages, following = [], path
    while following:
        pages.append(await looker.page(following))
        following = more_of(pages[-1]) or ""
        assert len(pages) < 500
    return pages


async def all_items(looker: Looker, path: str) -> list[dict[str, object]]:
    """The items of a list of the API, all pages of it."""
    items: list[dict[str, object]] = []
    place = ""
    while True:
        joined = "&" if "?" in path else "?"
        answer = (await looker.get(f"{path}{joined}place={quote(place)}")).json()
        items += answer["items"]
        if answer["next"] is None:
            return items
        place = answer["next"]


@pytest.mark.parametrize(
    "path",
    [
        "/", "/?category=payment", "/?name=Order+Completed&span=month", "/?user=10000", "/users",
        "/users?q=a", "/user?id=10000", "/identity?kind=anonymous&id=visitor-3", "/groups",
        "/group?id=co_1", "/audiences", "/audience?name=power_users",
        "/audience/changes?name=power_users", "/sources", "/dead-letters", "/dead-letter?id=1",
        "/health", "/users/count", "/user/trait?id=10000&key=plan",
    ],
)  # fmt: skip
async def test_page_is_there_and_small(path: str, looker: Looker) -> None:
    html = await looker.page(path)
    assert 0 < len(html) < 100_000


@pytest.mark.parametrize(
    "path",
    ["/user?id=nobody", "/group?id=none", "/audience?name=none", "/dead-letter?id=999", "/none",
     "/identity?kind=user&id=10000", "/identity?kind=odd&id=x",
     "/dead-letter?id=99999999999999999999"],
)  # fmt: skip
async def test_what_is_not_there_is_said_so_in_words(path: str, looker: Looker) -> None:
    answer = await looker.get(path)
    assert answer.status_code == 404
    assert "<h2>" in answer.text


async def test_feed_scrolls_through_every_event_once(looker: Looker, sql: Sql) -> None:
    shown = await all_items(looker, "/api/feed")
    rows = await sql.fetch("SELECT message_id FROM windsor.feed WHERE NOT hidden")
    assert Counter(item["message_id"] for item in shown) == Counter(r["message_id"] for r in rows)
    moments = [str(item["occurred_at"]) for item in shown]
    assert moments == sorted(moments, reverse=True)


async def test_pages_go_on_where_the_one_before_ended(looker: Looker, sql: Sql) -> None:
    sentences = [line for page in await all_of(looker, "/") for line in lines_of(page)]
    stored = await sql.fetchval("SELECT count(*) FROM windsor.feed WHERE NOT hidden")
    assert len(sentences) == stored


async def test_feed_tells_what_happened_in_words(looker: Looker) -> None:
    (order, *_) = lines_of(await looker.page("/?user=10000&name=Order+Completed"))
    assert order.startswith("Hiro Kovacs completed order #")
    assert " for $" in order
    (charge, *_) = lines_of(await looker.page("/?category=payment&name=Charge+Succeeded"))
    assert " was charged $" in charge
    (opened, *_) = lines_of(await looker.page("/?category=email&name=Email+Opened"))
    assert opened.endswith(" opened Your trial ends soon")


@pytest.mark.parametrize("category", ["email", "sms", "support", "payment", "lifecycle"])
async def test_category_shows_all_of_its_own_alone(category: str, looker: Looker, sql: Sql) -> None:
    items = await all_items(looker, f"/api/feed?category={category}")
    assert {item["category"] for item in items} == {category}
    assert len(items) == await sql.fetchval(
        "SELECT count(*) FROM windsor.feed WHERE NOT hidden AND category = $1", category
    )


async def test_group_filter_shows_its_members_events(looker: Looker, sql: Sql) -> None:
    items = await all_items(looker, "/api/feed?group=co_1")
    assert len(items) == await sql.fetchval(
        "SELECT count(*) FROM windsor.feed AS f JOIN windsor.users AS u USING (user_id)"
        " WHERE NOT f.hidden AND u.group_id = 'co_1'"
    )


async def test_hidden_events_are_shown_on_demand_and_that_is_remembered(
    story_database: str, sql: Sql
) -> None:
    async with looking(story_database) as looker:
        assert "viewed the page" not in await looker.page("/?user=visitor-3")
        answer = await looker.send("/hidden/switch", shown="yes", back="/?user=visitor-3")
        assert (answer.status_code, answer.headers["location"]) == (303, "/?user=visitor-3")
        page = await looker.page("/?user=visitor-3")
        assert "viewed the page" in page
        assert 'aria-checked="true"' in page
        assert len(await all_items(looker, "/api/feed?hidden=yes")) == await sql.fetchval(
            "SELECT count(*) FROM windsor.feed"
        )


async def test_name_is_hidden_for_everybody_and_shown_again(story_database: str) -> None:
    async with looking(story_database) as looker, looking(story_database) as other:
        assert "saved a filter" in await other.page("/?span=&name=Filter+Saved")
        await looker.send("/hidden/hide", name="Filter Saved", back="/")
        assert lines_of(await other.page("/?name=Filter+Saved")) == []
        assert "1 hidden event name" in await other.page("/")
        await other.send("/hidden/show", name="Filter Saved", back="/")
        assert "saved a filter" in await looker.page("/?name=Filter+Saved")


async def test_everyone_is_listed_by_their_last_sighting(looker: Looker, sql: Sql) -> None:
    items = await all_items(looker, "/api/users")
    rows = await sql.fetch("SELECT user_id, last_seen_at FROM windsor.users")
    assert Counter(item["user_id"] for item in items) == Counter(r["user_id"] for r in rows)
    seen = [str(item["last_seen_at"]) for item in items]
    assert seen == sorted(seen, reverse=True)


async def test_nobody_is_listed_twice_whose_last_calls_are_of_one_moment(
    database: str,
) -> None:
    # Everybody's calls are of two moments, so that each page ends among those of one.
    await store_calls(database, [
        {"type": type_, "userId": f"u{user}", "event": "Report Exported", "traits": {"n": user},
         "messageId": f"{type_}{user}-{number}", "timestamp": f"2026-10-01T10:00:0{user % 2}Z"}
        for user in range(150) for number in range(3) for type_ in ("track", "identify")
    ])  # fmt: skip
    async with looking(database) as looker:
        items = await all_items(looker, "/api/users")
    assert Counter(item["user_id"] for item in items) == {f"u{user}": 1 for user in range(150)}


@pytest.mark.parametrize(
    ("text", "user_id"),
    [
        ("hiro kov", "10000"),
        ("kovacs hiro", "10000"),
        ("hiro.kovacs0@ex", "10000"),
        ("HIRO.KOVACS0@EXAMPLE.COM", "10000"),
        ("10000", "10000"),
        ("+1 415 555-2000", "10000"),
        ("1415555200", "10000"),
        # Old ids and old contacts lead to who they are now.
        ("usr_0003", "10005"),
    ],
)
async def test_search_finds_by_whatever_is_known(text: str, user_id: str, looker: Looker) -> None:
    found = await all_items(looker, f"/api/users?q={quote(text)}")
    assert user_id in {item["user_id"] for item in found}
    assert len(found) <= 12


async def test_search_for_nobody_finds_nobody(looker: Looker) -> None:
    assert await all_items(looker, "/api/users?q=zzzz") == []
    assert "Nobody fits" in await looker.page("/users?q=zzzz")


@pytest.mark.parametrize("text", ["'", "a' | 'b", "!!!", ":*", "\\", "&|!()", "\x00", "é", "🚀"])
async def test_search_takes_whatever_is_typed(text: str, looker: Looker) -> None:
    answer = await looker.get("/users", params={"q": text})
    assert answer.status_code == 200


async def test_users_are_filtered_by_audience_group_and_trait(looker: Looker, sql: Sql) -> None:
    async def ids(query: str) -> set[object]:
        return {item["user_id"] for item in await all_items(looker, f"/api/users?{query}")}

    async def stored(condition: str) -> set[object]:
        rows = await sql.fetch(f"SELECT user_id FROM windsor.users WHERE {condition}")
        return {row["user_id"] for row in rows}

    power = "traits -> 'power_users' IN ('true', '\"true\"')"
    assert await ids("audience=power_users") == await stored(power)
    assert await ids("audience=total_revenue_30_days") == await stored(
        "traits ? 'total_revenue_30_days'"
    )
    assert await ids("group=co_1") == await stored("group_id = 'co_1'")
    assert await ids("trait=plan&value=trial") == await stored("traits ->> 'plan' = 'trial'")
    assert await ids("audience=power_users&group=co_1") == await stored(
        f"{power} AND group_id = 'co_1'"
    )


async def test_export_is_everyone_as_a_file(looker: Looker, sql: Sql) -> None:
    answer = await looker.get("/users.csv?group=co_1")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    stored = await sql.fetch("SELECT user_id, email FROM windsor.users WHERE group_id = 'co_1'")
    assert {(r["user_id"], r["email"]) for r in rows} == {
        (r["user_id"], r["email"]) for r in stored
    }
    assert answer.headers["content-disposition"] == 'attachment; filename="users.csv"'


async def test_api_tells_all_of_a_user(looker: Looker) -> None:
    user = (await looker.get("/api/user?id=usr_0003")).json()
    assert (user["user_id"], user["name"], user["email"], user["group_id"]) == (
        "10005", "Ines Nakamura", "ines.nakamura3@example.com", "co_3",
    )  # fmt: skip
    assert user["traits"]["plan"] == "trial"
    assert {one["value"] for one in user["identities"]} >= {"10005", "usr_0003", "usr_0004"}
    assert (await looker.get("/api/user?id=nobody")).status_code == 404


async def test_old_id_leads_to_who_they_are_now(looker: Looker) -> None:
    answer = await looker.get("/user?id=usr_0003")
    assert (answer.status_code, answer.headers["location"]) == (307, "/user?id=10005")


async def test_users_page_says_why_each_identity_is_theirs(looker: Looker) -> None:
    html = await looker.page("/user?id=10005")
    assert "Ines Nakamura" in html
    assert "Claimed by an identify call that carried it beside" in html
    assert "whose email it is" in html
    assert "usr_0003</bdi> → <bdi>usr_0004" in html


async def test_trait_tells_since_when_by_which_call_and_what_it_was_before(
    database: str,
) -> None:
    for number, (plan, day) in enumerate((("trial", 1), ("team", 5), (None, 7), ("pro", 9))):
        await store_calls(database, [{
            "type": "identify", "userId": "u1", "traits": {"plan": plan},
            "messageId": f"m{number}", "timestamp": f"2026-10-0{day}T10:00:00Z",
        }])  # fmt: skip
    async with looking(database) as looker:
        page = await looker.page("/user?id=u1")
        assert "Since Oct 9" in page
        assert "m3" in page
        history = await looker.page("/user/trait?id=u1&key=plan")
    values = [part.split("</bdi>")[0] for part in history.split("<li><bdi>")[1:]]
    assert values == ["pro", "removed", "team", "trial"]


async def test_visitors_page_has_what_they_said_of_themselves(database: str) -> None:
    await store_calls(database, [
        {"type": "identify", "anonymousId": "v1", "traits": {"plan": "trial"}, "messageId": "m1",
         "timestamp": "2026-10-01T10:00:00Z"},
        {"type": "track", "anonymousId": "v1", "event": "Report Exported", "messageId": "m2",
         "timestamp": "2026-10-02T10:00:00Z"},
    ])  # fmt: skip
    async with looking(database) as looker:
        html = await looker.page("/identity?kind=anonymous&id=v1")
        assert "<bdi>plan</bdi></dt><dd><bdi>trial</bdi>" in html
        assert lines_of(html) == ["Visitor v1 exported a report"]
        history = await looker.page("/user/trait?kind=anonymous&id=v1&key=plan")
    assert "<li><bdi>trial</bdi>" in history


async def test_audience_tells_who_entered_and_left(database: str) -> None:
    def sync(user: str, value: str, day: int) -> dict[str, object]:
        return {
            "type": "identify", "userId": user, "traits": {"vips": value == "true"},
            "messageId": f"{user}-{day}", "timestamp": f"2026-10-0{day}T10:00:00Z",
            "context": {"personas": {"computation_class": "audience", "computation_key": "vips"}},
        }  # fmt: skip

    await store_calls(database, [
        sync("ann", "true", 1), sync("bob", "true", 1), sync("ann", "true", 2),
        sync("bob", "false", 3),
        sync("cid", "false", 3), sync("bob", "true", 4),
    ])  # fmt: skip
    async with looking(database) as looker:
        html = await looker.page("/audience/changes?name=vips")
        assert await looker.page("/audience/count?name=vips") == "2"
    told = [
        (part.split("</bdi>")[0], "entered" if "entered" in part.split("</li>")[0] else "left")
        for part in html.split('class="who" href="')[1:]
        for part in [part.split("<bdi>", 1)[1]]
    ]
    assert told == [
        ("bob", "entered"), ("bob", "left"), ("bob", "entered"), ("ann", "entered"),
    ]  # fmt: skip


async def test_token_is_shown_once(database: str) -> None:
    async with looking(database) as looker:
        assert "No sources yet" in await looker.page("/sources")
        made = await looker.send("/sources/generate", name="Segment")
        token = made.text.split('id="token">')[1].split("<")[0]
        assert token.startswith("ws_")
        assert made.headers["cache-control"] == "no-store"
        assert token not in await looker.page("/sources")
        again = await looker.send("/sources/generate", name="Segment")
        assert again.status_code == 400
        assert "there is a source" in again.text
        source_id = token.split("_")[1]
        assert (await looker.send("/sources/revoke", source_id=source_id)).status_code == 303
        assert "revoked" in await looker.page("/sources")


async def test_a_new_token_comes_once_with_six_steps_and_code_to_paste(database: str) -> None:
    async with looking(database) as looker:
        url = looker.served.url
        before = await looker.page("/sources")
        assert re.search(r'type="radio" name="sender" value="segment" checked', before)
        assert before.index("Segment</b>") < before.index("Generate Token")
        made = (await looker.send("/sources/generate", name="Shop", sender="segment")).text
        after = await looker.page("/sources")

    token = made.split('id="token">')[1].split("<")[0]
    steps = re.search(r'<ol class="steps">(.*?)</ol>', made, re.DOTALL)
    assert steps is not None
    shown = [html.unescape(step) for step in re.findall(r"<li>(.*?)</li>", steps[1], re.DOTALL)]
    assert shown == list(STEPS)
    assert len(shown) == 6
    found = re.findall(r"<h3>(.*?)</h3>.*?<code id=.*?>(.*?)</code></pre>", made, re.DOTALL)
    assert [(html.unescape(title), html.unescape(code)) for title, code in found] == [
        (snippet.title, snippet.code) for snippet in snippets(url, token)
    ]
    assert len(found) == 4
    assert f"<code>{url}</code>" in made
    # The second look shows none of it.
    assert token not in after
    assert "<ol" not in after
    assert "<pre" not in after


async def test_dead_letter_shows_its_record_and_is_discarded(database: str) -> None:
    from tests.dashboard.looking import store  # noqa: PLC0415 - records of bytes, here alone

    await store(database, [b'{"type":"track","event":"<b>Cut', b"\x00\x01Avro"])
    async with looking(database) as looker:
        assert "&lt;b&gt;Cut" in await looker.page("/dead-letter?id=1")
        assert "00 01 41 76 72 6f" in await looker.page("/dead-letter?id=2")
        answer = await looker.send("/dead-letters/discard", id="1")
        assert answer.headers["location"] == "/dead-letters?said=discarded&count=1"
        assert "/dead-letter?id=1" not in await looker.page("/dead-letters")
        assert "/dead-letter?id=1" in await looker.page("/dead-letters?closed=yes")
        # Kafka is away: it is said so, and the letter is as it was.
        answer = await looker.send("/dead-letters/replay", id="2")
        assert answer.headers["location"] == "/dead-letter?id=2&fault=kafka"
        assert "Kafka cannot be reached" in await looker.page("/dead-letter?id=2&fault=kafka")


async def test_empty_workspace_says_what_to_do(database: str) -> None:
    async with looking(database) as looker:
        for path, words in (
            ("/", "No events yet"), ("/users", "No users yet"), ("/groups", "No groups yet"),
            ("/audiences", "No audiences yet"), ("/sources", "No sources yet"),
            ("/dead-letters", "Nothing is set aside"),
        ):  # fmt: skip
            assert words in await looker.page(path)
        assert await looker.page("/users/count") == "0 in all, 0 identified"
