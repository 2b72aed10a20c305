"""Kafka with SASL_SSL and mTLS: who is let in, and what is said of who is not."""

import asyncio
import itertools
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio
import uvloop
from aiokafka import AIOKafkaProducer

from consumer import app
from consumer.errors import ConfigError, SourceError
from consumer.kafka import KafkaOptions, lag_of_group
from consumer.kafka.access import check_access
from consumer.kafka.options import security_of
from consumer.options import kafka_options
from consumer.settings import load_settings
from tests.authority import Authority
from tests.command import windsor
from tests.probes import consuming, settings_for, until_answered
from tests.scenarios.test_run_twice import run_until_ready
from tests.secured import (
    PASSWORD,
    Operation,
    Resource,
    SecuredKafka,
    create_topic,
    deny,
    grant,
    secured_kafka,
)

_NUMBERS = itertools.count()

GOOD = b'{"type":"track","userId":"u","event":"E","messageId":"m1"}'
BAD = b'{"type":"track","event":"E","userId":"guest"}'


class World(NamedTuple):
    """A secured broker, who signs its certificates, and somebody who does not."""

    kafka: SecuredKafka
    ours: Authority
    theirs: Authority

    def sasl(self, user: str = "windsor", mechanism: str = "PLAIN") -> dict[str, Any]:
        return {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": mechanism,
            "kafka_sasl_username": user,
            "kafka_sasl_password": PASSWORD,
            "kafka_ssl_cafile": str(self.ours.cafile),
        }

    def mtls(
        self, signed_by: Authority | None = None, user: str = "windsor", *, expired: bool = False
    ) -> dict[str, Any]:
        name = f"{user}{next(_NUMBERS)}" if expired or signed_by else user
        certificate = (signed_by or self.ours).issue(name, expired=expired)
        return {
            "kafka_security_protocol": "SSL",
            "kafka_ssl_cafile": str(self.ours.cafile),
            "kafka_ssl_certfile": str(certificate.certfile),
            "kafka_ssl_keyfile": str(certificate.keyfile),
        }


@pytest.fixture(scope="module")
def world(server_folder: Path) -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=server_folder) as folder:
        ours = Authority(Path(folder), "ours")
        theirs = Authority(Path(folder), "theirs")
        with secured_kafka(Path(folder) / "kafka", ours) as kafka:
            yield World(kafka, ours, theirs)


@pytest_asyncio.fixture
async def topic(world: World) -> AsyncIterator[str]:
    """A topic that `windsor` may read, as a member of the group of the same name."""
    name = f"secured-{next(_NUMBERS)}"
    await create_topic(world.kafka, name)
    await grant(world.kafka, "windsor", Resource.TOPIC, name, Operation.READ)
    await grant(world.kafka, "windsor", Resource.GROUP, name, Operation.READ)
    yield name


def options_of(server: str, topic: str, settings: dict[str, Any]) -> KafkaOptions:
    return kafka_options(settings_for(server, topic, "", kafka_group_id=topic, **settings))


