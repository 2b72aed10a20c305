"""The settings as the parts of a process want them, and what is wrong with them."""

from consumer.core.contacts import REGIONS
from consumer.core.decode import DecodeRules
from consumer.core.policy import BatchLimits, RetryPolicy
from consumer.core.valve import ValvePolicy
from consumer.errors import ConfigError, check_all
from consumer.kafka import KafkaOptions, check_options
from consumer.pipeline import PipelineOptions
from consumer.postgres import PostgresOptions, check_dsn
from consumer.retention import UpkeepOptions
from consumer.settings import Settings, require


def kafka_options(settings: Settings) -> KafkaOptions:
    """The part of the settings that Kafka's edge needs."""
    return KafkaOptions(
        bootstrap_servers=settings.kafka_bootstrap_servers or "",
        topics=settings.kafka_topics,
        group_id=settings.kafka_group_id,
        security_protocol=settings.kafka_security_protocol,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        sasl_username=settings.kafka_sasl_username,
        sasl_password=settings.kafka_sasl_password,
        ssl_cafile=settings.kafka_ssl_cafile,
        ssl_certfile=settings.kafka_ssl_certfile,
        ssl_keyfile=settings.kafka_ssl_keyfile,
        ssl_key_password=settings.kafka_ssl_key_password,
        earliest_when_out_of_range=settings.kafka_offset_out_of_range == "earliest",
        session_timeout_ms=round(settings.kafka_session_timeout_seconds * 1000),
        rebalance_timeout_ms=round(settings.kafka_rebalance_timeout_seconds * 1000),
        max_poll_interval_ms=round(settings.kafka_poll_interval_seconds_max * 1000),
        answer_timeout_ms=round(settings.kafka_answer_timeout_seconds * 1000),
        metadata_age_ms_max=round(settings.kafka_metadata_age_seconds_max * 1000),
        retry=retry_policy(settings),
        request_timeout_seconds=settings.kafka_request_timeout_seconds,
        leave_timeout_seconds=settings.kafka_leave_timeout_seconds,
        goodbye_timeout_seconds=settings.kafka_leave_timeout_seconds / 2,
    )


def postgres_options(settings: Settings) -> PostgresOptions:
    """The part of the settings that the Postgres edge needs."""
    return PostgresOptions(
        dsn=settings.database_url or "",
        # One a lane, and one for the probes.
        connections_max=settings.lanes + 1,
        connect_timeout_seconds=settings.database_connect_timeout_seconds,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
    )


def retry_policy(settings: Settings) -> RetryPolicy:
    """How whoever is away is tried again: Kafka and Postgres alike."""
    return RetryPolicy(settings.retry_initial_seconds, 2.0, settings.retry_seconds_max)


def pipeline_options(settings: Settings) -> PipelineOptions:
    """The part of the settings that the pipeline needs."""
    return PipelineOptions(
        lanes=settings.lanes,
        limits=BatchLimits(settings.batch_calls_max, settings.batch_bytes_max),
        lane_calls_max=settings.lane_calls_max,
        poll_records_max=settings.poll_records_max,
        retry=retry_policy(settings),
        drain_timeout_seconds=settings.drain_timeout_seconds,
        last_commit_timeout_seconds=settings.last_commit_timeout_seconds,
        commit_interval_seconds=settings.commit_interval_seconds,
        pause_after_seconds=settings.pause_after_seconds,
        retention_days=settings.retention_days,
        valve=ValvePolicy(settings.dead_letters_share_max, settings.dead_letters_window_records),
    )


def upkeep_options(settings: Settings) -> UpkeepOptions:
    """The part of the settings that the upkeep of the weeks needs."""
    return UpkeepOptions(
        dsn=settings.database_url or "",
        retention_days=settings.retention_days,
        connect_timeout_seconds=settings.database_connect_timeout_seconds,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
    )


def decode_rules(settings: Settings) -> DecodeRules:
    """The part of the settings that decoding needs.

    Raises:
        ConfigError: There is no such region.
    """
    if settings.phone_region is not None and settings.phone_region not in REGIONS:
        raise ConfigError(
            "WINDSOR_PHONE_REGION: must be a country's two letters by ISO 3166, such as US or GB"
            f" (is {settings.phone_region!r})"
        )
    return DecodeRules(
        blocked_ids=settings.blocked_ids_set,
        phone_region=settings.phone_region,
        record_bytes_max=settings.record_bytes_max,
        call_bytes_max=settings.call_bytes_max,
        depth_max=settings.depth_max,
        id_chars_max=settings.id_chars_max,
    )


def check_settings(settings: Settings) -> None:
    """Make sure that a worker can start with these, before it asks anybody.

    Raises:
        ConfigError: A setting is missing or none that can be used; a line for each.
    """
    check_all(lambda: check_servers(settings), lambda: decode_rules(settings))


def check_servers(settings: Settings) -> None:
    """Make sure that both servers are named, and in a way that can be used.

    Raises:
        ConfigError: A line for each fault.
    """
    check_all(lambda: check_kafka(settings), lambda: check_database(settings))


def check_kafka(settings: Settings) -> None:
    """Make sure that Kafka is named, and in a way that can be used.

    Raises:
        ConfigError: A line for each fault.
    """
    check_all(
        lambda: require(settings, "kafka_bootstrap_servers"),
        lambda: check_options(kafka_options(settings)),
    )


def check_database(settings: Settings) -> None:
    """Make sure that the database is named, and in a way that can be used.

    Raises:
        ConfigError: A line for each fault.
    """
    require(settings, "database_url")
    check_dsn(str(settings.database_url))
