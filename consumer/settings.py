"""Settings: environment variables `WINDSOR_*`, read once into one frozen value.

Unknown and misspelled names are refused, and all errors are told at once. Every variable may
be given as `NAME_FILE`, the path of a file that holds it, as mounted secrets are.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import inspect

from consumer.core.ids import BLOCKED_IDS
from consumer.errors import ConfigError

_PREFIX: Final = "WINDSOR_"
# Read by the test suite; not ours, but no mistake either.
_OTHERS: Final = ("WINDSOR_TEST_",)
# TOPICS is KAFKA_TOPICS and DB_URL is DATABASE_URL; KAFKA_BROKERS is not KAFKA_TOPICS.
_LIKENESS_MIN: Final = 0.65
# How the names of those settings end that `_contradictions` compares.
_WAITS: Final = ("_SECONDS", "_SECONDS_MAX")

Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# At most a day: every wait has an end.
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
# Of a pattern the description says in words what it wants.
Region = Annotated[
    str, msgspec.Meta(pattern="^[A-Z]{2}$", description="two capital letters, such as US")
]
Origin = Annotated[
    str,
    msgspec.Meta(
        pattern="^https?://[^/]+/?$",
        description="scheme and host without a path, such as https://windsor.example.com",
    ),
]


class Secret(str):
    """A text that is never printed by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=lambda f: _PREFIX + f.upper()):
    """All settings; `docs/settings.md` explains each."""

    kafka_bootstrap_servers: str | None = None
    kafka_topics: str = "segment-events"
    kafka_group_id: str = "windsor"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = None
    kafka_ssl_cafile: str | None = None
    kafka_ssl_certfile: str | None = None
    kafka_ssl_keyfile: str | None = None
    kafka_ssl_key_password: str | None = None
    kafka_offset_out_of_range: Literal["stop", "earliest"] = "stop"
    kafka_request_timeout_seconds: Seconds = 10.0
    kafka_answer_timeout_seconds: Seconds = 30.0
    kafka_session_timeout_seconds: Seconds = 45.0
    kafka_rebalance_timeout_seconds: Seconds = 60.0
    kafka_poll_interval_seconds_max: Seconds = 300.0
    kafka_metadata_age_seconds_max: Seconds = 30.0
    kafka_leave_timeout_seconds: Seconds = 2.0
    database_url: str | None = None
    database_connect_timeout_seconds: Seconds = 10.0
    database_statement_timeout_seconds: Seconds = 20.0
    lanes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    batch_calls_max: Count = 5_000
    batch_bytes_max: Count = 8 * 1024 * 1024
    lane_calls_max: Count = 10_000
    poll_records_max: Count = 2_000
    drain_timeout_seconds: Seconds = 20.0
    last_commit_timeout_seconds: Seconds = 2.0
    commit_interval_seconds: Seconds = 0.1
    pause_after_seconds: Seconds = 10.0
    unready_after_seconds: Seconds = 5.0
    unhealthy_after_seconds: Seconds = 60.0
    retry_initial_seconds: Seconds = 0.1
    retry_seconds_max: Seconds = 5.0
    retention_days: Count | None = None
    phone_region: Region | None = None
    blocked_ids: str | None = None
    record_bytes_max: Count = 1024 * 1024
    call_bytes_max: Count = 512 * 1024
    depth_max: Annotated[int, msgspec.Meta(ge=1, le=500)] = 64
    id_chars_max: Annotated[int, msgspec.Meta(ge=16, le=512)] = 512
    dead_letters_share_max: Share = 0.5
    dead_letters_window_records: Count = 1_000
    linger_seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    http_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside the pod
    http_port: Port = 9464
    # The dashboard's. Off this machine only when told so.
    dashboard_host: str = "127.0.0.1"
    dashboard_port: Port = 8321
    dashboard_url: Origin | None = None
    dashboard_proxies: str | None = None
    dashboard_catalogue: str | None = None
    dashboard_password_hash: str | None = None
    dashboard_trusted_header: str | None = None
    dashboard_secret: Annotated[str, msgspec.Meta(min_length=32)] | None = None
    endpoint_topic: str | None = None
    endpoint_calls_per_second_max: Count = 50_000
    endpoint_bytes_max: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    endpoint_connections_max: Count = 2_000
    endpoint_receive_timeout_seconds: Seconds = 10.0
    endpoint_produce_timeout_seconds: Seconds = 10.0
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    run_folder: str = ".windsor"

    @property
    def blocked_ids_set(self) -> frozenset[str]:
        """The junk ids in force, in lower case."""
        if self.blocked_ids is None:
            return BLOCKED_IDS
        return frozenset(text.strip().lower() for text in self.blocked_ids.split(",")) - {""}


