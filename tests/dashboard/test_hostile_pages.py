"""Nothing that a sender puts in breaks a page: all pages are walked with hostile values in them."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from urllib.parse import quote

import asyncpg
import pytest
import pytest_asyncio

from tests.dashboard.looking import Looker, looking, store, store_calls

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = "<script>alert(1)</script>"
TURNED = "\u202eevil\u2066 \u200f"
LONG = "W" * 10_000
HOSTILE = [
    SCRIPT,
    "'\"><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }} {% raw %}",
    TURNED,
    LONG[:500],
    "a/b?c#d&e=f%00%zz",
    "..",
    ".",
    "line\nbreak\ttab\x7f",
    "</textarea></title></style>-->",
    "x' onmouseover='alert(1)",
    "e\u0301\u0327" * 60,
    "\U0001f469\u200d\U0001f4bb" * 20,
]


def calls() -> list[dict[str, object]]:
    """Everybody does everything, and is called what they should not be."""
    found: list[dict[str, object]] = []
    for number, text in enumerate(HOSTILE):
        at = f"2026-10-05T10:{number:02}:00Z"
        long = LONG if text.startswith("WW") else text
        common = {"userId": text, "anonymousId": f"v{text}"[:500], "timestamp": at}
        found += [
            {**common, "type": "identify", "traits": {
                "name": long, "email": f"{text}@x", "phone": text, "avatar": f"javascript:{text}",
                text: {text: long}, f"aud {text}": True, "list": [long] * 3,
            }},
            {**common, "type": "identify", "messageId": f"aud{number}", "traits": {text: True},
             "context": {"personas": {"computation_class": text, "computation_key": text}}},
            {**common, "type": "group", "groupId": text, "traits": {"name": long, text: long}},
            {**common, "type": "track", "event": long, "properties": {
                "name": long, "title": long, text: long, "currency": text, "total": text,
            }},
            {**common, "type": "track", "event": "Order Completed", "properties": {
                "order_id": long, "total": "9" * 400, "currency": text,
            }},
            {**common, "type": "track", "event": "Email Opened", "properties": {
                "email_subject": long, "email": f"{text}@x.example", "products": {"a": [long]},
            }},
            {**common, "type": "page", "name": long, "properties": {"title": long, "path": text}},
            {**common, "type": "screen", "name": long},
            {"type": "alias", "userId": text, "previousId": f"old{text}"[:500], "timestamp": at},
        ]  # fmt: skip
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def looker(database_of_module: str) -> AsyncIterator[Looker]:
    await store_calls(database_of_module, calls())
    await store(
        database_of_module,
        [SCRIPT.encode(), b'{"type":"' + SCRIPT.encode() + b'"}', b"\xff\xfe<script>", b"[" * 500],
    )
    async with looking(database_of_module) as looker:
        for text in HOSTILE[:6]:
            await looker.send("/hidden/hide", name=text)
            await looker.send("/hidden/show", name=text)
        await looker.send("/hidden/hide", name=SCRIPT)
        await looker.send("/sources/generate", name=SCRIPT)
        await looker.send("/hidden/switch", shown="yes")
        yield looker


class Page(HTMLParser):
    """Reads a page as a browser does, and notes what must not be there."""

    ALLOWED_SCRIPTS = re.compile(r"/static/[a-z0-9.-]+\.js\?v=[0-9a-f]+")

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "script" and not self.ALLOWED_SCRIPTS.fullmatch(named.get("src") or ""):
            self.faults.append(f"a script: {attrs}")
        if tag in {"iframe", "object", "embed", "base", "style"}:
            self.faults.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.faults.append(f"{name}={value}")
            if name in {"href", "src", "action", "hx-get"}:
                if tag != "form":
                    self.links.append(value or "")
                if not (value or "").startswith(("/", "https://", "#")) or (value or "").startswith(
                    "//"
                ):
                    self.faults.append(f"{name}={value}")
        # What a page is made of, in which a sender's text would be an element of its own.
        if tag == "img" and not (named.get("src") or "").startswith(("/static/", "https://")):
            self.faults.append(f"an image: {attrs}")


def links_of(html: str, path: str) -> list[str]:
    page = Page()
    page.feed(html)
    assert page.faults == [], path
    # JSON is shown as it is, within an element that keeps its direction to itself.
    shown = re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL)
    texts = Page()
    texts.feed(shown)
    assert "\u202e" not in "".join(texts.texts), path
    return [link for link in page.links if link.startswith("/") and not link.startswith("/static")]


async def test_every_page_that_can_be_reached_is_whole(looker: Looker) -> None:
    """Walk all links from the first page, some of each kind."""
    waiting = ["/", "/users", "/groups", "/audiences", "/sources", "/dead-letters", "/health"]
    seen: set[str] = set()
    by_kind: dict[str, int] = {}
    while waiting:
        path = waiting.pop()
        kind = path.partition("?")[0]
        if path in seen or by_kind.get(kind, 0) >= 40:
            continue
        seen.add(path)
        by_kind[kind] = by_kind.get(kind, 0) + 1
        answer = await looker.get(path, follow_redirects=True)
        assert answer.status_code in {200, 405}, (path, answer.text[:500])
        if answer.headers["content-type"].startswith("text/html"):
            waiting += links_of(answer.text, path)
    assert {
        "/", "/users", "/user", "/user/more", "/user/trait", "/group", "/audience", "/event",
        "/audience/changes", "/audience/count", "/dead-letter", "/users.csv", "/feed/more",
    } - set(by_kind) <= {"/user/more", "/feed/more"}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
async def test_page_of_each_is_found_and_small(text: str, looker: Looker) -> None:
    asked = quote(text.strip(), safe="")
    for path in (
        f"/user?id={asked}", f"/group?id={asked}", f"/audience?name={asked}", f"/users?q={asked}",
        f"/?user={asked}", f"/?name={asked}", f"/?group={asked}", f"/users?trait={asked}&value=x",
        f"/users?audience={asked}", f"/user/trait?id={asked}&key={asked}", f"/api/user?id={asked}",
    ):  # fmt: skip
        answer = await looker.get(path, follow_redirects=True)
        assert answer.status_code == 200, path
        if answer.headers["content-type"].startswith("text/html"):
            links_of(answer.text, path)
            assert len(answer.text) < 130_000


@pytest.mark.parametrize(
    "query",
    [
        "place=-1-zz", "place=99999999999999999999999-" + "f" * 32, "place=" + "9" * 5000,
        "day=<script>", "category=<script>", "span=never", "name=" + "x" * 5000, "before=-1",
        "place=0-" + "0" * 32, "place=-62135596800000000-" + "0" * 32, "q=%00", "id=%00",
        "identity=999999999999999999999", "place=253402300799999999-" + "f" * 32, "after=%ff%fe",
    ],
)  # fmt: skip
async def test_address_that_nobody_made_for_us_is_answered(query: str, looker: Looker) -> None:
    for path in (
        "/", "/feed/more", "/users", "/users/more", "/user", "/user/more", "/groups",
        "/groups/more", "/dead-letters", "/dead-letters/more", "/event", "/identity", "/api/feed",
        "/api/users", "/api/groups", "/api/user",
    ):  # fmt: skip
        answer = await looker.get(f"{path}?{query}")
        assert answer.status_code in {200, 404}, path
        if answer.headers["content-type"].startswith("text/html"):
            links_of(answer.text, path)


@pytest.mark.parametrize(
    ("digits", "shown"),
    [("1" * 400 + ".5", "1" * 30), ("9" * 5_000, "9" * 30), ("1e400", "1" + "0" * 30)],
)
async def test_number_that_python_cannot_hold_is_shown_by_its_digits(
    digits: str, shown: str, database: str
) -> None:
    said = f'"userId":"u1","groupId":"g1","event":"Order Completed","%s":{{"plan":{digits}}}'
    parts = {"identify": "traits", "group": "traits", "track": "properties"}
    await store(
        database,
        [f'{{"type":"{type_}",{said % part}}}'.encode() for type_, part in parts.items()],
    )
    async with looking(database) as looker:
        for path in ("/", "/users", "/user?id=u1", "/groups", "/group?id=g1", "/users.csv"):
            await looker.page(path)
        for path in ("/api/feed", "/api/users", "/api/user?id=u1", "/api/groups"):
            assert (await looker.get(path)).status_code == 200, path
        assert shown in (await looker.page("/user?id=u1"))


async def test_no_cell_of_the_export_is_a_formula(database: str) -> None:
    await store_calls(database, [
        {"type": "identify", "userId": "=cmd|' /C calc'!A0", "traits": {"name": "@SUM(1)"}},
    ])  # fmt: skip
    async with looking(database) as looker:
        row = (await looker.page("/users.csv")).splitlines()[1]
    assert row.startswith("'=cmd")
    assert ",'@SUM(1)," in row


async def test_avatar_is_shown_only_over_https(database: str) -> None:
    await store_calls(database, [
        {"type": "identify", "userId": f"u{number}", "traits": {"avatar": avatar}}
        for number, avatar in enumerate(
            ["https://a.example/x.png", "http://a.example/y.png", "javascript:alert(1)",
             "data:image/svg+xml,<svg/>", " https://a.example/z.png", "//a.example/w.png"]
        )
    ])  # fmt: skip
    async with looking(database) as looker:
        html = await looker.page("/users")
    assert re.findall(r'<img src="([^"]+)"', html)[1:] == ["https://a.example/x.png"]


async def test_database_that_is_away_is_said_so(database: str) -> None:
    async with looking(database) as looker:
        connection = await asyncpg.connect(database)
        await connection.execute("ALTER SCHEMA windsor_dashboard RENAME TO gone")
        await connection.close()
        answer = await looker.get("/users")
        # No such schema is our own fault, not a passing one: no page pretends otherwise.
        assert answer.status_code == 500


async def test_page_of_a_new_token_takes_neither_name_nor_host_for_html(looker: Looker) -> None:
    for number, host in enumerate(("127.0.0.1", f"a{SCRIPT}")):
        form = {"name": f"{SCRIPT}{number}", "csrf": await looker.csrf_token()}
        made = await looker.client.post("/sources/generate", data=form, headers={"host": host})
        assert made.status_code == 200
        assert "curl -u ws_" in made.text
        links_of(made.text, "/sources/generate")
