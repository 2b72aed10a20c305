"""Postgres over TLS with `sslmode=verify-full`: whom it trusts, whom we trust, and what is said."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import asyncpg
import pytest
import pytest_asyncio
import uvloop

from consumer.errors import ConfigError, TransientSinkError
from consumer.schema import check_schema, migrate
from tests.authority import Authority, Certificate
from tests.command import windsor
from tests.probes import consuming, settings_for, until_answered
from tests.secured import PASSWORD
from tests.servers import postgres_over_tls

GOOD = b'{"type":"track","userId":"u","event":"E","messageId":"m1"}'


class World(NamedTuple):
    """A Postgres that asks for TLS, and for a password or a certificate; and who signs."""

    port: int
    folder: Path
    ours: Authority
    theirs: Authority

    def dsn(self, user: str = "windsor", password: str | None = PASSWORD, **tls: Any) -> str:  # noqa: ANN401 - paths and texts
        parameters = {"sslmode": "verify-full", "sslrootcert": self.ours.cafile, **tls}
        given = {name: value for name, value in parameters.items() if value is not None}
        login = user if password is None else f"{user}:{password}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/windsor?{urlencode(given)}"

    def by_certificate(self, certificate: Certificate) -> str:
        return self.dsn("certified", None, sslcert=certificate.certfile, sslkey=certificate.keyfile)

    async def show(self, certificate: Certificate) -> None:
        """Show this certificate from now on."""
        for file, name in (
            (certificate.certfile, "server.crt"),
            (certificate.keyfile, "server.key"),
        ):
            # Its owner and rights stay.
            (self.folder / name).write_bytes(file.read_bytes())
        before = await self.ask("SELECT pg_conf_load_time() FROM pg_reload_conf()")
        # It is told of by a signal: a connection that is made after that has the new one.
        while await self.ask("SELECT pg_conf_load_time()") == before:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)

    async def ask(self, question: str) -> Any:  # noqa: ANN401 - the question's own
        """Ask as the administrator, whatever certificate is shown."""
        connection = await asyncpg.connect(
            self.dsn("postgres", sslmode="require", sslrootcert=None)
        )
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def world(server_folder: Path) -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=server_folder) as name:
        folder = Path(name)
        # Postgres does not run as root.
        folder.chmod(0o755)
        ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        (folder / "postgres").mkdir()
        with postgres_over_tls(folder / "postgres", ours) as port:
            made = World(port, folder / "postgres" / "data", ours, theirs)
            asyncio.run(set_up(made))
            yield made


async def set_up(world: World) -> None:
    admin = world.dsn("postgres", sslmode="require").replace("/windsor?", "/postgres?")
    connection = await asyncpg.connect(admin)
    await connection.execute(f"CREATE ROLE windsor LOGIN PASSWORD '{PASSWORD}'")
    await connection.execute("CREATE ROLE certified LOGIN IN ROLE windsor")
    await connection.execute("CREATE DATABASE windsor OWNER windsor")
    await connection.close()
    await migrate(world.dsn())


@pytest_asyncio.fixture
async def shown_anew(world: World) -> AsyncIterator[None]:
    """The good certificate is shown again afterwards."""
    yield
    await world.show(world.ours.issue("postgres"))


async def refusal_of(dsn: str) -> str:
    """What is said, whichever event loop runs: they tell of TLS each in their own way."""
    said = await _said(dsn)
    assert said == await asyncio.to_thread(uvloop.run, _said(dsn))
    return said


async def _said(dsn: str) -> str:
    async with asyncio.timeout(30):
        while True:
            with pytest.raises(TransientSinkError) as error:
                await check_schema(dsn)
            # A server that closes at once: now and then its reset overtakes what it had to say.
            if "Postgres cannot be used now: 08003" not in str(error.value):
                # A connection over TLS takes leave in a turn of its own, before its loop is closed.
                await asyncio.sleep(0.2)
                return str(error.value)


# Who is let in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["password", "certificate"])
async def test_worker_is_ready_over_verified_tls(world: World, kafka_server: str, way: str) -> None:
    dsn = world.dsn() if way == "password" else world.by_certificate(world.ours.issue("certified"))

    async with consuming(settings_for(kafka_server, "calls", dsn)) as client:
        await until_answered(client, "/readyz", (200, "ok"))
        encrypted = await world.ask(
            "SELECT array_agg(DISTINCT s.ssl) FROM pg_stat_ssl AS s"
            " INNER JOIN pg_stat_activity AS a USING (pid) WHERE a.application_name LIKE 'windsor%'"
        )

    assert encrypted == [True]


# Who is not -------------------------------------------------------------------------------------


async def test_wrong_password_is_one_line(world: World) -> None:
    assert await refusal_of(world.dsn(password="wrong")) == (  # noqa: S106 - it is wrong
        'Postgres refuses us: password authentication failed for user "windsor": check'
        " WINDSOR_DATABASE_URL, and pg_hba.conf there"
    )


async def test_connection_without_tls_is_refused_in_one_line(world: World) -> None:
    said = await refusal_of(world.dsn(sslmode="disable", sslrootcert=None))

    assert said.startswith("Postgres refuses us: pg_hba.conf rejects connection for host")
    assert said.endswith("no encryption: check WINDSOR_DATABASE_URL, and pg_hba.conf there")


async def test_server_that_nobody_we_trust_has_signed_is_one_line(world: World) -> None:
    assert await refusal_of(world.dsn(sslrootcert=world.theirs.cafile)) == (
        "Postgres cannot be trusted: its certificate is signed by nobody we trust: set sslrootcert"
        " in WINDSOR_DATABASE_URL to the authority that has signed it"
    )


@pytest.mark.usefixtures("shown_anew")
async def test_server_whose_certificate_has_expired_is_one_line(world: World) -> None:
    await world.show(world.ours.issue("old", expired=True))

    assert await refusal_of(world.dsn()) == (
        "Postgres cannot be trusted: its certificate has expired: renew it there"
    )


@pytest.mark.usefixtures("shown_anew")
async def test_server_that_shows_another_hosts_certificate_is_one_line(world: World) -> None:
    await world.show(world.ours.issue("other", "db.example.com"))

    assert await refusal_of(world.dsn()) == (
        "Postgres cannot be trusted: its certificate is another host's: name the host in"
        " WINDSOR_DATABASE_URL as it does"
    )
    # Who does not ask for the host's name is let through: that is what verify-ca is.
    await check_schema(world.dsn(sslmode="verify-ca"))


@pytest.mark.parametrize("wrong", ["expired", "untrusted"])
async def test_certificate_of_ours_that_is_refused_is_one_line(world: World, wrong: str) -> None:
    certificate = (
        world.ours.issue(f"certified-{wrong}", expired=True)
        if wrong == "expired"
        else world.theirs.issue("certified")
    )

    assert await refusal_of(world.by_certificate(certificate)) == (
        "Postgres refuses our certificate, which has expired or is signed by nobody it trusts:"
        " renew sslcert and sslkey of WINDSOR_DATABASE_URL"
    )


async def test_certificate_of_somebody_else_is_one_line(world: World) -> None:
    assert await refusal_of(world.by_certificate(world.ours.issue("somebody"))) == (
        'Postgres refuses us: certificate authentication failed for user "certified": check'
        " WINDSOR_DATABASE_URL, and pg_hba.conf there"
    )


async def test_server_without_tls_is_one_line() -> None:
    # A server that says no, as one does whose ssl is off.
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"N")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        dsn = f"postgresql://windsor@127.0.0.1:{port}/windsor?sslmode=require"
        assert await refusal_of(dsn) == (
            "Postgres offers no TLS, and the sslmode of WINDSOR_DATABASE_URL asks for it: switch"
            " ssl on there"
        )


async def test_address_that_cannot_be_used_is_an_error_of_the_configuration(world: World) -> None:
    with pytest.raises(ConfigError) as error:
        await check_schema(world.dsn(sslmode="sometimes"))

    assert str(error.value).startswith("WINDSOR_DATABASE_URL: ")
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize("parameter", ["sslrootcert", "sslcert", "sslkey"])
async def test_check_config_looks_into_the_files_of_the_address(
    world: World, parameter: str
) -> None:
    ran = await windsor(
        "check-config",
        kafka_bootstrap_servers="b:1",
        database_url=world.dsn(**{parameter: "/none.pem"}),
    )

    assert (ran.exit_code, ran.err) == (
        2,
        f"windsor: WINDSOR_DATABASE_URL: {parameter} names /none.pem: No such file or directory\n",
    )


@pytest.mark.usefixtures("shown_anew")
async def test_refused_worker_waits_alive_and_goes_on_by_itself(
    world: World, kafka_server: str
) -> None:
    await world.show(world.ours.issue("older", expired=True))

    async with consuming(settings_for(kafka_server, "calls", world.dsn())) as client:
        line = "Postgres cannot be trusted: its certificate has expired: renew it there"
        await until_answered(client, "/readyz", (503, f"waiting for the database: {line}"))
        await until_answered(client, "/healthz", (200, "ok"))

        await world.show(world.ours.issue("renewed"))
        await until_answered(client, "/readyz", (200, "ok"))


async def test_command_that_is_refused_says_so_in_one_line(world: World) -> None:
    ran = await windsor("verify", database_url=world.dsn(password="wrong"))  # noqa: S106 - it is wrong

    assert ran.exit_code == 1
    assert ran.err == (
        'windsor: Postgres refuses us: password authentication failed for user "windsor": check'
        " WINDSOR_DATABASE_URL, and pg_hba.conf there\n"
    )