async def send(kafka: SecuredKafka, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.plain)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def until_counted(dsn: str, view: str, wanted: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(20):
            query = f"SELECT count(*) FROM windsor.{view}"
            while await connection.fetchval(query) != wanted:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


# Who is let in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "mtls"])
async def test_worker_consumes_over_a_secured_listener(
    world: World, topic: str, database: str, way: str
) -> None:
    secured = world.mtls() if way == "mtls" else world.sasl(mechanism=way)
    server = world.kafka.mtls if way == "mtls" else world.kafka.sasl
    await send(world.kafka, topic, GOOD)
    settings = settings_for(server, topic, database, kafka_group_id=topic, **secured)

    async with consuming(settings) as client:
        await until_answered(client, "/readyz", (200, "ok"))
        await until_counted(database, "feed", 1)

    # Committed too, as another client of the same settings sees.
    (lag,) = await lag_of_group(kafka_options(settings))
    assert (lag.committed, lag.end) == (1, 1)


# Who is not -------------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """How somebody connects who is not let in, and what is said of it."""

    listener: str
    settings: Callable[[World], dict[str, Any]]
    line: str


def unknown(user: str, mechanism: str) -> str:
    return (
        f"refuses the user '{user}' or its password ({mechanism}): check"
        " WINDSOR_KAFKA_SASL_USERNAME, WINDSOR_KAFKA_SASL_PASSWORD and WINDSOR_KAFKA_SASL_MECHANISM"
    )


def hung_up(protocol: str) -> str:
    return (
        f"hangs up before it knows us: check whether its listener is {protocol}, as"
        " WINDSOR_KAFKA_SECURITY_PROTOCOL says"
    )


NO_GROUP = (
    "denies us the group {0}: grant Read on the group, as docs/settings.md says,"
    " or check WINDSOR_KAFKA_GROUP_ID"
)
NO_TOPIC = "denies us the topic {0}: grant Read on the topic, as docs/settings.md says"
OUR_CERTIFICATE = (
    "refuses our certificate, which has expired or is signed by nobody it trusts: renew"
    " WINDSOR_KAFKA_SSL_CERTFILE and WINDSOR_KAFKA_SSL_KEYFILE"
)
WRONG = {"kafka_sasl_password": "wrong"}
NO_SASL = {"kafka_security_protocol": "SSL"}

REFUSALS = {
    "wrong password": Refusal(
        "sasl", lambda world: world.sasl() | WRONG, unknown("windsor", "PLAIN")
    ),
    "wrong password, SCRAM": Refusal(
        "sasl",
        lambda world: world.sasl(mechanism="SCRAM-SHA-256") | WRONG,
        unknown("windsor", "SCRAM-SHA-256"),
    ),
    "unknown user": Refusal(
        "sasl",
        lambda world: world.sasl("nobody", "SCRAM-SHA-512"),
        unknown("nobody", "SCRAM-SHA-512"),
    ),
    "another mechanism": Refusal(
        "sasl_plain_only",
        lambda world: world.sasl(mechanism="SCRAM-SHA-512"),
        "does not offer SCRAM-SHA-512: check WINDSOR_KAFKA_SASL_MECHANISM",
    ),
    "expired broker": Refusal(
        "expired", World.sasl, "shows a certificate that has expired: renew it there"
    ),
    "misnamed broker": Refusal(
        "misnamed",
        World.sasl,
        "shows a certificate that is another host's: name the broker as its certificate does, in"
        " WINDSOR_KAFKA_BOOTSTRAP_SERVERS and in its advertised.listeners",
    ),
    "untrusted broker": Refusal(
        "sasl",
        lambda world: world.sasl() | {"kafka_ssl_cafile": str(world.theirs.cafile)},
        "shows a certificate that is signed by nobody we trust: set WINDSOR_KAFKA_SSL_CAFILE to"
        " the authority that has signed it",
    ),
    "no certificate": Refusal(
        "mtls",
        lambda world: world.sasl() | NO_SASL,
        "asks for a client's certificate: set WINDSOR_KAFKA_SSL_CERTFILE and"
        " WINDSOR_KAFKA_SSL_KEYFILE",
    ),
    "expired certificate": Refusal("mtls", lambda world: world.mtls(expired=True), OUR_CERTIFICATE),
    "untrusted certificate": Refusal(
        "mtls", lambda world: world.mtls(signed_by=world.theirs), OUR_CERTIFICATE
    ),
    "no security": Refusal("sasl", lambda _: {}, hung_up("PLAINTEXT")),
    "no user": Refusal("sasl", lambda world: world.sasl() | NO_SASL, hung_up("SSL")),
    "TLS where there is none": Refusal("plain", World.sasl, hung_up("SASL_SSL")),
}


async def refusal_of(options: KafkaOptions) -> str:
    """What is said, whichever event loop runs: they tell of TLS each in their own way."""
    with pytest.raises(SourceError) as error:
        await check_access(options)
    with pytest.raises(SourceError) as same:
        await asyncio.to_thread(uvloop.run, _asked(options))
    assert str(error.value) == str(same.value)
    return str(error.value)


async def _asked(options: KafkaOptions) -> None:
    try:
        await check_access(options)
    finally:
        # A connection closes in its own time, which is the loop's.
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("case", REFUSALS)
async def test_refusal_is_one_line_that_says_what_to_do(
    world: World, topic: str, case: str
) -> None:
    listener, settings, line = REFUSALS[case]
    server = getattr(world.kafka, listener)

    said = await refusal_of(options_of(server, topic, settings(world)))

    assert said == f"Kafka at {server} {line}"


@pytest.mark.parametrize(
    ("rights", "line"),
    [
        ([(Resource.TOPIC, Operation.READ)], NO_GROUP),
        ([(Resource.GROUP, Operation.READ)], NO_TOPIC),
        # To see a topic is not to read it.
        ([(Resource.GROUP, Operation.READ), (Resource.TOPIC, Operation.DESCRIBE)], NO_TOPIC),
    ],
    ids=["topic alone", "group alone", "may only see the topic"],
)
async def test_missing_right_is_one_line_that_names_it(
    world: World, topic: str, rights: list[tuple[Resource, Operation]], line: str
) -> None:
    for resource, operation in rights:
        await grant(world.kafka, "stranger", resource, topic, operation)

    said = await refusal_of(options_of(world.kafka.sasl, topic, world.sasl("stranger")))

    assert said == f"Kafka at {world.kafka.sasl} {line.format(topic)}"


async def test_broker_that_is_away_is_one_line(world: World) -> None:
    said = await refusal_of(options_of("127.0.0.1:1", "calls", world.sasl()))

    assert said == (
        "Kafka at 127.0.0.1:1 cannot be reached: Connection refused: check WINDSOR_KAFKA_*"
    )


async def test_broker_that_lets_us_in_makes_up_for_one_that_is_away(
    world: World, topic: str
) -> None:
    servers = f"127.0.0.1:1,{world.kafka.sasl}"

    await check_access(options_of(servers, topic, world.sasl()))


@pytest.mark.parametrize("case", ["wrong password", "expired broker", "untrusted certificate"])
async def test_refused_worker_is_alive_not_ready_and_says_why_in_one_line_a_try(
    world: World, topic: str, database: str, case: str, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    listener, secured, why = REFUSALS[case]
    server = getattr(world.kafka, listener)
    settings = settings_for(server, topic, database, kafka_group_id=topic, **secured(world))
    line = f"Kafka at {server} {why}"

    async with consuming(settings) as client:
        await until_answered(client, "/readyz", (503, f"waiting for Kafka: {line}"))
        await until_answered(client, "/healthz", (200, "ok"))
        shown = (await client.get("/metrics")).text

    logged = [out for out in capsys.readouterr().out.splitlines() if "kafka.waited_for" in out]
    tries = shown.split('windsor_retries_total{reason="bootstrap",side="kafka"} ')[1]
    assert len(logged) >= float(tries.split()[0]) >= 1
    assert all(line in out for out in logged)
    # The client's own lines would say it again, in its own words.
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_worker_goes_on_by_itself_once_it_is_given_the_right(
    world: World, database: str
) -> None:
    name = f"secured-{next(_NUMBERS)}"
    await create_topic(world.kafka, name)
    await send(world.kafka, name, GOOD)
    settings = settings_for(
        world.kafka.sasl, name, database, kafka_group_id=name, **world.sasl("beginner")
    )
    waiting = f"waiting for Kafka: Kafka at {world.kafka.sasl} "

    async with consuming(settings) as client:
        await until_answered(
            client,
            "/readyz",
            (503, waiting + NO_GROUP.format(name)),
        )
        await grant(world.kafka, "beginner", Resource.GROUP, name, Operation.READ)
        await until_answered(
            client,
            "/readyz",
            (503, waiting + NO_TOPIC.format(name)),
        )
        await grant(world.kafka, "beginner", Resource.TOPIC, name, Operation.READ)
        await until_answered(client, "/readyz", (200, "ok"))
        await until_counted(database, "feed", 1)


@pytest.mark.parametrize("resource", Resource)
async def test_worker_whose_right_is_taken_away_ends_with_one_line(
    world: World, topic: str, database: str, resource: Resource
) -> None:
    await grant(world.kafka, "dismissed", Resource.TOPIC, topic, Operation.READ)
    await grant(world.kafka, "dismissed", Resource.GROUP, topic, Operation.READ)
    settings = settings_for(
        world.kafka.sasl, topic, database, kafka_group_id=topic, **world.sasl("dismissed")
    )
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    worker = asyncio.create_task(app.consume(settings, started=listening.set_result))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{await listening}") as client:
        await until_answered(client, "/readyz", (200, "ok"))

    await deny(world.kafka, "dismissed", resource, topic, Operation.READ)

    with pytest.raises(SourceError) as error:
        await asyncio.wait_for(worker, 30)
    assert str(error.value).startswith(f"Kafka at {world.kafka.sasl} denies us the ")


# What else connects -------------------------------------------------------------------------------


def command_settings(world: World, topic: str, dsn: str, user: str) -> dict[str, str]:
    return {
        "kafka_bootstrap_servers": world.kafka.sasl, "kafka_topics": topic,
        "kafka_group_id": topic, "database_url": dsn, **world.sasl(user, "SCRAM-SHA-512"),
    }  # fmt: skip


async def test_run_plays_its_story_over_sasl_ssl(
    world: World, topic: str, database: str, tmp_path: Path
) -> None:
    """With no right to make topics: this one has another number of partitions than its own have."""
    for right in (Operation.READ, Operation.WRITE):
        await grant(world.kafka, "player", Resource.TOPIC, topic, right)
    await grant(world.kafka, "player", Resource.GROUP, topic, Operation.READ)
    settings = command_settings(world, topic, database, "player") | {
        "run_folder": str(tmp_path), "http_port": "0", "dashboard_port": "0",
    }  # fmt: skip

    printed = await run_until_ready({**os.environ, **upper(settings)})

    assert "of them through the endpoint" in printed


async def test_dead_letter_is_sent_again_over_sasl_ssl(
    world: World, topic: str, database: str
) -> None:
    await send(world.kafka, topic, BAD)
    settings = command_settings(world, topic, database, "windsor")
    async with consuming(load_settings(upper(settings) | {"WINDSOR_HTTP_PORT": "0"})):
        await until_counted(database, "dead_letters", 1)

        refused = await windsor("dead-letters", "replay", "1", **settings)
        assert refused.exit_code == 1
        assert refused.err == (
            f"windsor: Kafka at {world.kafka.sasl} does not let us send: grant Write on the"
            " topic, as docs/settings.md says\n"
        )
        # A right to send elsewhere is none here.
        await grant(world.kafka, "windsor", Resource.TOPIC, "elsewhere", Operation.WRITE)
        refused = await windsor("dead-letters", "replay", "1", **settings)
        assert refused.exit_code == 1
        assert "Kafka does not let us send: grant Write on the topic" in refused.err

        await grant(world.kafka, "windsor", Resource.TOPIC, topic, Operation.WRITE)
        sent = await windsor("dead-letters", "replay", "1", **settings)
        assert (sent.exit_code, sent.err) == (0, "")
        # It still names nobody, so it comes back.
        await until_counted(database, "dead_letters", 2)


@pytest.mark.parametrize("command", [["status"], ["dead-letters", "replay", "--open"]])
async def test_command_that_is_refused_says_so_in_one_line(
    world: World, topic: str, database: str, command: list[str]
) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO windsor_private.dead_letters"
        ' (topic, partition, "offset", position, reason, detail, value_hash)'
        " VALUES ($1, 0, 0, 0, 'blocked_id', 'none', '')",
        topic,
    )
    await connection.close()
    settings = command_settings(world, topic, database, "nobody")

    ran = await windsor(*command, **settings)

    assert ran.exit_code == 1
    assert ran.err == (
        f"windsor: Kafka at {world.kafka.sasl} refuses the user 'nobody' or its password"
        " (SCRAM-SHA-512): check WINDSOR_KAFKA_SASL_USERNAME, WINDSOR_KAFKA_SASL_PASSWORD and"
        " WINDSOR_KAFKA_SASL_MECHANISM\n"
    )


# Settings that cannot be used ---------------------------------------------------------------------


def upper(settings: dict[str, str]) -> dict[str, str]:
    return {f"WINDSOR_{name.upper()}": value for name, value in settings.items()}


@pytest.mark.parametrize(
    ("wrong", "beginning"),
    [
        ({"sasl_username": None}, "WINDSOR_KAFKA_SASL_USERNAME: must be set with SASL_SSL"),
        ({"sasl_password": None}, "WINDSOR_KAFKA_SASL_PASSWORD: must be set with SASL_SSL"),
        ({"ssl_cafile": "/none"}, "WINDSOR_KAFKA_SSL_CAFILE: /none holds no certificates: "),
        ({"ssl_cafile": __file__}, "WINDSOR_KAFKA_SSL_CAFILE: "),
        ({"ssl_certfile": "/none"}, "WINDSOR_KAFKA_SSL_CERTFILE, WINDSOR_KAFKA_SSL_KEYFILE,"),
    ],
    ids=str,
)
def test_security_that_cannot_be_used_is_an_error_of_the_configuration(
    wrong: dict[str, str | None], beginning: str
) -> None:
    options = KafkaOptions(
        bootstrap_servers="b:1", topics="t", security_protocol="SASL_SSL",
        sasl_username="windsor", sasl_password=PASSWORD,
    )  # fmt: skip

    with pytest.raises(ConfigError) as error:
        security_of(msgspec.structs.replace(options, **wrong))

    assert str(error.value).startswith(beginning)
    assert "\n" not in str(error.value)


async def test_check_config_looks_into_the_files() -> None:
    ran = await windsor(
        "check-config", kafka_bootstrap_servers="b:1", database_url="postgresql://h/d",
        kafka_security_protocol="SSL", kafka_ssl_cafile="/none",
    )  # fmt: skip

    assert ran.exit_code == 2
    assert ran.err.startswith("windsor: WINDSOR_KAFKA_SSL_CAFILE: /none holds no certificates: ")
