"""A connection to Postgres: our types on it, and whose fault its errors are."""

import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qs, urlsplit

import asyncpg

from consumer.errors import ConfigError, PermanentSinkError, TransientSinkError
from consumer.tls import Distrust, distrust

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

PG_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01T00:00:00Z, from which Postgres counts."""

# A network that has been dead for a minute is noticed, asked or not; a break that ends sooner is
# outlived. Not every system has every one of these.
_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    # Of what was sent and is not acknowledged; else Linux tries for a quarter of an hour.
    "TCP_USER_TIMEOUT": 60_000,
}

FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # A farewell of the server that comes between two statements leaves the client in a state
    # of its own.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What a statement may raise; `translated` says whose fault it was."""

# SQLSTATE classes that pass: connection lost, read-only for now, login or database not there
# (yet), transaction rolled back, out of resources, not available, shut down, disk trouble.
_TRANSIENT_CLASSES: Final = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")
# Data that Postgres refuses: retrying is useless, so the batch is bisected.
_PERMANENT_CLASSES: Final = ("21", "22", "23", "54")

_ITS_CERTIFICATE: Final[dict[Distrust, str]] = {
    "not_yet_valid": "is not valid yet: check the clocks",
    "expired": "has expired: renew it there",
    "other_host": "is another host's: name the host in WINDSOR_DATABASE_URL as it does",
    "unknown_authority": "is signed by nobody we trust: set sslrootcert in WINDSOR_DATABASE_URL to"
    " the authority that has signed it",
}

_NO_ADDRESS: Final = (
    "WINDSOR_DATABASE_URL: must be an address such as postgresql://user:password@host:5432/database,"
    " with %23 for a # in the password, %2F for a /, %40 for an @"
)
# One of several, with or without a port; a folder of sockets is written %2Ftmp.
_HOST: Final = re.compile(r"(\[[^\[\]]+\]|[^:@\[\]]*)(:[0-9]{0,5})?")
_PORTS: Final = re.compile(r"[0-9]{0,5}(,[0-9]{0,5})*")
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def translated(error: Exception) -> Exception:
    """Say whose fault an error is: the world's, the data's, or (unchanged) our own."""
    state = getattr(error, "sqlstate", None) or ""
    # The state too, for a message may quote what was sent.
    if state == "08P01" and "startup parameter" in str(error):
        return ConfigError(
            f"WINDSOR_DATABASE_URL: the pooler before Postgres refuses our settings ({error}):"
            " name Postgres itself, or add them to PgBouncer's ignore_startup_parameters"
        )
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigError(f"WINDSOR_DATABASE_URL: {error}")
    if (refusal := _refusal(error, state)) is not None:
        return TransientSinkError(refusal)
    # asyncpg raises ValueErrors of its own for what it cannot encode.
    refused = isinstance(error, (asyncpg.DataError, ValueError))
    if refused or state.startswith(_PERMANENT_CLASSES):
        return PermanentSinkError(f"Postgres refuses the data: {state or type(error).__name__}")
    if isinstance(error, asyncpg.PostgresError) and not state.startswith(_TRANSIENT_CLASSES):
        return error
    return TransientSinkError(f"Postgres cannot be used now: {state} {error!r}")


def _refusal(error: Exception, state: str) -> str | None:
    """One line where Postgres refuses us, or we it: it may heal, but a person has to see to it."""
    # What the server has against our certificate comes after the handshake, as a cause.
    for cause in (error, error.__cause__):
        if isinstance(cause, ssl.SSLError):
            return _tls_refusal(cause)
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return (
            "Postgres offers no TLS, and the sslmode of WINDSOR_DATABASE_URL asks for it: switch"
            " ssl on there"
        )
    if state.startswith("28"):
        return f"Postgres refuses us: {error}: check WINDSOR_DATABASE_URL, and pg_hba.conf there"
    if state == "42501":
        return (
            f"Postgres denies us a right: {error}: deploy/roles.sql says which role may do what,"
            " and `windsor migrate` grants it"
        )
    return None


