"""The system user that the embedded Postgres runs as: ourselves, or, for root, a system user of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingestd.errors import Refused

SYSTEM_USER = "ingestd"
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

# In order of preference: shadow-utils, Debian's adduser, busybox's adduser.
_WAYS_TO_ADD_A_USER = (
    ("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/false"),
    ("adduser", "--system", "--group", "--no-create-home", "--home", "/nonexistent", "--shell", "/bin/false"),
    ("adduser", "-S", "-D", "-H", "-s", "/bin/false"),
)


@dataclass(frozen=True)
class Account:
    """A system user as Postgres needs it.

    Args:
        uid: its user id.
        gid: its primary group id.
        name: its login name.
    """

    uid: int
    gid: int
    name: str

    @property
    def is_ourselves(self) -> bool:
        """True when a process we start runs as this user without further ado."""
        return self.uid == os.geteuid()

    def spawn_options(self) -> dict[str, Any]:
        """Arguments for `subprocess` that start a process as this user and give it nothing of ours.

        The environment is built from nothing: ours may hold secrets, and PG* variables that change what a server does.
        """
        options: dict[str, Any] = {
            "cwd": "/",
            "umask": 0o077,
            "env": {"PATH": _SYSTEM_FOLDERS, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        }
        if not self.is_ourselves:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def can(self, *command: str) -> bool:
        """Whether a short command, run as this user, ends with 0 within 20 s."""
        try:
            done = subprocess.run(  # noqa: S603 - fixed commands of ours, no shell
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=20, check=False, **self.spawn_options()
            )
        except (PermissionError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def can_enter(self, folder: Path) -> bool:
        """Whether this user may pass through a folder and all above it; asked of the kernel, so ACLs count too."""
        return self.can("/bin/sh", "-c", 'cd "$1"', "sh", str(folder))

    def give(self, path: Path) -> None:
        """Make this user the owner of a file or folder that we have just made."""
        if not self.is_ourselves:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_of(uid: int) -> Account:
    """The account with a user id.

    Raises:
        Refused: the id has no entry in the user database; initdb cannot do without.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise Refused(
            f"the embedded Postgres cannot run as user id {uid}: it has no entry in /etc/passwd",
            hint="add one, run ingestd as a user that has one, or set [database] url to a Postgres of your own",
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def system_account(name: str = SYSTEM_USER) -> Account:
    """The system user that the server runs as where we are root; made on the first call.

    Raises:
        Refused: there is no such user and none can be made.
    """
    entry, reason = _entry(name), ""
    if entry is None:
        entry, reason = _make_user(name)
    if entry is None or entry.pw_uid == 0:
        reason = reason or "it is root itself"
        raise Refused(
            f"Postgres does not run as root, and the system user {name!r} for it cannot be made: {reason}",
            hint=f"make it yourself (useradd --system {name}), run ingestd as an ordinary user, "
            "or set [database] url to a Postgres of your own",
        )
    account = Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    if not account.can("/bin/sh", "-c", ":"):
        raise Refused(
            f"Postgres does not run as root, and this process may not start one as the system user {name!r}",
            hint="run ingestd as an ordinary user, or set [database] url to a Postgres of your own",
        )
    return account


def _entry(name: str) -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def _make_user(name: str) -> tuple[pwd.struct_passwd | None, str]:
    """Add the user, one process of ours at a time. Returns its entry, or the reason why there is none."""
    complaints: list[str] = []
    with Path("/etc/passwd").open() as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        for command, *arguments in _WAYS_TO_ADD_A_USER:
            entry = _entry(name)
            if entry is not None:
                return entry, ""
            complaints.append(_add_user(command, *arguments, name))
    return _entry(name), next(filter(None, complaints), "neither useradd nor adduser is installed")


def _add_user(command: str, *arguments: str) -> str:
    """Run one way of adding a user; returns the last line of its complaint, empty where it is not installed."""
    program = shutil.which(command, path=_SYSTEM_FOLDERS)
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands of ours, no shell
            [program, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines()
    return lines[-1] if done.returncode and lines else ""
