"""Whether Kafka lets us in, and if not why, in one line that says what to do.

The client tells a broker that refuses us from one that is away only in its own log, and what a
broker says of rights only where it is met, some of it never: a topic that we may not see looks
like one without partitions. So before a consumer joins, we knock at the first broker that
answers and ask for each right in a way that changes nothing:

- to see the topics: their metadata;
- to take part in the group: a heartbeat of nobody;
- to read the topics: a fetch beyond their end.

A broker looks at the right before it looks at anything else, so it does not matter whether it
leads the partition or coordinates the group.

Source: KafkaApis.scala, `handleFetchRequest`; GroupCoordinator, `heartbeat`.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import errors as kafka_errors
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest

from consumer.errors import ConfigError, SourceError, check_all
from consumer.kafka.options import KafkaOptions, check_topics, names_of, security_of
from consumer.tls import Distrust, distrust

# No partition has ever come so far: nothing is fetched but the answer.
_BEYOND_ANY_OFFSET: Final = 2**62
_PORT_MAX: Final = 65_535

_THEIR_CERTIFICATE: Final[dict[Distrust, str]] = {
    "not_yet_valid": "is not valid yet: check the clocks",
    "expired": "has expired: renew it there",
    "other_host": "is another host's: name the broker as its certificate does, in"
    " WINDSOR_KAFKA_BOOTSTRAP_SERVERS and in its advertised.listeners",
    "unknown_authority": "is signed by nobody we trust: set WINDSOR_KAFKA_SSL_CAFILE to the"
    " authority that has signed it",
}
# What a listener does to whom it does not understand.
_HUNG_UP: Final = (asyncio.IncompleteReadError, ConnectionResetError)

_AS_DOCUMENTED: Final = "as docs/settings.md says"
_OUR_CERTIFICATE: Final = "WINDSOR_KAFKA_SSL_CERTFILE and WINDSOR_KAFKA_SSL_KEYFILE"


def check_options(options: KafkaOptions) -> None:
    """Make sure that these can be used, before anybody is asked.

    Brokers may be missing yet.

    Raises:
        ConfigError: They cannot; a line for each fault.
    """
    check_all(
        lambda: _check_brokers(options.bootstrap_servers),
        lambda: check_topics(options.topics),
        lambda: security_of(options),
    )


def _check_brokers(bootstrap_servers: str) -> None:
    if not bootstrap_servers:
        return
    # A comma too many does no harm.
    listed = [broker for broker in bootstrap_servers.split(",") if broker.strip()]
    try:
        are_brokers = bool(listed) and all(
            host and "/" not in host and 1 <= port <= _PORT_MAX
            for host, port, _ in collect_hosts(listed, randomize=False)
        )
    except ValueError:
        are_brokers = False
    if not are_brokers:
        raise ConfigError(
            "WINDSOR_KAFKA_BOOTSTRAP_SERVERS: must be host:port, comma-separated"
            f" (is {bootstrap_servers!r})"
        )


async def check_connection(options: KafkaOptions) -> None:
    """Make sure that a broker answers and knows us.

    Raises:
        SourceError: None lets us in; why not the last.
    """
    async with _connection(options):
        pass


async def check_access(options: KafkaOptions) -> None:
    """Make sure that a worker of these settings may take part in its group and read its topics.

    Raises:
        SourceError: It may not, or no broker lets us in.
    """
    async with _connection(options) as connection:
        try:
            await _check_rights(connection, options)
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            address = f"{connection.host}:{connection.port}"
            raise SourceError(explained(error, options, address)) from error


def explained(error: BaseException, options: KafkaOptions, address: str | None = None) -> str:
    """Say in one line what Kafka has against us, and what to do.

    Args:
        error: What the client has raised.
        options: How it was told to connect.
        address: `host:port` of the broker, where it is known.
    """
    broker = f"Kafka at {address or options.bootstrap_servers}"
    causes = [one for one in (error, error.__cause__) if one is not None]
    for cause in causes:
        if (refusal := _refusal(cause, options)) is not None:
            return f"{broker} {refusal}"
    if any(isinstance(cause, _HUNG_UP) for cause in causes):
        return (
            f"{broker} hangs up before it knows us: check whether its listener is"
            f" {options.security_protocol}, as WINDSOR_KAFKA_SECURITY_PROTOCOL says"
        )
    return f"{broker} cannot be reached: {_words(error)}: check WINDSOR_KAFKA_*"


def _refusal(error: BaseException, options: KafkaOptions) -> str | None:
    """What a broker has against us, or we against it; None for any other error."""
    said: str | None = None
    match error:
        case ssl.SSLError():
            said = _tls_refusal(error)
        case kafka_errors.SaslAuthenticationFailed():
            said = (
                f"refuses the user {options.sasl_username!r} or its password"
                f" ({options.sasl_mechanism}): check WINDSOR_KAFKA_SASL_USERNAME,"
                " WINDSOR_KAFKA_SASL_PASSWORD and WINDSOR_KAFKA_SASL_MECHANISM"
            )
        case kafka_errors.UnsupportedSaslMechanismError():
            said = f"does not offer {options.sasl_mechanism}: check WINDSOR_KAFKA_SASL_MECHANISM"
        case kafka_errors.TopicAuthorizationFailedError():
            topics = ", ".join(map(str, error.args)) or options.topics
            said = f"denies us the topic {topics}: {_grant_read('topic')}"
        case kafka_errors.GroupAuthorizationFailedError():
            said = (
                f"denies us the group {options.group_id}: {_grant_read('group')},"
                " or check WINDSOR_KAFKA_GROUP_ID"
            )
        case kafka_errors.ClusterAuthorizationFailedError():
            # Without a right to send anywhere there is not even a producer's id.
            said = f"does not let us send: grant Write on the topic, {_AS_DOCUMENTED}"
    return said


def _tls_refusal(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"shows a certificate that {_THEIR_CERTIFICATE[distrust(error)]}"
    reason = error.reason or ""
    if reason.endswith("ALERT_CERTIFICATE_REQUIRED"):
        return f"asks for a client's certificate: set {_OUR_CERTIFICATE}"
    if "ALERT" in reason and "CERTIFICATE" in reason:
        return (
            "refuses our certificate, which has expired or is signed by nobody it trusts: renew"
            f" {_OUR_CERTIFICATE}"
        )
    return f"and we cannot agree on TLS ({reason or error}): check WINDSOR_KAFKA_SSL_*"


def _grant_read(resource: str) -> str:
    return f"grant Read on the {resource}, {_AS_DOCUMENTED}"


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None:
        # Event loops word it differently; what a name leads to has numbers of its own, below 0.
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error) or type(error).__name__


@asynccontextmanager
async def _connection(options: KafkaOptions) -> AsyncIterator[AIOKafkaConnection]:
    """A connection to the first broker that lets us in.

    Raises:
        SourceError: None does.
    """
    security = security_of(options)
    line = "WINDSOR_KAFKA_BOOTSTRAP_SERVERS names no broker"
    failure: BaseException | None = None
    for host, port, _ in collect_hosts(options.bootstrap_servers):
        try:
            async with asyncio.timeout(options.request_timeout_seconds):
                connection = await create_conn(host, port, client_id="windsor", **security)
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            failure, line = error, explained(error, options, f"{host}:{port}")
            continue
        try:
            async with asyncio.timeout(options.request_timeout_seconds):
                # Only with a first question do some listeners say that they do not know us.
                await connection.send(MetadataRequest([]))
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            connection.close()
            failure, line = error, explained(error, options, f"{host}:{port}")
            continue
        try:
            yield connection
        finally:
            connection.close()
        return
    raise SourceError(line) from failure


async def _check_rights(connection: AIOKafkaConnection, options: KafkaOptions) -> None:
    """Ask for each right.

    Raises:
        kafka_errors.KafkaError: One is missing.
    """
    async with asyncio.timeout(options.request_timeout_seconds):
        heartbeat = await connection.send(HeartbeatRequest(options.group_id, -1, ""))
        if heartbeat.error_code == kafka_errors.GroupAuthorizationFailedError.errno:
            raise kafka_errors.GroupAuthorizationFailedError(options.group_id)
        # What a pattern may not see it does not match: nobody can tell that from what is not there.
        topics = [] if options.topics.startswith("^") else names_of(options.topics)
        metadata = await connection.send(MetadataRequest(topics))
        _refuse([(topic, error_code) for error_code, topic, *_ in metadata.topics])
        asked = [(topic, [(0, _BEYOND_ANY_OFFSET, 1)]) for topic in topics]
        fetched = await connection.send(FetchRequest(0, 0, 1, 0, asked))
        _refuse([(topic, parts[0][1]) for topic, parts in fetched.topics])


def _refuse(answers: Sequence[tuple[str, int]]) -> None:
    """Raise if topics, each with the error code of its answer, are not ours to read."""
    refused = kafka_errors.TopicAuthorizationFailedError
    topics = sorted({topic for topic, error_code in answers if error_code == refused.errno})
    if topics:
        raise refused(*topics)
