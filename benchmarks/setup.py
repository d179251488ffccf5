"""Installs the peers, each into a folder of its own in a cache: `python -m benchmarks.setup [--cache DIR] [NAME …]`.

By package names only. What cannot be installed is absent from the results, with the reason; nothing is guessed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import redis_program

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ingestd-benchmarks"
INSTALL_S = 600.0
OLDEST_NODE = (22, 18)

# The peer itself comes first: its version is the one that is reported.
PYTHON_PEERS = {
    "pgqueuer": ("pgqueuer[asyncpg]", "uvloop"),
    "oban": ("oban", "psycopg[binary,pool]", "uvloop"),
    "procrastinate": ("procrastinate", "psycopg[binary,pool]"),
    "taskiq": ("taskiq", "taskiq-redis", "uvloop"),
    "celery": ("celery[redis]",),
}
NODE_PEERS = {"graphile-worker": ("graphile-worker",)}
NEED_REDIS = {"taskiq", "celery"}
PEERS = (*PYTHON_PEERS, *NODE_PEERS)


@dataclass(frozen=True)
class Installed:
    """A peer that can be run.

    Args:
        folder: where it is.
        interpreter: that runs its scripts.
        versions: of it, of its interpreter and of its driver.
    """

    folder: Path
    interpreter: Path
    versions: dict[str, str]


class Absent(Exception):
    """A peer that cannot be had here, and why."""


def install(name: str, cache: Path = CACHE) -> Installed:
    """Install a peer unless it is there.

    Raises:
        Absent: it cannot be.
    """
    if name in NEED_REDIS and redis_program() is None:
        raise Absent("redis-server is not installed (apt-get install redis-server)")
    folder = cache / name
    note = folder / "installed.json"
    if not note.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        interpreter = _python_peer(folder, PYTHON_PEERS[name]) if name in PYTHON_PEERS else _node_peer(folder, NODE_PEERS[name])
        versions = _python_versions(interpreter) if name in PYTHON_PEERS else _node_versions(folder, interpreter)
        note.write_text(json.dumps({"interpreter": str(interpreter), "versions": versions}, indent=1))
    known = json.loads(note.read_text())
    return Installed(folder, Path(known["interpreter"]), known["versions"])


def install_redis() -> None:
    """Debian's package, where we are root and it is missing."""
    if redis_program() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing redis-server", file=sys.stderr)
        subprocess.run(["apt-get", "install", "-y", "-qq", "redis-server"], check=False, stdout=sys.stderr, timeout=INSTALL_S)


def newest_python() -> Path:
    """The newest interpreter from 3.12 on that runs (oban needs 3.12), else ours."""
    folders = os.environ.get("PATH", "").split(":")
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in (14, 13, 12):
        found = [Path(folder) / f"python3.{minor}" for folder in folders if folder]
        found += sorted(versions.glob(f"3.{minor}.*/bin/python3.{minor}"), reverse=True)
        for candidate in found:
            # A name on the PATH may be a shim for a version that is not switched on.
            if candidate.exists() and _says(candidate, "-c", "import venv, ensurepip") is not None:
                return candidate
    return Path(sys.executable)


def _python_peer(folder: Path, packages: tuple[str, ...]) -> Path:
    _must(newest_python(), "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    _must(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return python


def _python_versions(python: Path) -> dict[str, str]:
    listed = json.loads(_says(python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check") or "[]")
    return {"python": (_says(python, "-c", "import platform; print(platform.python_version())") or "").strip()} | {
        package["name"]: package["version"] for package in listed
    }


def _node_peer(folder: Path, packages: tuple[str, ...]) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise Absent("npm is not installed")
    (folder / "package.json").write_text('{"private": true}')
    node = shutil.which("node")
    if node is not None and _node_version(Path(node)) >= OLDEST_NODE:
        _must(npm, "install", "--no-audit", "--no-fund", "--prefix", folder, *packages)
        return Path(node)
    # The package of this name brings the program. It comes first: npm chooses versions that fit the node it runs on.
    _must(npm, "install", "--no-audit", "--no-fund", "--prefix", folder, f"node@{OLDEST_NODE[0]}")
    own = folder / "node_modules" / "node" / "bin"
    _must(npm, "install", "--no-audit", "--no-fund", "--prefix", folder, *packages, path=f"{own}:{os.environ.get('PATH', '')}")
    return own / "node"


def _node_version(node: Path) -> tuple[int, ...]:
    said = (_says(node, "--version") or "v0").strip().removeprefix("v")
    return tuple(int(part) for part in said.split(".") if part.isdigit())


def _node_versions(folder: Path, node: Path) -> dict[str, str]:
    modules = folder / "node_modules"
    found = {"node": (_says(node, "--version") or "").strip().removeprefix("v")}
    for package in ("graphile-worker", "pg"):
        found[package] = json.loads((modules / package / "package.json").read_text())["version"]
    return found


def _must(program: Path | str, *arguments: object, path: str = "") -> None:
    words = [str(program), *map(str, arguments)]
    environ = {**os.environ, "PATH": path} if path else None
    try:
        done = subprocess.run(words, env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"{Path(words[0]).name}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Absent(f"{' '.join(Path(word).name for word in words[:4])} …: {last[0][:200]}")


def _says(program: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def main() -> int:
    """Install what is named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.setup", description="Install the peers of the queue benchmark.")
    parser.add_argument("peers", nargs="*", metavar="NAME", help=f"default: all of {' '.join(PEERS)}")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where to (default: %(default)s)")
    asked = parser.parse_args()
    if unknown := [name for name in asked.peers if name not in PEERS]:
        parser.error(f"{unknown[0]} is none of {' '.join(PEERS)}")
    install_redis()
    absent = 0
    for name in asked.peers or PEERS:
        try:
            versions = install(name, asked.cache).versions
            print(f"{name} {versions.get(name, '?')}")
        except Absent as why:
            absent += 1
            print(f"{name}: absent: {why}")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
