"""The SQL of the pages: named, commented queries in `.sql` files."""

from consumer.sql import load_queries as load_queries_of


def load_queries(file: str) -> dict[str, str]:
    """Read a file of this package; name to SQL."""
    return load_queries_of(file, __package__ or "")
