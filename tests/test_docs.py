"""What is documented is what there is: settings, metrics, commands, queries."""

import argparse
import re
from pathlib import Path

import asyncpg
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from consumer import schema, verify
from consumer.cli import _parser
from consumer.core.call import Call
from consumer.core.decode import Decoder, DecodeRules
from consumer.kafka import KafkaOptions, sender
from consumer.metrics import Metrics
from consumer.options import (
    decode_rules,
    kafka_options,
    pipeline_options,
    postgres_options,
    upkeep_options,
)
from consumer.pipeline import PipelineOptions
from consumer.postgres import PostgresOptions
from consumer.retention import UpkeepOptions
from consumer.settings import Settings
from dashboard.metrics import EndpointMetrics
from tests.model import model_of
from tests.worlds import WorldRecord

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(WINDSOR_\w+)` \| (?:`(.*?)`)? ?\|", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    expected = [
        (field.encode_name, "" if field.default is None else str(field.default))
        for field in msgspec.structs.fields(Settings)
    ]

    assert rows == expected


def test_every_limit_is_documented_with_its_reason() -> None:
    reasons = re.findall(
        r"^- `(WINDSOR_\w+)`: (\S)", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    limits = [
        field.encode_name
        for field in msgspec.structs.fields(Settings)
        if field.encode_name.endswith(("_MAX", "_SECONDS"))
    ]

    assert sorted(name for name, _ in reasons) == sorted(limits)


def test_limits_on_input_are_the_decoders_defaults() -> None:
    rules, settings = DecodeRules(), Settings()

    assert {
        name: getattr(settings, name) for name in DecodeRules._fields if name.endswith("_max")
    } == {name: getattr(rules, name) for name in DecodeRules._fields if name.endswith("_max")}
    assert settings.blocked_ids_set == rules.blocked_ids


def test_options_without_settings_are_those_of_the_settings_defaults() -> None:
    settings = Settings()

    assert postgres_options(settings) == PostgresOptions("")
    assert upkeep_options(settings) == UpkeepOptions("")
    assert pipeline_options(settings) == PipelineOptions()
    assert kafka_options(settings) == KafkaOptions(bootstrap_servers="", topics="segment-events")
    assert decode_rules(settings) == DecodeRules()


def test_every_metric_is_documented_and_explained() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.skipped({"tombstone": 1})
    EndpointMetrics(registry)
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
    }
    documented = set(
        re.findall(r"^\| `(windsor_\w+)`", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    )

    assert documented == found
    assert all(family.documentation.endswith(".") for family in registry.collect())


def test_deadlines_of_operators_commands_are_documented() -> None:
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \| (\d+) s \| \S", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    documented = {(command, what): int(seconds) for command, what, seconds in rows}

    expected = {
        ("`verify`, `status`, `dead-letters`", "the question which version the schema is"): (
            schema, "_ANSWER_SECONDS_MAX"),
        ("`migrate`", "another migration to end"): (schema, "_TURN_SECONDS_MAX"),
        ("`migrate`", "a table that workers write, ten times over"): (schema, "_LOCK_WAIT_SECONDS"),
        ("`migrate`", "one statement of a migration"): (schema, "_STATEMENT_SECONDS_MAX"),
        ("`migrate`", "all of a migration"): (schema, "_MIGRATION_SECONDS_MAX"),
        ("`migrate`", "a statement around the migrations"): (
            schema, "_SMALL_STATEMENT_SECONDS_MAX"),
        ("`verify`", "a lock"): (verify, "_LOCK_WAIT_SECONDS"),
        ("`dead-letters replay`", "Kafka to have some records"): (sender, "_SENDING_SECONDS_MAX"),
    }  # fmt: skip
    assert {row: documented.get(row) for row in expected} == {
        row: vars(module)[name] for row, (module, name) in expected.items()
    }


def test_every_command_is_documented() -> None:
    documented = (ROOT / "README.md").read_text() + (DOCS / "operate.md").read_text()

    found = commands(_parser())
    assert {"run", "consume", "dead-letters show"} <= set(found)
    assert [name for name in found if f"windsor {name}" not in documented] == []


def commands(parser: argparse.ArgumentParser, before: str = "") -> list[str]:
    """All commands of a parser, those below others with their path."""
    found = []
    for action in parser._actions:  # noqa: SLF001 - argparse tells nobody
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - likewise
            for name, below in action.choices.items():
                found += commands(below, f"{before}{name} ") or [f"{before}{name}"]
    return found


QUERIES = re.findall(r"```sql\n(.*?)```", (DOCS / "data-model.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("query", QUERIES)
async def test_query_of_the_data_model_runs(query: str, database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetch(query) == []
    finally:
        await connection.close()


def test_there_are_queries() -> None:
    assert len(QUERIES) >= 6


async def test_every_column_of_the_views_is_documented(database: str) -> None:
    sections = re.findall(
        r"^### `windsor\.(\w+)`\n(.*?)(?=^##|\Z)",
        (DOCS / "data-model.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    documented = {
        (view, *row)
        for view, text in sections
        for row in re.findall(r"^\| `(\w+)` \| (\w+) \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    }
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'windsor'"
        )
    finally:
        await connection.close()

    short = {"timestamp with time zone": "timestamptz"}
    assert documented == {
        (view, column, short.get(type_, type_)) for view, column, type_ in map(tuple, rows)
    }


EXAMPLES = re.findall(
    r"```jsonl\n(.*?)```(.*?)(?=```jsonl|\Z)", (DOCS / "identity.md").read_text(), re.DOTALL
)


@pytest.mark.parametrize(("lines", "after"), EXAMPLES)
def test_example_of_identities_holds(lines: str, after: str) -> None:
    decoder = Decoder()
    records = [WorldRecord(line.encode(), at) for at, line in enumerate(lines.splitlines())]
    calls = [call for record in records for call in decoder.decode(record)]
    shown = re.findall(r"^\| `(\w+)` \| `(\S+)` \| `(\S+)` \|$", after, re.MULTILINE)

    found = model_of([call for call in calls if isinstance(call, Call)])["user_ids"]
    assert len(calls) == len(records)
    assert shown == sorted((row["kind"], row["value"], row["user_id"]) for row in found)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "deploy/README.md", *sorted(DOCS.rglob("*.md"))]
FOLDERS = ("bench", "consumer", "dashboard", "demo", "deploy", "docs", "schemas", "tests")
SOURCES = [
    *PAGES,
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
    *(
        file
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in {".py", ".sql", ".yaml", ".sh"} and "node_modules" not in file.parts
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]

    assert [link for link in links if not leads_somewhere(page, link)] == []


def test_what_sources_refer_to_is_in_this_repository() -> None:
    elsewhere = re.compile(r"the\s+contract(?:,|'s)\s+sections?\s+\d")
    reference = re.compile(r"((?:docs/[\w/-]+|README|CONTRIBUTING)\.md)((?:,\s+\"[^\"]+\")+)")
    found = 0
    wrong = []
    for source in SOURCES:
        text = source.read_text()
        wrong += [f"{source}: {words}" for words in elsewhere.findall(text)]
        for page, headings in reference.findall(text):
            for heading in re.findall(r'"([^"]+)"', headings):
                found += 1
                if " ".join(heading.split()) not in headings_of(ROOT / page):
                    wrong.append(f"{source}: {page} has no heading {heading!r}")

    assert wrong == []
    assert found >= 10, "references are written otherwise"


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings_of(page)
    }


def headings_of(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE) if page.exists() else []
