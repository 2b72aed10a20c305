"""How to reach Kafka, and which topics are read."""

import re
import ssl
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from consumer.core.policy import RetryPolicy
from consumer.errors import ConfigError


class KafkaOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach Kafka; times and sizes carry their unit in the name."""

    bootstrap_servers: str
    topics: str
    """Comma-separated names, or a pattern that begins with `^`."""
    group_id: str = "windsor"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_key_password: str | None = None
    earliest_when_out_of_range: bool = False
    """Go on from the earliest offset when the committed one is gone, instead of stopping."""
    # The session outlives a long transaction; the rebalance outlives a drain (20 s).
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 60_000
    max_poll_interval_ms: int = 300_000
    answer_timeout_ms: int = 30_000
    """Of who joins the group, and waits for the others' handover; all else has the request's."""
    metadata_age_ms_max: int = 30_000
    """New partitions, and new topics of a pattern, are met this soon."""
    retry: RetryPolicy = RetryPolicy()
    partition_fetch_bytes_max: int = 1024 * 1024
    fetch_bytes_max: int = 16 * 1024 * 1024
    request_timeout_seconds: float = 10.0
    # A goodbye is a courtesy: without one the group waits for the end of our session.
    leave_timeout_seconds: float = 2.0
    goodbye_timeout_seconds: float = 1.0


# Source: Kafka's Topic.java, LEGAL_CHARS and MAX_NAME_LENGTH.
_TOPIC: Final = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")


def names_of(topics: str) -> list[str]:
    """The topics of a setting that is no pattern."""
    return [name.strip() for name in topics.split(",") if name.strip()]


def reads_topic(topics: str, topic: str) -> bool:
    """Tell whether a worker with this setting reads a topic."""
    if topics.startswith("^"):
        # As the consumer matches: from the beginning, the end free.
        return re.match(topics, topic) is not None
    return topic in names_of(topics)


def topics_read(topics: str, there: Iterable[str]) -> list[str]:
    """The topics, of those that there are, that a worker with this setting reads."""
    return sorted(topic for topic in there if reads_topic(topics, topic))


def check_topics(topics: str) -> None:
    """Make sure that a setting names topics, or is a pattern.

    Raises:
        ConfigError: It does not.
    """
    if topics.startswith("^"):
        try:
            re.compile(topics)
        except re.error as error:
            raise ConfigError(
                f"WINDSOR_KAFKA_TOPICS: {topics} must be a regular expression, since it begins"
                f" with ^: {error}"
            ) from error
        return
    names = names_of(topics)
    if not names:
        raise ConfigError("WINDSOR_KAFKA_TOPICS: must name a topic")
    if wrong := [name for name in names if _TOPIC.fullmatch(name) is None]:
        raise ConfigError(
            f"WINDSOR_KAFKA_TOPICS: {', '.join(wrong)} must be a topic's name (letters, digits,"
            " `.`, `_`, `-`), or a pattern that begins with ^"
        )


def security_of(options: KafkaOptions) -> dict[str, Any]:
    """The client's arguments for a secured listener.

    Raises:
        ConfigError: A setting of it is missing, or a file cannot be used.
    """
    settings: dict[str, Any] = {"security_protocol": options.security_protocol}
    problems: list[str] = []
    if options.security_protocol.startswith("SASL"):
        problems += [
            f"WINDSOR_KAFKA_{name.upper()}: must be set with {options.security_protocol}"
            for name in ("sasl_username", "sasl_password")
            if getattr(options, name) is None
        ]
        settings |= {
            "sasl_mechanism": options.sasl_mechanism,
            "sasl_plain_username": options.sasl_username,
            "sasl_plain_password": options.sasl_password,
        }
    if options.security_protocol.endswith("SSL"):
        settings["ssl_context"] = _tls(options, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def _tls(options: KafkaOptions, problems: list[str]) -> ssl.SSLContext:
    """The context, as far as its files can be used; what cannot be is added to the problems."""
    try:
        context = ssl.create_default_context(cafile=options.ssl_cafile)
    except OSError as error:
        context = ssl.create_default_context()
        problems.append(
            f"WINDSOR_KAFKA_SSL_CAFILE: {options.ssl_cafile} holds no certificates: {error}"
        )
    if options.ssl_certfile is not None:
        # Asked for in a terminal if it were None and needed.
        password = options.ssl_key_password or ""
        try:
            context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, password)
        except OSError as error:
            problems.append(
                "WINDSOR_KAFKA_SSL_CERTFILE, WINDSOR_KAFKA_SSL_KEYFILE,"
                " WINDSOR_KAFKA_SSL_KEY_PASSWORD: they are no certificate with its key, and the"
                f" password of that: {error}"
            )
    return context
