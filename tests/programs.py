"""What some tests need and pip does not install: a browser, packages of npm, real payloads."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import filelock
import pytest


def missing(what: str) -> NoReturn:
    """End a test that lacks something: a failure in CI, elsewhere a skip that says what to do."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@cache
def chromium() -> str:
    """The machine's Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing("tried in Chromium, which is not here: `apt install chromium`")
    return path


@cache
def npm_packages(folder: Path) -> Path:
    """The packages of a folder's own lock file, fetched where they are not there yet."""
    packages = folder / "node_modules"
    done, lock = packages / ".package-lock.json", folder / "package-lock.json"
    # Tests that run side by side want the same.
    with filelock.FileLock(folder / ".npm-ci.lock"):
        if not done.exists() or done.stat().st_mtime < lock.stat().st_mtime:
            npm = shutil.which("npm")
            if npm is None:
                missing("tried with packages of npm, which is not here: install Node.js")
            subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
                cwd=folder, check=True, timeout=300,
            )  # fmt: skip
            done.touch()
    return packages
