"""deploy/compose.yaml, read by the real `docker compose`."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest

from consumer.settings import Settings, load_settings

pytestmark = pytest.mark.containers

FILE: Final = Path(__file__).parents[2] / "deploy" / "compose.yaml"
MODULE: Final = Path(__file__).parent / "compose"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "windsor"


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """Docker's own plugin, or the same program built from its Go module (kept in the cache)."""
    plugin = ["docker", "compose"]
    if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0:
        return plugin
    digest = hashlib.sha256((MODULE / "go.sum").read_bytes()).hexdigest()[:16]
    program = CACHE / f"docker-compose-{digest}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder) / "docker-compose"
            subprocess.run(
                ["go", "build", "-mod=readonly", "-o", made, "github.com/docker/compose/v2/cmd"],
                cwd=MODULE, env={**os.environ, "CGO_ENABLED": "0"}, check=True,
            )  # fmt: skip
            made.rename(program)
    return [str(program)]


def read(compose: list[str], file: Path) -> Any:  # noqa: ANN401 - a document
    """The file as compose understands it.

    Raises:
        subprocess.CalledProcessError: It does not.
    """
    out = subprocess.run(
        [*compose, "-f", file, "config", "--format", "json"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return json.loads(out)


@pytest.mark.timeout(900)
def test_compose_brings_up_all_of_it(compose: list[str]) -> None:
    services = read(compose, FILE)["services"]

    assert set(services) == {
        "kafka", "postgres", "migrate", "worker", "dashboard", "prometheus", "grafana",
    }  # fmt: skip
    for name, service in services.items():
        published = service.get("ports", [])
        assert {port["host_ip"] for port in published} <= {"127.0.0.1"}, name
        assert not service["image"].endswith(":latest") or service["image"] == "windsor:latest"
    for name in ("migrate", "worker", "dashboard"):
        service = services[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        # A name that is no setting is refused.
        load_settings(service["environment"])
    worker = services["worker"]
    assert {name: on["condition"] for name, on in worker["depends_on"].items()} == {
        "kafka": "service_healthy",
        "migrate": "service_completed_successfully",
    }
    # With the last commit and the goodbye.
    seconds = int(worker["stop_grace_period"].removesuffix("s"))
    assert seconds >= Settings().drain_timeout_seconds + 5


@pytest.mark.timeout(900)
def test_compose_refuses_what_it_does_not_know(compose: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    shutil.copytree(FILE.parent, tmp_path, dirs_exist_ok=True)
    broken.write_text(FILE.read_text().replace("cap_drop:", "cap_dorp:"))

    with pytest.raises(subprocess.CalledProcessError) as refused:
        read(compose, broken)

    assert "cap_dorp" in refused.value.stderr
