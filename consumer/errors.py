"""What can go wrong in the world around the worker.

Bad data is a value (`consumer.core.call.Rejected`), never an exception.
"""

from collections.abc import Callable


class WindsorError(Exception):
    """The base of all errors that a person can act on; its text is one line."""


class ConfigError(WindsorError):
    """A setting is missing, misspelled or out of range; one line for each that is."""


class SchemaError(WindsorError):
    """The database's schema is not the one that this version needs."""


class TransientSinkError(WindsorError):
    """The database cannot write now; the same batch may succeed later."""


class PermanentSinkError(WindsorError):
    """The database refuses this batch for its data; retrying it whole is useless."""


class SourceError(WindsorError):
    """Kafka answers in a way that the worker cannot go on from by itself."""


class RetentionError(SourceError):
    """The topic's retention has dropped records that the worker had not read."""


class DeadTopicError(WindsorError):
    """Most of a topic's last records are dead letters: a person has to look."""


class RecordRefusedError(WindsorError):
    """Kafka does not take this record back: too large for its topic now, or too old."""


def check_all(*checks: Callable[[], object]) -> None:
    """Make every check, and tell at once what they have found.

    Raises:
        ConfigError: With the lines of all of them, none twice.
    """
    lines: list[str] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            lines += str(error).splitlines()
    if lines:
        raise ConfigError("\n".join(dict.fromkeys(lines)))