_FIELDS: Final = {field.encode_name: field for field in msgspec.structs.fields(Settings)}
SECRETS: Final = (
    *("kafka_sasl_password", "kafka_ssl_key_password", "database_url"),
    *("dashboard_password_hash", "dashboard_secret"),
)


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings from an environment.

    Raises:
        ConfigError: Its text has one line for each variable that is wrong.
    """
    settings, problems = read_settings(environ)
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return settings


def read_settings(environ: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """Read what can be read of the settings; the rest has its default.

    Returns:
        The settings, and by variable the line that says what is wrong with it.
    """
    problems: dict[str, str] = {}
    converted: dict[str, Any] = {}
    for name, value in _given(environ, problems).items():
        field = _FIELDS[name]
        try:
            converted[name] = msgspec.convert(value, field.type, strict=False)
        except msgspec.ValidationError:
            shown = "" if field.name in SECRETS else f" (is {value!r})"
            problems[name] = f"{name}: must be {_wanted(inspect.type_info(field.type))}{shown}"
        else:
            if field.name in SECRETS:
                converted[name] = Secret(converted[name])
    settings = msgspec.convert(converted, Settings)
    if not any(name.endswith(_WAITS) for name in problems):
        problems |= _contradictions(settings)
    return settings, problems


def _wanted(type_: inspect.Type) -> str:
    """Say in words what a setting of a type may be."""
    match type_:
        case inspect.UnionType():
            # The other is None, which nobody can write.
            return _wanted(type_.types[0])
        case inspect.Metadata(extra_json_schema={"description": str(words)}):
            return words
        case inspect.LiteralType():
            *others, last = map(str, type_.values)
            return f"{', '.join(others)} or {last}"
        case inspect.IntType():
            return f"a whole number{_bounds(type_)}"
        case inspect.FloatType():
            return f"a number{_bounds(type_)}"
        case inspect.StrType(min_length=int(length)):
            return f"at least {length} characters"
        case _:
            raise TypeError(type_)


def _bounds(type_: inspect.IntType | inspect.FloatType) -> str:
    if type_.gt is not None:
        return f" above {type_.gt:g}, at most {type_.le}"
    if type_.le is not None:
        return f" from {type_.ge} to {type_.le}"
    return f" of at least {type_.ge}"


def _contradictions(settings: Settings) -> dict[str, str]:
    """Name the waits that must be shorter than others and are not, by variable."""
    # A handover is a drain and a commit; the group waits that long for it, and whoever joins
    # meanwhile waits as long for an answer.
    handover = settings.drain_timeout_seconds + settings.kafka_request_timeout_seconds
    shorter: list[tuple[str, float, str]] = [
        ("kafka_request_timeout_seconds", handover, "kafka_answer_timeout_seconds"),
        ("drain_timeout_seconds", handover, "kafka_rebalance_timeout_seconds"),
        ("pause_after_seconds", settings.pause_after_seconds, "kafka_poll_interval_seconds_max"),
        ("retry_initial_seconds", settings.retry_initial_seconds, "retry_seconds_max"),
    ]
    return {
        (variable := f"{_PREFIX}{name.upper()}"): f"{variable}: {seconds:g} s"
        f"{' with the rest of a handover' if seconds == handover else ''}"
        f" must not be longer than {_PREFIX}{longer.upper()} ({getattr(settings, longer):g} s)"
        for name, seconds, longer in shorter
        if seconds > getattr(settings, longer)
    }


def _given(environ: Mapping[str, str], problems: dict[str, str]) -> dict[str, str]:
    """The variables that are ours and not empty, `_FILE` ones read."""
    given: dict[str, str] = {}
    for name, value in sorted(environ.items()):
        if not name.startswith(_PREFIX) or name.startswith(_OTHERS):
            continue
        variable = name.removesuffix("_FILE")
        if name in _FIELDS:
            if value.strip():
                given[name] = value.strip()
        elif variable in _FIELDS:
            try:
                given.setdefault(variable, Path(value).read_text(encoding="utf-8").strip())
            except (OSError, UnicodeDecodeError):
                problems[variable] = f"{name}: the file it names cannot be read"
        else:
            problems[name] = f"{name}: {_hint(name)}"
    return {name: value for name, value in given.items() if value}


def _hint(name: str) -> str:
    """What somebody meant who wrote a name that is none."""
    # Without the prefix, which makes all names alike.
    ours = [known.removeprefix(_PREFIX) for known in _FIELDS]
    near = difflib.get_close_matches(name.removeprefix(_PREFIX), ours, n=1, cutoff=_LIKENESS_MIN)
    return f"did you mean {_PREFIX}{near[0]}?" if near else "there is no such setting"


def require(settings: Settings, *names: str) -> None:
    """Make sure that settings without a default are given.

    Raises:
        ConfigError: One line for each that is missing.
    """
    missing = [name for name in names if getattr(settings, name) is None]
    if missing:
        raise ConfigError("\n".join(f"{_PREFIX}{name.upper()}: must be set" for name in missing))
