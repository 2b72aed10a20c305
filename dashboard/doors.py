"""The doors: who may look at the pages, and who may change something.

One of three doors is open, by the settings:

- a *link* that is good once, printed when the dashboard starts, where nothing else is set;
- a *password*, whose argon2 hash is a setting;
- a *header* in which a proxy says who somebody is, after it has signed them in; believed from
  the proxies of the settings alone.

The first two give a session: a signed cookie that scripts cannot read and other sites cannot
send along. Whatever changes something also carries a token of the session in its form, and must
come from this site. Under `/api/` a token of a source that may read does instead, for reading.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from consumer.errors import ConfigError, check_all

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from consumer.settings import Settings

SESSION_SECONDS: Final = 14 * 86_400
_COOKIE: Final = "windsor_session"
_LINK_BYTES: Final = 24
_FORM_BYTES_MAX: Final = 128 * 1024
_PASSWORD_CHARS_MAX: Final = 1024
# Of one address in a minute; the next one waits. Hashing takes a while by design.
_FAILURES_MAX: Final = 5
_FAILURES_SECONDS: Final = 60.0
_ADDRESSES_MAX: Final = 10_000
# Source: RFC 9110, section 5.6.2 (a field's name is a token).
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})


class DoorOptions(NamedTuple):
    """Which door is open."""

    password_hash: str | None = None
    header: str | None = None
    """In lower case."""
    secret: str | None = None
    """What sessions are signed with; a new one at each start where None."""


def door_options(settings: "Settings") -> DoorOptions:
    """The part of the settings that the doors need.

    Raises:
        ConfigError: A header is to be believed of anybody, or a hash is none.
    """
    header, password_hash = settings.dashboard_trusted_header, settings.dashboard_password_hash
    check_all(
        lambda: _check_header(header, _proxies(settings)),
        lambda: _check_hash(password_hash),
    )
    return DoorOptions(
        password_hash, None if header is None else header.lower(), settings.dashboard_secret
    )


def _check_header(header: str | None, proxies: list[str]) -> None:
    if header is None:
        return
    if _HEADER.fullmatch(header) is None:
        raise ConfigError(
            "WINDSOR_DASHBOARD_TRUSTED_HEADER: must be a header's name, such as X-Forwarded-Email"
            f" (is {header!r})"
        )
    if proxies in ([], ["*"]):
        raise ConfigError(
            "WINDSOR_DASHBOARD_TRUSTED_HEADER: needs WINDSOR_DASHBOARD_PROXIES with the addresses"
            " of the proxies that set it, or anybody could"
        )


def _check_hash(password_hash: str | None) -> None:
    if password_hash is not None:
        try:
            PasswordHasher().check_needs_rehash(password_hash)
        except InvalidHashError as error:
            raise ConfigError(
                "WINDSOR_DASHBOARD_PASSWORD_HASH: is no argon2 hash:"
                " `windsor dashboard --hash-password` makes one"
            ) from error


def _proxies(settings: "Settings") -> list[str]:
    names = (name.strip() for name in (settings.dashboard_proxies or "").split(","))
    return [name for name in names if name]


def proxies_of(settings: "Settings") -> list[str]:
    """The addresses and networks of the proxies that are believed; `*` alone is anybody's.

    Raises:
        ConfigError: One is neither.
    """
    proxies = _proxies(settings)
    if proxies != ["*"]:
        # A network whose address has bits beyond its mask would be believed of nobody.
        for proxy in proxies:
            try:
                ip_network(proxy)
            except ValueError as error:
                raise ConfigError(
                    "WINDSOR_DASHBOARD_PROXIES: must be addresses or networks, such as"
                    f" 10.0.0.0/8, comma-separated, or * alone: {error}"
                ) from error
    return proxies


def hash_password(password: str) -> str:
    """Hash a password for the settings."""
    return PasswordHasher().hash(password)


class Doors:
    """Signs people in, and tells who somebody is."""

    def __init__(self, options: DoorOptions) -> None:
        self.options = options
        secret = options.secret or secrets.token_hex(32)
        # Another password ends all sessions.
        salt = hashlib.sha256(f"session {options.password_hash}".encode()).hexdigest()
        self._sessions = URLSafeTimedSerializer(secret, salt)
        self._csrf_key = hmac.digest(secret.encode(), b"csrf", "sha256")
        self._link_key = secrets.token_urlsafe(_LINK_BYTES)
        self._is_link_used = False
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._hashing = asyncio.Semaphore(2)

    @property
    def has_link(self) -> bool:
        """Whether the link is the door."""
        return self.options.password_hash is None and self.options.header is None

    def address(self, base_url: str) -> str:
        """Where somebody goes to sign in; with the link's key, where that is the door."""
        base = base_url.rstrip("/")
        return f"{base}/open?key={self._link_key}" if self.has_link else f"{base}/"

    def opens(self, key: str) -> bool:
        """Whether a link's key is right; only the first time."""
        is_right = hmac.compare_digest(key.encode(), self._link_key.encode())
        if not self.has_link or self._is_link_used or not is_right:
            return False
        self._is_link_used = True
        return True

    async def knows(self, password: str) -> bool:
        """Whether a password is right."""
        password_hash = self.options.password_hash
        if password_hash is None or len(password) > _PASSWORD_CHARS_MAX:
            return False
        async with self._hashing:
            return await asyncio.to_thread(_verified, password_hash, password)

    def waits(self, address: str, now: float) -> bool:
        """Whether an address has failed too often to try again now."""
        recent = [at for at in self._failures.get(address, ()) if now - at < _FAILURES_SECONDS]
        return len(recent) >= _FAILURES_MAX

    def failed(self, address: str, now: float) -> None:
        """Remember a failure."""
        recent = [at for at in self._failures.pop(address, ()) if now - at < _FAILURES_SECONDS]
        self._failures[address] = [*recent, now][-_FAILURES_MAX:]
        while len(self._failures) > _ADDRESSES_MAX:
            self._failures.popitem(last=False)

    def session(self) -> str:
        """A new session, for the cookie."""
        return str(self._sessions.dumps(secrets.token_urlsafe(18)))

    def session_of(self, cookie: str) -> str | None:
        """What a session is known by; None where it is forged, or over."""
        try:
            found = self._sessions.loads(cookie, max_age=SESSION_SECONDS)
        except BadSignature:
            return None
        return found if isinstance(found, str) else None

    def csrf_token(self, session: str) -> str:
        """What a form of a session carries."""
        digest = hmac.digest(self._csrf_key, session.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _verified(password_hash: str, password: str) -> bool:
    try:
        return PasswordHasher().verify(password_hash, password)
    except VerificationError:
        return False


class FromProxy:
    """Notes of each request whether a proxy that we believe has sent it; the outermost."""

    def __init__(self, app: "ASGIApp", believes: Callable[[str], bool]) -> None:
        self._app = app
        self._believes = believes

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """See ASGI."""
        client = scope.get("client")
        scope["windsor.from_proxy"] = client is not None and self._believes(client[0])
        await self._app(scope, receive, send)


MayRead = Callable[[str], Awaitable[bool]]
"""Whether a token may read under `/api/`."""
SignInPage = Callable[[Request, Mapping[str, str]], Response]
"""The page to sign in at; told `fault`, `to` and the `door`."""


class Guarded:
    """The pages behind their door."""

    def __init__(
        self, app: "ASGIApp", doors: Doors, may_read: MayRead, sign_in_page: SignInPage
    ) -> None:
        self._app = app
        self._doors = doors
        self._may_read = may_read
        self._sign_in_page = sign_in_page

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        path = request.url.path
        if path.startswith("/static/"):
            await self._app(scope, receive, _kept(send))
            return
        answer = await self._at_the_door(request, path)
        session = self._session(request)
        if answer is None and session is None:
            answer = await self._for_a_stranger(request, path)
        if answer is None and session is not None:
            csrf_token = self._doors.csrf_token(session)
            scope["windsor.csrf_token"] = csrf_token
            if request.method not in _SAFE_METHODS:
                answer = await self._checked(request, path, csrf_token)
        await (answer or self._app)(scope, receive, _private(send))

    async def _checked(self, request: Request, path: str, csrf_token: str) -> Response | None:
        """Read the form that is to change something; an answer where it may not."""
        form = await _form(request)
        if form is None:
            return _plain("This form is too large.", 413)
        token = request.headers.get("x-csrf-token") or form.get("csrf", "")
        if not _is_ours(request) or not hmac.compare_digest(token.encode(), csrf_token.encode()):
            return _plain("This form is out of date: go back, reload, and try again.", 403)
        if path == "/sign-out":
            answer = RedirectResponse("/sign-in", 303)
            answer.delete_cookie(_COOKIE)
            return answer
        request.scope["windsor.form"] = form
        return None

    def _session(self, request: Request) -> str | None:
        header = self._doors.options.header
        if header is not None:
            who = request.headers.get(header, "")
            is_from_proxy = request.scope.get("windsor.from_proxy", False)
            return f"header {who}" if who and is_from_proxy else None
        return self._doors.session_of(request.cookies.get(_COOKIE, ""))

    async def _at_the_door(self, request: Request, path: str) -> Response | None:
        """Answer what strangers may ask for; None for all else."""
        if path == "/open" and request.method == "GET":
            if self._doors.opens(request.query_params.get("key", "")):
                return self._signed_in(request, "/")
            return self._sign_in(
                request,
                "This link was used before, or is not ours."
                " The dashboard prints a new one when it starts.",
                403,
            )
        if path != "/sign-in":
            return None
        if request.method != "POST":
            return self._sign_in(request)
        return await self._try_password(request)

    async def _try_password(self, request: Request) -> Response:
        form = await _form(request)
        if form is None or not _is_ours(request):
            return _plain("This form did not come from this site.", 403)
        address = request.client.host if request.client is not None else ""
        if self._doors.waits(address, time.monotonic()):
            answer = self._sign_in(request, "Too many attempts: wait a minute.", 429)
            answer.headers["Retry-After"] = str(int(_FAILURES_SECONDS))
            return answer
        if await self._doors.knows(form.get("password", "")):
            return self._signed_in(request, here(form.get("to", "/")))
        self._doors.failed(address, time.monotonic())
        return self._sign_in(request, "That is not the password.", 403)

    def _sign_in(self, request: Request, fault: str = "", status_code: int = 200) -> Response:
        options = self._doors.options
        door = "password" if options.password_hash else "header" if options.header else "link"
        to = here(request.query_params.get("to", "/"))
        answer = self._sign_in_page(request, {"fault": fault, "to": to, "door": door})
        answer.status_code = status_code
        return answer

    def _signed_in(self, request: Request, to: str) -> Response:
        answer = RedirectResponse(to, 303)
        answer.set_cookie(
            _COOKIE,
            self._doors.session(),
            max_age=SESSION_SECONDS,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        return answer

    async def _for_a_stranger(self, request: Request, path: str) -> Response | None:
        """Send somebody to the door; None for a token that may read."""
        if path.startswith("/api/"):
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            is_safe = request.method in _SAFE_METHODS
            if scheme.lower() == "basic":
                token = _user_of(token)
            if is_safe and token and await self._may_read(token.strip()):
                return None
            return JSONResponse(
                {"code": "unauthorized", "message": "give the token of a source that may read"},
                401,
                {"WWW-Authenticate": 'Bearer realm="windsor"'},
            )
        to = f"/sign-in?to={quote(_address(request), safe='')}"
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
        if request.method not in _SAFE_METHODS:
            return _plain("Sign in first.", 401)
        return RedirectResponse(to, 303)


def _plain(text: str, status_code: int) -> Response:
    return PlainTextResponse(f"{text}\n", status_code)


def _user_of(encoded: str) -> str:
    """The user name of Basic credentials, empty where there is none."""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[0]
    except ValueError:
        return ""


def _address(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def here(address: str) -> str:
    """An address on this site, the first page where it is none."""
    parts = urlsplit(address)
    is_here = (
        address.startswith("/")
        and not address.startswith(("//", "/\\"))
        and not parts.netloc
        and address.isprintable()
    )
    return address if is_here else "/"


def form_of(request: Request) -> Mapping[str, str]:
    """The form of a request that came through the door."""
    form: Mapping[str, str] = request.scope["windsor.form"]
    return form


async def _form(request: Request) -> Mapping[str, str] | None:
    """Read a form, of each name the first value; None where it is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_BYTES_MAX:
            return None
    try:
        found = parse_qs(
            body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=100
        )
    except ValueError:
        return None
    return {name: values[0] for name, values in found.items()}


def _is_ours(request: Request) -> bool:
    """Whether a browser says that a form came from this site, or does not say."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _private(send: "Send") -> "Send":
    return _with_cache(send, "private, no-cache")


def _kept(send: "Send") -> "Send":
    """Static files: their address changes with them."""
    return _with_cache(send, "public, max-age=31536000, immutable")


def _with_cache(send: "Send", policy: str) -> "Send":
    async def send_with_policy(message: "Message") -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if "cache-control" not in headers:
                headers["cache-control"] = policy
        await send(message)

    return send_with_policy
