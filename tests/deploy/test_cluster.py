"""The overlays before a real API server: taken as they are, and refused where they are broken."""

import copy
import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.pipeline import PipelineOptions
from consumer.settings import load_settings, require
from tests.deploy.conftest import DEPLOY, Cluster, Manifest, rendered
from tests.deploy.programs import built

pytestmark = pytest.mark.deploy

OVERLAYS = sorted(path.name for path in (DEPLOY / "kubernetes/overlays").iterdir())
COMPONENT = "app.kubernetes.io/component"


def object_of(objects: Sequence[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def workloads(objects: Sequence[Manifest]) -> list[Manifest]:
    """What makes pods."""
    return [o for o in objects if o["kind"] in {"Deployment", "Job"}]


def namespace_in(cluster: Cluster, objects: Sequence[Manifest]) -> None:
    """A dry run needs the namespace to be there for real."""
    made = cluster.apply([o for o in objects if o["kind"] == "Namespace"])
    assert made.returncode == 0, made.stderr


# What the server says ---------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_taken_without_a_warning(overlay: str, cluster: Cluster) -> None:
    objects = rendered(overlay)
    namespace_in(cluster, objects)

    done = cluster.apply(objects, "--dry-run=server", "--validate=strict", "--warnings-as-errors")

    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(objects)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_admitted_by_the_restricted_standard(overlay: str, cluster: Cluster) -> None:
    objects = rendered(overlay)
    namespace_in(cluster, objects)

    done = cluster.apply([pod_of(o) for o in workloads(objects)], "--dry-run=server")

    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3


def pod_of(workload: Manifest) -> Manifest:
    """The pod that a controller would make of it."""
    template = copy.deepcopy(workload["spec"]["template"])
    name, namespace = workload["metadata"]["name"], workload["metadata"]["namespace"]
    template["metadata"] |= {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", **template}


def test_pod_that_asks_for_more_than_restricted_is_refused(cluster: Cluster) -> None:
    objects = rendered("production")
    namespace_in(cluster, objects)
    pod = pod_of(object_of(objects, "Deployment", "windsor-worker"))
    pod["spec"]["containers"][0]["securityContext"]["capabilities"] = {"add": ["NET_ADMIN"]}

    done = cluster.apply([pod], "--dry-run=server")

    assert done.returncode == 1
    assert 'violates PodSecurity "restricted' in done.stderr


def worker(objects: Sequence[Manifest]) -> Any:  # noqa: ANN401 - a manifest's
    return object_of(objects, "Deployment", "windsor-worker")["spec"]


def container(objects: Sequence[Manifest]) -> Any:  # noqa: ANN401 - likewise
    return worker(objects)["template"]["spec"]["containers"][0]


def spec(kind: str, name: str) -> Callable[[Sequence[Manifest]], Any]:
    return lambda objects: object_of(objects, kind, name)["spec"]


BROKEN: dict[str, tuple[Callable[[Sequence[Manifest]], Any], dict[str, Any], str]] = {
    "selector of other pods": (
        worker, {"selector": {"matchLabels": {"app": "other"}}}, "does not match template `labels`",
    ),
    "misspelled field": (container, {"resource": {}}, 'unknown field "spec.template.spec'),
    "request over its limit": (
        container,
        {"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "512Mi"}}},
        "must be less than or equal to memory limit",
    ),
    "quantity that is none": (
        container, {"resources": {"limits": {"memory": "half"}}}, "quantities must match",
    ),
    "probe without a way": (container, {"livenessProbe": {}}, "must specify a handler type"),
    "probe of a port that is none": (
        container, {"readinessProbe": {"httpGet": {"port": 99_464}}}, "must be between 1 and 65535",
    ),
    "mount of no volume": (
        container, {"volumeMounts": [{"name": "gone", "mountPath": "/x"}]}, 'Not found: "gone"',
    ),
    "budget with both ends": (
        spec("PodDisruptionBudget", "windsor-worker"),
        {"minAvailable": 1}, "minAvailable and maxUnavailable cannot be both set",
    ),
    "network that is none": (
        spec("NetworkPolicy", "windsor-postgres"),
        {"egress": [{"to": [{"ipBlock": {"cidr": "10.20.0.0/33"}}]}]}, "cidr: Invalid value",
    ),
    "ports the wrong way round": (
        spec("NetworkPolicy", "windsor-kafka"),
        {"egress": [{"ports": [{"port": 9098, "endPort": 9092}]}]},
        "must be greater than or equal to `port`",
    ),
    "path of no kind": (
        spec("Ingress", "windsor-dashboard"),
        {"rules": [{"http": {"paths": [{"path": "/", "backend": {"service": {
            "name": "windsor-dashboard", "port": {"name": "http"}}}}]}}]},
        "pathType must be specified",
    ),
    "service port that is none": (
        spec("Service", "windsor-dashboard"), {"ports": [{"port": 0}]}, "between 1 and 65535",
    ),
    "job that always restarts": (
        lambda objects: object_of(objects, "Job", "windsor-migrate")["spec"]["template"]["spec"],
        {"restartPolicy": "Always"}, 'valid values: "OnFailure", "Never"',
    ),
    "scaling of nothing": (
        spec("ScaledObject", "windsor-worker"), {"scaleTargetRef": {}}, "Ref.name: Required",
    ),
    "scaling by words": (
        spec("ScaledObject", "windsor-worker"), {"maxReplicaCount": "many"}, "Count: Invalid value",
    ),
    "trigger's typo": (
        spec("ScaledObject", "windsor-worker"), {"trigger": []}, 'unknown field "spec.trigger"',
    ),
    "scrape by words": (
        spec("PodMonitor", "windsor-worker"),
        {"podMetricsEndpoints": [{"port": "metrics", "interval": "often"}]}, "interval: Invalid",
    ),
    "rule without an expression": (
        spec("PrometheusRule", "windsor"),
        {"groups": [{"name": "g", "rules": [{"alert": "A"}]}]}, "expr: Required value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_variant_is_refused(broken: str, cluster: Cluster) -> None:
    objects = rendered("production")
    namespace_in(cluster, objects)
    place, change, words = BROKEN[broken]
    place(objects).update(change)

    done = cluster.apply(objects, "--dry-run=server", "--validate=strict")

    assert done.returncode == 1
    assert words in done.stderr


# What the linter says ---------------------------------------------------------------------------

# Each check that is left out, with its reason.
LEFT_OUT = {
    "container-image-pull-policy": "no tag is used twice; a registry may be away",
    "deployment-has-host-podantiaffinity": "the topology spread constraints do it, over zones too",
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_linter_has_nothing_to_say(overlay: str) -> None:
    # One dashboard is enough on somebody's own machine.
    left_out = [*LEFT_OUT, *(["deployment-replicas"] if overlay == "dev" else [])]
    done = subprocess.run(
        [
            built("lint") / "kube-score", "score", "-", "--output-format=ci",
            "--kubernetes-version=v1.37", f"--ignore-test={','.join(left_out)}",
            "--enable-optional-test=container-seccomp-profile",
            "--enable-optional-test=container-security-context-readonlyrootfilesystem",
        ],
        input=yaml.safe_dump_all(rendered(overlay)), capture_output=True, text=True, check=False,
    )  # fmt: skip

    said = [
        line for line in done.stdout.splitlines() if line.startswith(("[CRITICAL]", "[WARNING]"))
    ]
    assert said == []
    assert done.returncode == 0
    assert sum(line.startswith("[OK]") for line in done.stdout.splitlines()) > 30


def test_linter_sees_a_container_that_may_write_its_root() -> None:
    objects = rendered("production")
    container(objects)["securityContext"]["readOnlyRootFilesystem"] = False
    done = subprocess.run(
        [built("lint") / "kube-score", "score", "-", "--output-format=ci"],
        input=yaml.safe_dump_all(objects), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "windsor-worker/windsor apps/v1/Deployment: (worker)" in done.stdout


# What the pods are given ------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_of_each_pod_are_complete(overlay: str, tmp_path: Path) -> None:
    objects = rendered(overlay)
    secret = tmp_path / "secret"
    secret.write_text("what-is-in-a-secret-of-some-length")
    for workload in workloads(objects):
        pod = workload["spec"]["template"]["spec"]
        (box,) = pod["containers"]
        environment = {variable["name"]: variable["value"] for variable in box["env"]}
        for source in box.get("envFrom", ()):
            environment |= object_of(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
        files = {
            name: value
            for name, value in environment.items()
            if name.endswith(("_FILE", "_CAFILE", "_CERTFILE", "_KEYFILE"))
        }
        mounts = {mount["mountPath"] for mount in box["volumeMounts"]}

        assert {str(Path(path).parent) for path in files.values()} == mounts, workload["metadata"]
        assert {mount["name"] for mount in box["volumeMounts"]} == {
            v["name"] for v in pod["volumes"]
        }
        settings = load_settings(environment | dict.fromkeys(files, str(secret)))
        needed = [] if workload["kind"] == "Job" else ["kafka_bootstrap_servers"]
        require(settings, "database_url", *needed)
        # A Service named windsor-dashboard would else set WINDSOR_DASHBOARD_PORT to tcp://...
        assert pod["enableServiceLinks"] is False
        assert not any("secretKeyRef" in str(variable) for variable in box["env"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_worker_has_the_time_that_its_drain_takes(overlay: str) -> None:
    pod = worker(rendered(overlay))["template"]["spec"]
    options = PipelineOptions()
    leaving = 3.0
    last_spans = 1.0
    needed = (
        options.drain_timeout_seconds + options.last_commit_timeout_seconds + leaving + last_spans
    )
    assert pod["terminationGracePeriodSeconds"] >= needed + 5


def test_worker_is_given_what_was_measured() -> None:
    measured = json.loads((DEPLOY.parent / "docs/performance/results.json").read_text())
    objects = rendered("production")
    asked, limit = (container(objects)["resources"][name] for name in ("requests", "limits"))
    (trigger,) = object_of(objects, "ScaledObject", "windsor-worker")["spec"]["triggers"]
    seconds = int(trigger["metadata"]["lagThreshold"]) / measured["calls_per_second"]

    # A limit over the request is memory that the node may not have.
    assert asked["memory"] == limit["memory"] == "512Mi"
    assert measured["worker_rss_bytes_max"] < 0.6 * 512 * 1024**2
    # One thread, which the database makes wait half of the time.
    assert asked["cpu"] == "1"
    # Less would be met by a hiccup, more by an audience's whole sync.
    assert 0.5 < seconds < 10


def test_replicas_are_kedas_to_say_and_never_more_than_partitions() -> None:
    objects = rendered("production")
    scaled = object_of(objects, "ScaledObject", "windsor-worker")["spec"]
    (trigger,) = scaled["triggers"]

    assert "replicas" not in worker(objects)
    assert scaled["scaleTargetRef"] == {"name": "windsor-worker"}
    assert trigger["metadata"]["allowIdleConsumers"] == "false"
    assert trigger["metadata"]["limitToPartitionsWithLag"] == "false"
    given = object_of(
        objects, "ConfigMap", container(objects)["envFrom"][0]["configMapRef"]["name"]
    )
    known = (built("crds") / "kafka-trigger.txt").read_text().split()
    assert {key.removesuffix("FromEnv") for key in trigger["metadata"]} <= set(known)
    named = {value for key, value in trigger["metadata"].items() if key.endswith("FromEnv")}
    assert named <= given["data"].keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_reach_only_what_they_need_and_only_who_must_reaches_them(overlay: str) -> None:
    objects = rendered(overlay)
    into: dict[str, list[object]] = {}
    out: dict[str, list[object]] = {}
    for pod in workloads(objects):
        name = pod["metadata"]["labels"][COMPONENT]
        labels = pod["spec"]["template"]["metadata"]["labels"]
        policies = [
            o["spec"]
            for o in objects
            if o["kind"] == "NetworkPolicy" and selects(o["spec"]["podSelector"], labels)
        ]
        assert {"Ingress", "Egress"} <= {t for policy in policies for t in policy["policyTypes"]}
        out[name] = ports([rule for policy in policies for rule in policy.get("egress", ())])
        into[name] = ports([rule for policy in policies for rule in policy.get("ingress", ())])

    kafka = 9093 if overlay == "production" else 9092
    assert out == {
        "migrate": [53, 53, 5432],
        "worker": [53, 53, 5432, kafka],
        "dashboard": [53, 53, 5432, kafka],
    }
    assert into == {"migrate": [], "worker": ["metrics"], "dashboard": ["http", "metrics"]}


def selects(selector: Manifest, labels: Manifest) -> bool:
    """Whether a selector of labels selects a pod, as far as ours go."""
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", ())
    )


def ports(rules: Sequence[Manifest]) -> list[object]:
    """The ports that are let through; each rule says to whom."""
    for rule in rules:
        peers = rule.get("to") or rule["from"]
        for peer in peers:
            if "ipBlock" in peer:
                assert ipaddress.ip_network(peer["ipBlock"]["cidr"]).is_private
            else:
                assert peer["namespaceSelector"]["matchLabels"]
    return sorted((port["port"] for rule in rules for port in rule["ports"]), key=str)


# The order of a rollout -------------------------------------------------------------------------


@contextmanager
def rolling_out(cluster: Cluster, overlay: str) -> Iterator[subprocess.Popen[str]]:
    """`deploy/kubernetes/rollout`, begun."""
    process = subprocess.Popen(
        [DEPLOY / "kubernetes/rollout", DEPLOY / "kubernetes/overlays" / overlay],
        env={**os.environ, "KUBECTL": f"{cluster.kubectl} --kubeconfig={cluster.kubeconfig}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def names(cluster: Cluster, kinds: str) -> set[str]:
    done = cluster.run("get", kinds, "-n", "windsor-dev", "-o", "name")
    return set(done.stdout.split())


def until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def set_status(cluster: Cluster, what: str, status: Manifest) -> None:
    """Say what a controller would."""
    done = cluster.run(
        "patch", "-n", "windsor-dev", what, "--subresource=status", "--type=merge", "-p",
        yaml.safe_dump({"status": status}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


NOW = "2026-11-05T06:07:08Z"


def test_workers_are_rolled_out_only_when_the_migration_is_done(cluster: Cluster) -> None:
    with rolling_out(cluster, "dev") as rollout:
        until(lambda: "job.batch/windsor-migrate" in names(cluster, "jobs"))
        time.sleep(5)
        assert rollout.poll() is None
        assert names(cluster, "deployments") == set()
        assert len(names(cluster, "networkpolicies")) == 5

        set_status(cluster, "job/windsor-migrate", {
            "startTime": NOW, "completionTime": NOW, "succeeded": 1,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": NOW, "lastProbeTime": NOW}
                for kind in ("SuccessCriteriaMet", "Complete")
            ],
        })  # fmt: skip
        both = {"deployment.apps/windsor-worker", "deployment.apps/windsor-dashboard"}
        until(lambda: names(cluster, "deployments") == both)
        for name in both:
            set_status(cluster, name, {
                "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
                "availableReplicas": 1,
            })  # fmt: skip
        out, err = rollout.communicate(timeout=60)

    assert (rollout.returncode, err) == (0, "")
    assert out.count("successfully rolled out") == 2


def test_failed_migration_leaves_the_workers_as_they_are(cluster: Cluster) -> None:
    before = cluster.run("get", "deployments", "-n", "windsor-dev", "-o", "yaml").stdout
    old = cluster.run(
        "get", "job/windsor-migrate", "-n", "windsor-dev", "-o", "jsonpath={.metadata.uid}"
    )
    with rolling_out(cluster, "dev") as rollout:
        until(lambda: cluster.run(
            "get", "job/windsor-migrate", "-n", "windsor-dev", "-o", "jsonpath={.metadata.uid}"
        ).stdout not in {"", old.stdout})  # fmt: skip
        set_status(cluster, "job/windsor-migrate", {
            "startTime": NOW, "failed": 5,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": NOW, "lastProbeTime": NOW}
                for kind in ("FailureTarget", "Failed")
            ],
        })  # fmt: skip
        _, err = rollout.communicate(timeout=60)

    assert rollout.returncode == 1
    assert err.splitlines()[-1] == "rollout: the migration failed: the workers were not touched"
    assert cluster.run("get", "deployments", "-n", "windsor-dev", "-o", "yaml").stdout == before