def _tls_refusal(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Postgres cannot be trusted: its certificate {_ITS_CERTIFICATE[distrust(error)]}"
    if "ALERT" in (error.reason or ""):
        return (
            "Postgres refuses our certificate, which has expired or is signed by nobody it trusts:"
            " renew sslcert and sslkey of WINDSOR_DATABASE_URL"
        )
    return f"Postgres and we cannot agree on TLS: {error.reason or error}"


def check_dsn(dsn: str) -> None:
    """Make sure that an address is one, and that the files it names can be read.

    Raises:
        ConfigError: It is not, or one cannot; a line for each fault, none with the address in it.
    """
    try:
        parts = urlsplit(dsn)
        parameters = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ConfigError(_NO_ADDRESS) from error
    # As asyncpg does: from the first @ on.
    *_, hosts = parts.netloc.split("@", maxsplit=1)
    # Of what is given twice the last counts, and an underscore is a hyphen.
    given = {name: values[-1] for name, values in parameters.items()}
    ssl_mode = given.get("sslmode", "prefer").replace("_", "-")
    problems: list[str] = []
    if (
        parts.scheme not in {"postgresql", "postgres"}
        or parts.fragment
        or not _are_hosts(hosts)
        or not _are_hosts(given.get("host", ""))
        or _PORTS.fullmatch(given.get("port", "")) is None
    ):
        problems.append(_NO_ADDRESS)
    if ssl_mode not in _SSL_MODES:
        problems.append(f"WINDSOR_DATABASE_URL: sslmode must be one of {', '.join(_SSL_MODES)}")
    for name in ("sslrootcert", "sslcert", "sslkey"):
        # A mode that may do without TLS looks at no authority.
        is_authority = name == "sslrootcert" and ssl_mode in _SSL_MODES[3:]
        fault = _fault_of_file(given[name], is_authority=is_authority) if name in given else None
        if fault is not None:
            problems.append(f"WINDSOR_DATABASE_URL: {name} names {given[name]}: {fault}")
    if problems:
        raise ConfigError("\n".join(problems))


def _are_hosts(hosts: str) -> bool:
    """Whether these are hosts, of which one alone may be left out: then it is a socket."""
    several = hosts.split(",")
    return all(map(_HOST.fullmatch, several)) and (len(several) == 1 or all(several))


def _fault_of_file(file: str, *, is_authority: bool) -> str | None:
    path = Path(file).expanduser()
    try:
        path.read_bytes()
        if is_authority:
            ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        return "it holds no certificates"
    except OSError as error:
        return error.strerror
    return None


@asynccontextmanager
async def connected(
    dsn: str,
    *,
    connect_seconds: float = 10.0,
    statement_seconds: float | None = 60.0,
    name: str = "windsor",
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection for some questions; whatever fails inside is taken for Postgres' and translated.

    Args:
        dsn: The database.
        connect_seconds: For connecting.
        statement_seconds: For each statement; None where it may take as long as it takes.
        name: As Postgres shows who is connected.

    Raises:
        ConfigError: The address cannot be used.
        TransientSinkError: Postgres is away, or refuses us.
        PermanentSinkError: It refuses what it was sent.
    """
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=connect_seconds,
            command_timeout=statement_seconds,
            server_settings={"timezone": "UTC", "application_name": name},
        )
        try:
            notice_dead_network(connection)
            yield connection
        finally:
            try:
                await connection.close(timeout=5)
            except FAILURES:
                # What was answered holds, and so does what went wrong before.
                connection.terminate()
    except FAILURES as error:
        raise translated(error) from error


async def prepare_connection(connection: Connection) -> None:
    """Teach a connection our types: microseconds, raw JSON, 16 bytes.

    jsonb in binary is a version byte and the text; anything else breaks COPY.
    """
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda at: (at - PG_EPOCH_US,),
        decoder=lambda value: value[0] + PG_EPOCH_US,
    )
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda raw: b"\x01" + raw,
        decoder=lambda raw: bytes(raw[1:]),
    )
    await connection.set_type_codec(
        "json", schema="pg_catalog", format="binary", encoder=bytes, decoder=bytes
    )
    await connection.set_type_codec(
        "uuid", schema="pg_catalog", format="binary", encoder=bytes, decoder=bytes
    )


def notice_dead_network(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Let our side of a connection ask whether the other is there, while a statement may take long.

    The answers are the network's, not Postgres': a server that is there and busy passes. Without
    it, an answer that never comes is waited for as long as the statement may take.
    """
    # asyncpg shows its transport to nobody, and takes no options for the socket.
    transport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    ours = transport.get_extra_info("socket")
    if ours.family == socket.AF_UNIX:
        return
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            ours.setsockopt(socket.IPPROTO_TCP, option, value)
