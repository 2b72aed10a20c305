"""The programs that try `deploy/`: Debian's, and those that Go builds from its modules.

`python -m tests.deploy.programs` builds them, some minutes the first time; what was built is kept
in the user's cache, by the content of its folder in `go/`.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

_GO: Final = Path(__file__).parent / "go"
_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "windsor/deploy"
_PACKAGES: Final = {
    "etcd": "etcd-server",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}
_KEDA: Final = (
    "github.com/kedacore/keda/v2@v2.21.0",
    "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
)
# Where KEDA says what it knows of a trigger: its definition takes any key.
_SCALER: Final = "pkg/scalers/kafka_scaler.go"
_MONITORING: Final = "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
_VERSION: Final = "-X k8s.io/component-base/version.gitVersion=v1.37.2"


def debians(name: str) -> str:
    """The path of a program that Debian packages.

    Raises:
        FileNotFoundError: It is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is missing: apt-get install {_PACKAGES[name]}")
    return found


def built(module: str) -> Path:
    """The folder of what a module in `go/` makes; built if it is not there yet."""
    made = _CACHE / f"{module}-{_digest(_GO / module)}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as folder:
            _BUILDERS[module](_GO / module, Path(folder) / "made")
            # At once: whoever looks sees all of it or nothing.
            (Path(folder) / "made").rename(made)
    return made


def _digest(folder: Path) -> str:
    made_of = {"cluster": _VERSION, "crds": f"{_KEDA} {_SCALER}"}
    digest = hashlib.sha256(made_of.get(folder.name, "").encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _go(folder: Path, *arguments: str) -> str:
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError("go is missing: install Go 1.26 or newer")
    done = subprocess.run(
        [go, *arguments], cwd=folder, env={**os.environ, "CGO_ENABLED": "0"},
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return done.stdout.decode()


def _build(packages: str, flags: str = "-s -w") -> Callable[[Path, Path], None]:
    def build(folder: Path, made: Path) -> None:
        made.mkdir()
        _go(folder, "build", "-trimpath", f"-ldflags={flags}", "-o", f"{made}/", *packages.split())

    return build


def _definitions(folder: Path, made: Path) -> None:
    """Custom resource definitions: the Prometheus operator's from its types, KEDA's as shipped."""
    made.mkdir()
    _go(
        folder, "tool", "controller-gen", "crd:allowDangerousTypes=true", f"paths={_MONITORING}",
        f"output:crd:dir={made}",
    )  # fmt: skip
    for path in made.iterdir():
        if not path.name.endswith(("_podmonitors.yaml", "_prometheusrules.yaml")):
            path.unlink()
    version, sum_ = _KEDA
    # Outside of a module: the dependencies of KEDA itself are not asked for.
    keda = json.loads(_go(made, "mod", "download", "-json", version))
    if keda["Sum"] != sum_:
        raise ValueError(f"{version} is not what it was: {keda['Sum']}")
    for path in Path(keda["Dir"]).glob("config/crd/bases/keda.sh_*.yaml"):
        (made / path.name).write_bytes(path.read_bytes())
    known = re.findall(r'`keda:"name=(\w+),', (Path(keda["Dir"]) / _SCALER).read_text())
    (made / "kafka-trigger.txt").write_text("\n".join(known))


_BUILDERS: Final[Mapping[str, Callable[[Path, Path], None]]] = {
    "cluster": _build("./kube-apiserver ./kubectl", f"-s -w {_VERSION}"),
    "lint": _build("tool"),
    "board": _build("."),
    "crds": _definitions,
}


if __name__ == "__main__":
    for _name in _PACKAGES:
        debians(_name)
    for _name in _BUILDERS:
        built(_name)
