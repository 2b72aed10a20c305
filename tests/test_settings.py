"""Settings: all errors at once, nothing misspelled, no secret printed."""

from pathlib import Path

import msgspec
import pytest

from consumer.core.ids import BLOCKED_IDS
from consumer.errors import ConfigError
from consumer.settings import Settings, load_settings, read_settings, require


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
        "WINDSOR_DASHBOARD_PORT: must be a whole number from 0 to 65535 (is '-1')",
        "WINDSOR_HTTP_PORT: must be a whole number from 0 to 65535 (is '70000')",
        "WINDSOR_LANES: must be a whole number from 1 to 64 (is 'many')",
    ]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("RETENTION_DAYS", "0", "a whole number of at least 1"),
        ("BATCH_CALLS_MAX", "5.5", "a whole number of at least 1"),
        ("DRAIN_TIMEOUT_SECONDS", "20s", "a number above 0, at most 86400"),
        ("COMMIT_INTERVAL_SECONDS", "0", "a number above 0, at most 86400"),
        ("RETRY_SECONDS_MAX", "inf", "a number above 0, at most 86400"),
        ("LINGER_SECONDS", "nan", "a number from 0 to 86400"),
        ("DEAD_LETTERS_SHARE_MAX", "50%", "a number from 0 to 1"),
        ("KAFKA_SASL_MECHANISM", "GSSAPI", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
        ("LOG_FORMAT", "text", "auto, console or json"),
        ("PHONE_REGION", "us", "two capital letters, such as US"),
        (
            "DASHBOARD_URL",
            "windsor.example.com",
            "scheme and host without a path, such as https://windsor.example.com",
        ),
    ],
)
def test_what_a_setting_may_be_is_said_in_words(name: str, value: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({f"WINDSOR_{name}": value})

    assert str(caught.value) == f"WINDSOR_{name}: must be {wanted} (is {value!r})"


def test_secret_that_is_wrong_is_not_printed() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"WINDSOR_DASHBOARD_SECRET": "hunter2"})

    assert str(caught.value) == "WINDSOR_DASHBOARD_SECRET: must be at least 32 characters"


def test_words_are_there_for_every_setting_that_is_no_plain_text() -> None:
    for field in msgspec.structs.fields(Settings):
        try:
            msgspec.convert("x", field.type, strict=False)
        except msgspec.ValidationError:
            _, problems = read_settings({field.encode_name: "x"})
            assert list(problems) == [field.encode_name]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TOPICS", "KAFKA_TOPICS"),
        ("DB_URL", "DATABASE_URL"),
        ("RETENTION", "RETENTION_DAYS"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("DASHBOARD_PASSWORD", "DASHBOARD_PASSWORD_HASH"),
        ("IMAGE", None),
        ("KAFKA_BROKERS", None),
        ("DEBUG", None),
        ("VERSION", None),
    ],
)
def test_hint_is_a_name_that_is_meant(name: str, meant: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({f"WINDSOR_{name}": "x"})

    hint = f"did you mean WINDSOR_{meant}?" if meant else "there is no such setting"
    assert str(caught.value) == f"WINDSOR_{name}: {hint}"


def test_what_cannot_be_read_has_its_default_and_a_line() -> None:
    settings, problems = read_settings({
        "WINDSOR_LANES": "many", "WINDSOR_HTTP_PORT": "80", "WINDSOR_DATABASE_URL_FILE": "/none",
    })  # fmt: skip

    assert settings == Settings(http_port=80)
    assert list(problems) == ["WINDSOR_DATABASE_URL", "WINDSOR_LANES"]


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

    # Empty, the variable itself is not given.
    settings = load_settings({"WINDSOR_DATABASE_URL": " ", "WINDSOR_DATABASE_URL_FILE": str(file)})

    assert settings.database_url == "postgresql://windsor:hunter2@db/windsor"
    assert "hunter2" not in repr(settings)


def test_what_a_command_needs_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        require(Settings(), "kafka_bootstrap_servers", "database_url")

    assert str(caught.value).splitlines() == [
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS: must be set",
        "WINDSOR_DATABASE_URL: must be set",
    ]
