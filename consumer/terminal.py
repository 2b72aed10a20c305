"""What a person's terminal gets to see: hostile text made safe, and progress."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def printable(text: str | bytes) -> str:
    r"""Escape what is no plain character: a record must not drive the terminal.

    Control characters (ESC and C1 too), direction overrides, invisible and unassigned ones become
    `\x1b` or `\u202e`, bytes that are no UTF-8 `\xff`; line breaks too, so that nothing can forge
    a line of ours.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while inside, if that is a terminal.

    Gives a function to tell of so many more that are done.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    # Only here: no worker needs it.
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    with bars.Progress(
        bars.TextColumn(what),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)
