"""Logs: one static event a line, as JSON for machines and in colours for people."""

import contextlib
import io
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
import structlog

from consumer.log import configure_logging


class Terminal(io.StringIO):
    """A standard error that a person looks at."""

    def isatty(self) -> bool:
        return True


def configured(
    format_: Literal["auto", "console", "json"], level: str, stderr: io.StringIO | None = None
) -> io.StringIO:
    """Configure logging with a standard error of our own, by default a pipe's."""
    stderr = stderr or io.StringIO()
    with contextlib.redirect_stderr(stderr):
        configure_logging(format_, level)
    return stderr


def test_event_is_one_line_of_json_with_its_facts_as_keys() -> None:
    stderr = configured("auto", "info")
    structlog.get_logger().info("batch.written", lane=1, rows_count=412, duration_seconds=0.031)

    (line,) = stderr.getvalue().splitlines()
    event = json.loads(line)
    written_at = datetime.fromisoformat(event.pop("timestamp"))
    assert abs(datetime.now(UTC) - written_at) < timedelta(seconds=30)
    assert event == {
        "event": "batch.written",
        "level": "info",
        "lane": 1,
        "rows_count": 412,
        "duration_seconds": 0.031,
    }


def test_exception_stays_in_its_line() -> None:
    stderr = configured("json", "info")
    try:
        json.loads("")
    except ValueError:
        structlog.get_logger().exception("lane.failed", lane=1)

    (line,) = stderr.getvalue().splitlines()
    event = json.loads(line)
    assert event.pop("exception").endswith("Expecting value: line 1 column 1 (char 0)")
    assert event.pop("timestamp")
    assert event == {"event": "lane.failed", "level": "error", "lane": 1}


def test_terminal_gets_colours_and_no_json() -> None:
    terminal = configured("auto", "info", Terminal())
    structlog.get_logger().info("batch.written", lane=1)

    (line,) = terminal.getvalue().splitlines()
    assert "batch.written" in line
    assert "\x1b[" in line
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


@pytest.mark.parametrize("format_", ["auto", "json"])
def test_pipe_gets_json(format_: Literal["auto", "json"]) -> None:
    stderr = configured(format_, "info")
    structlog.get_logger().info("worker.started")
    assert json.loads(stderr.getvalue())["event"] == "worker.started"


def test_asked_for_format_wins_over_the_terminal() -> None:
    terminal = configured("json", "info", Terminal())
    structlog.get_logger().info("worker.started")
    assert json.loads(terminal.getvalue())["event"] == "worker.started"


def test_asked_for_console_wins_over_the_pipe() -> None:
    stderr = configured("console", "info")
    structlog.get_logger().info("worker.started")
    with pytest.raises(json.JSONDecodeError):
        json.loads(stderr.getvalue())
    assert "worker.started" in stderr.getvalue()


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_events_of_the_level_and_above_are_shown(level: str, shown: list[str]) -> None:
    stderr = configured("json", level)
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("event.told")
    assert [json.loads(line)["level"] for line in stderr.getvalue().splitlines()] == shown


def test_libraries_are_heard_from_warnings_on_in_the_same_shape() -> None:
    stderr = configured("json", "debug")
    library = logging.getLogger("aiokafka.test")
    library.info("Discovered coordinator")
    library.warning("Heartbeat failed for %s", "a group")

    (line,) = stderr.getvalue().splitlines()
    event = json.loads(line)
    assert event.pop("timestamp")
    assert event == {
        "event": "Heartbeat failed for a group",
        "level": "warning",
        "logger": "aiokafka.test",
    }


def test_libraries_are_no_louder_than_asked_for() -> None:
    stderr = configured("json", "error")
    logging.getLogger("aiokafka.test").warning("Heartbeat failed")
    assert stderr.getvalue() == ""
