"""A real API server, and the manifests as kustomize makes them."""

import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from demo.servers import free_port
from tests.deploy.programs import built, debians

Manifest = dict[str, Any]
DEPLOY = Path(__file__).parents[2] / "deploy"


class Cluster(NamedTuple):
    """An API server without any node: it judges what it is given, and keeps it."""

    kubectl: Path
    kubeconfig: Path

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl against it."""
        return subprocess.run(
            [self.kubectl, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=given, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def apply(self, objects: Sequence[Manifest], *options: str) -> subprocess.CompletedProcess[str]:
        """Apply objects; `--dry-run=server` only asks what the server says."""
        return self.run("apply", "-f", "-", *options, given=yaml.safe_dump_all(objects))


def rendered(overlay: str) -> list[Manifest]:
    """The objects of an overlay."""
    done = subprocess.run(
        [built("cluster") / "kubectl", "kustomize", DEPLOY / "kubernetes/overlays" / overlay],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The API server, with the definitions of KEDA and of the Prometheus operator."""
    with (
        tempfile.TemporaryDirectory(prefix="windsor-cluster-") as folder,
        _api_server(Path(folder)) as found,
    ):
        made = found.run("apply", "--server-side", "-f", str(built("crds")))
        assert made.returncode == 0, made.stderr
        waited = found.run("wait", "--for=condition=established", "crd", "--all")
        assert waited.returncode == 0, waited.stderr
        yield found


@contextmanager
def _api_server(folder: Path) -> Iterator[Cluster]:
    port, peers, secure = free_port(), free_port(), free_port()
    (folder / "tokens.csv").write_text('secret,admin,admin,"system:masters"\n')
    for arguments in (
        ("genrsa", "-out", "sa.key", "2048"),
        ("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"),
    ):
        subprocess.run(
            [debians("openssl"), *arguments], cwd=folder, check=True, capture_output=True
        )
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {
            "server": f"https://127.0.0.1:{secure}", "insecure-skip-tls-verify": True,
        }}],
        "users": [{"name": "admin", "user": {"token": "secret"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "admin"}}],
    }))  # fmt: skip
    found = Cluster(built("cluster") / "kubectl", kubeconfig)
    with ExitStack() as stack:
        stack.enter_context(running(folder, debians("etcd"), (
            "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--log-level=error",
            f"--listen-client-urls=http://127.0.0.1:{port}",
            f"--advertise-client-urls=http://127.0.0.1:{port}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-cluster=default=http://127.0.0.1:{peers}",
        )))  # fmt: skip
        server = stack.enter_context(running(folder, str(built("cluster") / "kube-apiserver"), (
            f"--etcd-servers=http://127.0.0.1:{port}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", f"--secure-port={secure}",
            f"--cert-dir={folder / 'certificates'}", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            f"--service-account-key-file={folder / 'sa.pub'}", "--authorization-mode=RBAC",
            f"--token-auth-file={folder / 'tokens.csv'}", "--endpoint-reconciler-type=none",
            # There is no controller to make the accounts' namespaces' defaults.
            "--disable-admission-plugins=ServiceAccount",
        )))  # fmt: skip
        deadline = time.monotonic() + 120
        while found.run("get", "--raw", "/readyz").stdout != "ok":
            assert server.poll() is None, (folder / "kube-apiserver.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the API server is not ready after two minutes"
            time.sleep(0.5)
        yield found


@contextmanager
def running(
    folder: Path, program: str, arguments: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while inside; what it says is in a file of its name."""
    with (folder / f"{Path(program).name}.log").open("wb") as log:
        process = subprocess.Popen([program, *arguments], cwd=folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answer(url: str) -> bytes:
    """What a server here answers."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - an address of ours
        return bytes(response.read())
