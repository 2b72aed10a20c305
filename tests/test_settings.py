"""Settings: all errors at once, nothing misspelled, no secret printed."""

from pathlib import Path

import pytest

from consumer.core.ids import BLOCKED_IDS
from consumer.errors import ConfigError
from consumer.settings import Settings, load_settings, require


def test_environment_is_read_by_type() -> None:
    settings = load_settings({
        "WINDSOR_LANES": "4", "WINDSOR_RETENTION_DAYS": "90", "WINDSOR_PHONE_REGION": "US",
        "WINDSOR_KAFKA_TOPICS": " a,b ", "WINDSOR_BLOCKED_IDS": "N/A, Test", "PATH": "/bin",
        "WINDSOR_TEST_KAFKA": "ignored", "WINDSOR_LOG_LEVEL": "", "WINDSOR_DASHBOARD_PORT": "8000",
    })  # fmt: skip

    assert settings == Settings(
        lanes=4, retention_days=90, phone_region="US", kafka_topics="a,b", blocked_ids="N/A, Test",
        dashboard_port=8000,
    )  # fmt: skip
    assert settings.blocked_ids_set == {"n/a", "test"}
    assert Settings().blocked_ids_set == BLOCKED_IDS


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({
            "WINDSOR_LANES": "many", "WINDSOR_KAFKA_TOPIC": "x", "WINDSOR_QQQQQQQQQQ": "1",
            "WINDSOR_HTTP_PORT": "70000", "WINDSOR_DATABASE_URL_FILE": "/no/such/file",
            "WINDSOR_DASHBOARD_PORT": "-1",
        })  # fmt: skip

    assert str(caught.value).splitlines() == [
        "WINDSOR_DATABASE_URL_FILE: the file it names cannot be read",
        "WINDSOR_KAFKA_TOPIC: did you mean WINDSOR_KAFKA_TOPICS?",
        "WINDSOR_QQQQQQQQQQ: there is no such setting",
        "WINDSOR_DASHBOARD_PORT: expected `int` >= 0 (is '-1')",
        "WINDSOR_HTTP_PORT: expected `int` <= 65535 (is '70000')",
        "WINDSOR_LANES: expected `int`, got `str` (is 'many')",
    ]


def test_waits_that_contradict_each_other_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({
            "WINDSOR_DRAIN_TIMEOUT_SECONDS": "25", "WINDSOR_KAFKA_REBALANCE_TIMEOUT_SECONDS": "30",
            "WINDSOR_PAUSE_AFTER_SECONDS": "400", "WINDSOR_RETRY_INITIAL_SECONDS": "9",
        })  # fmt: skip

    longer = "must not be longer than"
    handover = "35 s with the rest of a handover must not be longer than"
    assert str(caught.value).splitlines() == [
        (
            f"WINDSOR_KAFKA_REQUEST_TIMEOUT_SECONDS: {handover}"
            " WINDSOR_KAFKA_ANSWER_TIMEOUT_SECONDS (30 s)"
        ),
        f"WINDSOR_DRAIN_TIMEOUT_SECONDS: {handover} WINDSOR_KAFKA_REBALANCE_TIMEOUT_SECONDS (30 s)",
        (
            f"WINDSOR_PAUSE_AFTER_SECONDS: 400 s {longer} WINDSOR_KAFKA_POLL_INTERVAL_SECONDS_MAX"
            " (300 s)"
        ),
        f"WINDSOR_RETRY_INITIAL_SECONDS: 9 s {longer} WINDSOR_RETRY_SECONDS_MAX (5 s)",
    ]


def test_secret_comes_from_a_file_and_is_never_printed(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://windsor:hunter2@db/windsor\n")

    settings = load_settings({"WINDSOR_DATABASE_URL_FILE": str(file)})

    assert settings.database_url == "postgresql://windsor:hunter2@db/windsor"
    assert "hunter2" not in repr(settings)


def test_what_a_command_needs_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        require(Settings(), "kafka_bootstrap_servers", "database_url")

    assert str(caught.value).splitlines() == [
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS: must be set",
        "WINDSOR_DATABASE_URL: must be set",
    ]
