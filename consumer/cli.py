"""The `windsor` command. Errors are one line that says what to do; exit codes 0, 1, 2."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from getpass import getpass
from importlib.metadata import version
from typing import Any, NoReturn

from consumer import app, dead_letters_command
from consumer.errors import ConfigError, WindsorError, check_all
from consumer.log import configure_logging
from consumer.options import check_database, check_servers, check_settings, kafka_options
from consumer.schema import migrate
from consumer.settings import Settings, load_settings, read_settings
from consumer.status import status
from consumer.verify import verify_database

OK, FAILED, MISUSED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code is returned."""
    options = _parser().parse_args(arguments)
    try:
        exit_code: int = options.command(options)
        sys.stdout.flush()
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"windsor: {line}", file=sys.stderr)
        return MISUSED
    except WindsorError as error:
        print(f"windsor: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    except BrokenPipeError:
        # Whoever read along (`head`) has had enough; what is left to flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return exit_code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"windsor: {message}: see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="windsor", description="Customer data in one place: Segment events to Postgres."
    )
    parser.add_argument("--version", action="version", version=version("windsor"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., int], help_: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help_, description=help_)
        found.set_defaults(command=partial(_with_settings, command))
        return found

    add("run", _run, "everything on this machine: Kafka, Postgres, the worker and a story")
    add("consume", _consume, "the worker: from Kafka to Postgres")
    dashboard = add("dashboard", _dashboard, "the pages, and the endpoint that SDKs send to")
    dashboard.add_argument(
        "--hash-password", action="store_true", help="hash a password for the settings, and end"
    )
    add("migrate", _migrate, "bring the database to this version's schema")
    verify = add("verify", _verify, "recompute every projection from the stored calls and compare")
    verify.add_argument("--repair", action="store_true", help="mend what differs")
    dead_letters_command.add_arguments(
        add("dead-letters", _dead_letters, "what could not be applied: list, send again, put away")
    )
    status_ = add("status", _status, "schema, lag, the age of the newest event, and dead letters")
    status_.add_argument("--json", action="store_true", help="for a program")
    _add_sources_arguments(
        add("sources", _sources, "who may send calls to the endpoint: make, list and revoke tokens")
    )
    check = add("check-config", _check_config, "read the settings and say what is wrong with them")
    check.set_defaults(command=_check_config)
    check.add_argument(
        "--only", choices=("consume", "dashboard"), help="what this command needs (default: both)"
    )
    return parser


def _with_settings(command: Callable[..., int], options: argparse.Namespace) -> int:
    settings = load_settings(os.environ)
    configure_logging(settings.log_format, settings.log_level)
    return command(settings, options)


def _add_sources_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `windsor sources` its commands; what they do is the dashboard's."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="sources_command")

    def add(name: str, help_: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_)

    added = add("add", "make a source and its token, which is shown once")
    added.add_argument("name", help="for people: where the calls come from")
    added.add_argument(
        "--calls-per-second-max",
        type=_rate,
        metavar="CALLS",
        help="for this source alone (default: WINDSOR_ENDPOINT_CALLS_PER_SECOND_MAX)",
    )
    listed = add("list", "one line each, those in use first")
    listed.add_argument("--json", action="store_true", help="one JSON object a line")
    revoked = add("revoke", "take a source's token back, at once and for good")
    revoked.add_argument("source", help="its name, or its id as `list` shows it")


def _rate(text: str) -> int:
    rate = int(text)
    if not 1 <= rate <= 1_000_000:  # noqa: PLR2004 - a million is faster than any endpoint
        raise argparse.ArgumentTypeError("from 1 to 1000000")
    return rate


def _run(settings: Settings, _: argparse.Namespace) -> int:
    try:
        # An extra, so that the production image does without.
        from demo.run import run_everything  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "demo":
            raise
        raise ConfigError("`windsor run` is not in this image: use `windsor consume`") from error
    _complete(run_everything(settings))
    return OK


def _consume(settings: Settings, _: argparse.Namespace) -> int:
    _complete(app.consume(settings))
    return OK


def _dashboard(settings: Settings, options: argparse.Namespace) -> int:
    # The worker's process does without.
    from dashboard.app import serve  # noqa: PLC0415
    from dashboard.doors import hash_password  # noqa: PLC0415

    if options.hash_password:
        print(hash_password(_asked_password()))
        return OK
    _complete(serve(settings, told=lambda link: print(f"Open {link}", flush=True)))
    return OK


def _asked_password() -> str:
    """Ask a person, or read a line of what is piped in."""
    if sys.stdin.isatty():
        return getpass("Password: ")
    return sys.stdin.readline().rstrip("\n")


def _migrate(settings: Settings, _: argparse.Namespace) -> int:
    check_database(settings)
    applied = _complete(migrate(str(settings.database_url)))
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply")
    return OK


def _verify(settings: Settings, options: argparse.Namespace) -> int:
    check_database(settings)
    report = _complete(verify_database(str(settings.database_url), repair=options.repair))
    print(report.text())
    return OK if options.repair or not report.differences else FAILED


def _dead_letters(settings: Settings, options: argparse.Namespace) -> int:
    check_database(settings)
    return int(_complete(options.dead_letters_command(settings, options)))


def _sources(settings: Settings, options: argparse.Namespace) -> int:
    # Likewise.
    from dashboard.sources_command import COMMANDS  # noqa: PLC0415

    check_database(settings)
    return int(_complete(COMMANDS[options.sources_command](settings, options)))


def _status(settings: Settings, options: argparse.Namespace) -> int:
    kafka = None
    if settings.kafka_bootstrap_servers is None:
        check_database(settings)
    else:
        check_servers(settings)
        kafka = kafka_options(settings)
    found = _complete(status(str(settings.database_url), kafka))
    print(found.json() if options.json else found.text())
    for line in found.problems:
        print(f"windsor: {line}", file=sys.stderr)
    return FAILED if found.problems else OK


def _check_config(options: argparse.Namespace) -> int:
    # The worker's process does without.
    from dashboard.app import check_settings as check_dashboard  # noqa: PLC0415

    settings, problems = read_settings(os.environ)
    checks = {"consume": check_settings, "dashboard": check_dashboard}
    found: list[str] = []
    try:
        check_all(
            *(
                partial(check, settings)
                for name, check in checks.items()
                if options.only in {None, name}
            )
        )
    except ConfigError as error:
        # What cannot be read has its default here, of which there is nothing to say.
        found = [line for line in str(error).splitlines() if line.split(":")[0] not in problems]
    if lines := [*problems.values(), *found]:
        raise ConfigError("\n".join(lines))
    print("the settings are complete")
    return OK


def _complete(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - the coroutine's own
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(coroutine)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


if __name__ == "__main__":
    sys.exit(main())
