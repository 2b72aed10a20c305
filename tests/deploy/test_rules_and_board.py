"""Rules and board name what the worker exports, and each alert is tested and has its entry."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from consumer.metrics import Metrics
from consumer.ports import TopicPartition
from dashboard.metrics import EndpointMetrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())["groups"]
BOARD = json.loads((DEPLOY / "grafana/windsor.json").read_text())
ALERTS = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
RECORDED = {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
# What Prometheus itself adds to whatever it scrapes.
ADDED = {"job", "instance"}
NAME = r"\b(?:windsor|process|python)_\w+"


def exported() -> dict[str, set[str]]:
    """The labels of each series that worker and endpoint have once all has happened."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics = Metrics(registry)
    metrics.lane_filled(0, 1)
    metrics.partitions_changed(1, paused=False)
    metrics.dead_share_changed("t", 0.5)
    metrics.topic_refused("t")
    metrics.topic_overtaken("t")
    metrics.fetch_retried("bootstrap")
    metrics.set_lag({TopicPartition("t", 0): 1}, {TopicPartition("t", 0): 0}, 0.0)
    metrics.set_pool(1, 0)
    endpoint = EndpointMetrics(registry)
    endpoint.answered("/v1/batch", 503, "unavailable")
    endpoint.accepted(["track"], 0.1)
    endpoint.cut_off("slow")
    endpoint.produce_failed("KafkaTimeoutError")
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPORTED = exported()


def expressions() -> Iterator[tuple[str, str]]:
    """All that Prometheus is asked, with where."""
    for group in RULES:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in BOARD["templating"]["list"]:
        yield variable["name"], variable.get("definition", "")


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expression_names_only_metrics_and_labels_that_are_exported(
    where: str, expression: str
) -> None:
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    recorded = set(re.findall(r"\bjob:\w+:\w+", without_texts))
    names = set(re.findall(NAME, re.sub(r"\bjob:\w+:\w+", "", without_texts)))
    matched = {
        (name, label)
        for name, matchers in re.findall(rf"(?<!:)({NAME})\{{([^}}]*)\}}", without_texts)
        for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers)
    }
    grouped = {
        label.strip()
        for labels in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", without_texts)
        for label in labels.split(",")
    }

    assert names - EXPORTED.keys() == set(), where
    assert recorded - RECORDED == set(), where
    assert {
        (n, label) for n, label in matched if label not in EXPORTED.get(n, set()) | ADDED
    } == set()
    of_any = set().union(*(EXPORTED[name] for name in names)) | ADDED
    assert grouped - of_any == set(), where


def test_labels_in_words_are_those_that_the_expression_leaves() -> None:
    for alert in ALERTS:
        words = " ".join(alert["annotations"].values())
        for label in re.findall(r"\$labels\.(\w+)", words):
            assert re.search(rf"\bby \([^)]*\b{label}\b|:|\bprocess_", alert["expr"]), alert[
                "alert"
            ]


def test_each_metric_is_on_the_board() -> None:
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    families = {
        re.sub(r"_(bucket|count|sum|created)$", "", name)
        for name in EXPORTED
        if name.startswith("windsor_")
    }

    assert {name for name in families if name not in shown} == set()


def test_each_alert_has_a_severity_words_and_its_runbook_entry() -> None:
    entries = re.findall(
        r"^### (Windsor\w+)$", (ROOT / "docs/operate.md").read_text(), re.MULTILINE
    )

    assert {alert["labels"]["severity"] for alert in ALERTS} == {"critical", "warning"}
    for alert in ALERTS:
        assert list(alert["annotations"]) == ["summary", "description", "runbook_url"]
        assert alert["annotations"]["runbook_url"] == f"docs/operate.md#{alert['alert'].lower()}"
    assert sorted(entries) == sorted({alert["alert"] for alert in ALERTS})


def test_each_alert_is_seen_to_fire_and_to_be_silent() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus/rules.test.yaml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    fired = {
        (check["alertname"], alert["exp_labels"]["severity"])
        for check in checks
        for alert in check["exp_alerts"]
    }
    silent = {check["alertname"] for check in checks if not check["exp_alerts"]}

    assert fired == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert silent == {alert["alert"] for alert in ALERTS}


def test_operators_object_is_made_of_the_rules() -> None:
    made = yaml.safe_load((DEPLOY / "prometheus/prometheus-rule.yaml").read_text())
    assert made["spec"]["groups"] == RULES, "run `make rules`"


def test_panels_lie_beside_one_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        at: Mapping[str, Any] = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert all(panel["description"].endswith(".") for panel in PANELS)
