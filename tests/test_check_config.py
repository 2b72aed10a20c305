"""`windsor check-config`: all that is wrong, of worker and dashboard, before anybody is asked."""

from pathlib import Path

import pytest

from consumer.cli import main
from consumer.errors import ConfigError, check_all
from consumer.postgres import check_dsn

GOOD = {
    "kafka_bootstrap_servers": "a:9092, b:9093,,[::1]:9092,",
    "database_url": "postgresql://windsor:p%40ss@db1:5432,db2/windsor?sslmode=prefer",
}
ADDRESS = (
    "WINDSOR_DATABASE_URL: must be an address such as"
    " postgresql://user:password@host:5432/database, with %23 for a # in the password, %2F for"
    " a /, %40 for an @"
)


class Checked:
    """Runs the command with settings; gives its exit code and its lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, **settings: str) -> tuple[int, list[str]]:
        for name, value in settings.items():
            self._monkeypatch.setenv(f"WINDSOR_{name.upper()}", value)
        exit_code = main(["check-config", *arguments])
        printed = self._capsys.readouterr()
        assert bool(printed.out) == (exit_code == 0)
        return exit_code, (printed.out + printed.err).splitlines()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Checked:
    return Checked(monkeypatch, capsys)


def lines(*said: str) -> list[str]:
    return [f"windsor: {line}" for line in said]


def test_settings_that_a_worker_and_a_dashboard_can_start_with_are_complete(
    checked: Checked,
) -> None:
    assert checked(**GOOD) == (0, ["the settings are complete"])
    assert checked(
        kafka_topics="^segment-(events|calls)$",
        endpoint_topic="segment-events",
        dashboard_proxies="10.0.0.0/8, ::1",
        dashboard_trusted_header="X-Forwarded-Email",
        phone_region="GB",
    ) == (0, ["the settings are complete"])


def test_everything_is_told_at_once(checked: Checked, tmp_path: Path) -> None:
    catalogue = tmp_path / "events.toml"
    catalogue.write_text('[[event]]\nname = "Board Created"\nicon = "none"\n')

    exit_code, said = checked(
        lanes="many",
        topics="x",
        kafka_topics="^[",
        kafka_security_protocol="SASL_SSL",
        kafka_ssl_cafile="/none.pem",
        database_url="mysql://x/y?sslmode=sometimes&sslrootcert=/none.pem",
        phone_region="UK",
        dashboard_catalogue=str(catalogue),
        dashboard_password_hash="secret",  # noqa: S106 - no hash, which is the point
        dashboard_proxies="zz//",
        dashboard_trusted_header="X User",
    )

    assert exit_code == 2
    assert said[-1].startswith(f"windsor: WINDSOR_DASHBOARD_CATALOGUE: {catalogue}: Board Created:")
    assert said[:-1] == lines(
        "WINDSOR_TOPICS: did you mean WINDSOR_KAFKA_TOPICS?",
        "WINDSOR_LANES: must be a whole number from 1 to 64 (is 'many')",
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS: must be set",
        (
            "WINDSOR_KAFKA_TOPICS: ^[ must be a regular expression, since it begins with ^:"
            " unterminated character set at position 1"
        ),
        "WINDSOR_KAFKA_SASL_USERNAME: must be set with SASL_SSL",
        "WINDSOR_KAFKA_SASL_PASSWORD: must be set with SASL_SSL",
        (
            "WINDSOR_KAFKA_SSL_CAFILE: /none.pem holds no certificates: [Errno 2] No such file or"
            " directory"
        ),
        ADDRESS,
        (
            "WINDSOR_DATABASE_URL: sslmode must be one of disable, allow, prefer, require,"
            " verify-ca, verify-full"
        ),
        "WINDSOR_DATABASE_URL: sslrootcert names /none.pem: No such file or directory",
        (
            "WINDSOR_PHONE_REGION: must be a country's two letters by ISO 3166, such as US or GB"
            " (is 'UK')"
        ),
        (
            "WINDSOR_DASHBOARD_PROXIES: must be addresses or networks, such as 10.0.0.0/8,"
            " comma-separated, or * alone: 'zz//' does not appear to be an IPv4 or IPv6 network"
        ),
        (
            "WINDSOR_DASHBOARD_TRUSTED_HEADER: must be a header's name, such as X-Forwarded-Email"
            " (is 'X User')"
        ),
        (
            "WINDSOR_DASHBOARD_PASSWORD_HASH: is no argon2 hash: `windsor dashboard"
            " --hash-password` makes one"
        ),
    )


def test_variable_that_cannot_be_read_is_not_said_to_be_missing_too(checked: Checked) -> None:
    assert checked(kafka_bootstrap_servers="b:1", database_url_file="/none") == (
        2, lines("WINDSOR_DATABASE_URL_FILE: the file it names cannot be read"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["consume"], ["DATABASE_URL", "KAFKA_TOPICS"]),
        (["dashboard"], ["DASHBOARD_PROXIES", "DATABASE_URL", "KAFKA_TOPICS"]),
        (["status"], ["DATABASE_URL", "KAFKA_TOPICS"]),
        (["migrate"], ["DATABASE_URL"]),
        (["verify"], ["DATABASE_URL"]),
        (["sources", "list"], ["DATABASE_URL"]),
        (["dead-letters", "list"], ["DATABASE_URL"]),
    ],
)
def test_commands_refuse_the_same_when_they_start(
    arguments: list[str],
    refused: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = {"database_url": "mysql://x/y", "kafka_topics": "^[", "dashboard_proxies": "10.0.0.1/8"}
    for name, value in (GOOD | wrong).items():
        monkeypatch.setenv(f"WINDSOR_{name.upper()}", value)

    assert main(arguments) == 2

    said = capsys.readouterr().err.splitlines()
    assert sorted(line.split(": ")[1] for line in said) == [f"WINDSOR_{name}" for name in refused]


@pytest.mark.parametrize("brokers", ["b:x", "kafka://b:1", ",", ", ,", "b:70000", "[::1"])
def test_brokers_that_are_none_are_refused(checked: Checked, brokers: str) -> None:
    assert checked(**GOOD | {"kafka_bootstrap_servers": brokers}) == (
        2,
        lines(
            f"WINDSOR_KAFKA_BOOTSTRAP_SERVERS: must be host:port, comma-separated (is {brokers!r})"
        ),
    )


@pytest.mark.parametrize(
    ("topics", "said"),
    [
        (",", "must name a topic"),
        (
            "a,b c,..",
            (
                "b c, .. must be a topic's name (letters, digits, `.`, `_`, `-`), or a pattern"
                " that begins with ^"
            ),
        ),
    ],
)
def test_topics_that_are_none_are_refused(checked: Checked, topics: str, said: str) -> None:
    assert checked(**GOOD, kafka_topics=topics) == (2, lines(f"WINDSOR_KAFKA_TOPICS: {said}"))


def test_topic_of_the_endpoint_is_one_that_workers_read(checked: Checked) -> None:
    assert checked(**GOOD, endpoint_topic="other") == (
        2,
        lines(
            "WINDSOR_ENDPOINT_TOPIC: other is not among WINDSOR_KAFKA_TOPICS (segment-events): no"
            " worker would read what is sent"
        ),
    )


def test_only_what_one_command_needs_is_asked_for(checked: Checked) -> None:
    said = "WINDSOR_ENDPOINT_TOPIC: must be set, since WINDSOR_KAFKA_TOPICS is a pattern"

    assert checked(**GOOD, kafka_topics="^segment-") == (2, lines(said))
    assert checked("--only", "dashboard") == (2, lines(said))
    assert checked("--only", "consume") == (0, ["the settings are complete"])


@pytest.mark.parametrize(
    "dsn",
    [
        "mysql://h/d",
        "h/d",
        "postgresql://u:p#ss@h/d",
        "postgresql://u:p@ss@h/d",
        "postgresql://u:p@h:port/d",
        "postgresql://[::1/d",
        "postgresql://h/d?sslmode",
        "postgresql://h1,/d",
        "postgresql:///d?host=h:port",
        "postgresql:///d?host=h&port=port",
    ],
)
def test_address_that_is_none_is_refused_and_not_printed(dsn: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_dsn(dsn)

    assert str(caught.value) == ADDRESS


@pytest.mark.parametrize(
    "dsn",
    [
        "postgres://u@h/d",
        "postgresql:///d?host=/var/run/postgresql",
        "postgresql://u:p@%2Ftmp/d",
        "postgresql://u:p@[::1]:5432,h2:5433/d?target_session_attrs=primary",
        "postgresql://",
        "postgresql://u@h:/d",
        "postgresql://h/d?sslmode=sometimes&sslmode=verify_full",
        "postgresql:///d?host=/a,h2:5433&port=5432,",
        f"postgresql://h/d?sslmode=prefer&sslrootcert={__file__}",
    ],
)
def test_address_as_the_client_takes_it_is_none_of_ours_to_refuse(dsn: str) -> None:
    check_dsn(dsn)


def test_file_without_certificates_is_no_authority(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("none")

    with pytest.raises(ConfigError) as caught:
        check_dsn(f"postgresql://h/d?sslmode=verify-full&sslrootcert={file}")

    assert str(caught.value) == (
        f"WINDSOR_DATABASE_URL: sslrootcert names {file}: it holds no certificates"
    )


def test_line_that_two_checks_find_is_told_once() -> None:
    def finding(*found: str) -> None:
        if found:
            raise ConfigError("\n".join(found))

    with pytest.raises(ConfigError) as caught:
        check_all(lambda: finding("a", "b"), finding, lambda: finding("b", "c"))

    assert str(caught.value).splitlines() == ["a", "b", "c"]
