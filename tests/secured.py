"""A Kafka that asks who is there and lets nobody in but by its rights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest

from demo.servers import embedded_kafka, free_port
from tests.authority import Authority

PASSWORD: Final = "one-of-a-test"  # noqa: S105 - of nothing
USERS: Final = ("windsor", "stranger", "beginner", "dismissed", "reader", "player")

# Kafka's protocol names these by number.
_LITERAL: Final = 3
_DENY, _ALLOW = 2, 3


class Resource(IntEnum):
    """What a right is for."""

    TOPIC = 2
    GROUP = 3


class Operation(IntEnum):
    """What a right allows."""

    READ = 3
    WRITE = 4
    DESCRIBE = 8


class SecuredKafka(NamedTuple):
    """Where each listener is."""

    plain: str
    """Without security, for what a test does itself; may do everything."""
    sasl: str
    sasl_plain_only: str
    mtls: str
    expired: str
    """As `sasl`, but its certificate has expired."""
    misnamed: str
    """As `sasl`, but its certificate is another host's."""


@contextmanager
def secured_kafka(folder: Path, authority: Authority) -> Iterator[SecuredKafka]:
    """Run a broker with a listener of each kind."""
    names = SecuredKafka._fields[1:]
    addresses = [f"127.0.0.1:{free_port()}" for _ in names]
    listeners = ",".join(map("{}://{}".format, names, addresses)).upper()
    settings = {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": ",".join(
            f"{name.upper()}:{'SSL' if name == 'mtls' else 'SASL_SSL'}" for name in names
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.cafile),
        **_keystore("", authority.issue("broker").both),
        **_keystore("listener.name.expired.", authority.issue("old", expired=True).both),
        **_keystore("listener.name.misnamed.", authority.issue("b", "kafka.example.com").both),
        "listener.name.mtls.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
        **_sasl("sasl", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
        **_sasl("sasl_plain_only", "PLAIN"),
        **_sasl("expired", "PLAIN"),
        **_sasl("misnamed", "PLAIN"),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    scram = [
        f"{mechanism}=[name={user},password={PASSWORD}]"
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for user in USERS
    ]
    with embedded_kafka(folder, settings=settings, scram=scram) as server:
        yield SecuredKafka(server.bootstrap_servers, *addresses)


def _keystore(prefix: str, file: Path) -> Mapping[str, str]:
    return {f"{prefix}ssl.keystore.type": "PEM", f"{prefix}ssl.keystore.location": str(file)}


def _sasl(listener: str, mechanisms: str) -> Mapping[str, str]:
    prefix = f"listener.name.{listener}."
    users = " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
    modules = "org.apache.kafka.common.security"
    scram = f"{modules}.scram.ScramLoginModule required;"
    return {
        f"{prefix}sasl.enabled.mechanisms": mechanisms,
        f"{prefix}plain.sasl.jaas.config": f"{modules}.plain.PlainLoginModule required {users};",
        f"{prefix}scram-sha-256.sasl.jaas.config": scram,
        f"{prefix}scram-sha-512.sasl.jaas.config": scram,
    }


async def create_topic(kafka: SecuredKafka, name: str) -> None:
    """Create a topic of one partition, to which nobody has a right."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.plain)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1)])
    finally:
        await admin.close()


async def grant(
    kafka: SecuredKafka, user: str, resource: Resource, name: str, what: Operation
) -> None:
    """Give a user a right."""
    await _set_right(kafka, (resource, name, _LITERAL, f"User:{user}", "*", what, _ALLOW))


async def deny(
    kafka: SecuredKafka, user: str, resource: Resource, name: str, what: Operation
) -> None:
    """Take a right away from a user, whatever it is granted."""
    await _set_right(kafka, (resource, name, _LITERAL, f"User:{user}", "*", what, _DENY))


async def _set_right(kafka: SecuredKafka, right: tuple[Any, ...]) -> None:
    client = AIOKafkaClient(bootstrap_servers=kafka.plain)
    await client.bootstrap()
    try:
        answer = await client.send(client.get_random_node(), CreateAclsRequest(*right))
        assert [error_code for error_code, _ in answer.creation_responses] == [0]
    finally:
        await client.close()
