"""The SQL of the worker: named, commented queries in `.sql` files."""

from importlib import resources


def load_queries(file: str, package: str = __name__) -> dict[str, str]:
    """Read a file of queries, each after a line `-- name: NAME`.

    Args:
        file: Name of a file.
        package: Where it lies; this one unless told.

    Returns:
        Name to SQL; comments above a name belong to the reader.
    """
    queries: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (resources.files(package) / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("-- name: "):
            lines = queries.setdefault(line.removeprefix("-- name: ").strip(), [])
        elif not line.startswith("--"):
            lines.append(line)
    return {name: "\n".join(sql).strip() for name, sql in queries.items()}
