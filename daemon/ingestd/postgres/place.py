"""The folder that the embedded Postgres lives in, its files, and who may see them.

An ordinary user's server lives in the data folder itself, which is theirs alone. Where we are root, the server is
another user: the folder stays root's (0710, the group is the server's), so that a compromised server can neither
replace the configuration nor plant links for root to follow, and only what the server must write belongs to it. If
that user cannot get into the folder at all (a checkout under /root), or another user could move it (a checkout in
their home), the server lives under /var/lib/ingestd, and a file `moved-to` in the data folder says where.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ingestd.errors import Refused
from ingestd.postgres.account import Account, account_of, system_account

PORT = 5432  # a Unix socket's name needs one; no TCP port is ever opened
SYSTEM_DIR = Path("/var/lib/ingestd")
_LONGEST_SOCKET_PATH = 107  # bytes; the kernel's limit of 108 counts the closing zero


@dataclass(frozen=True)
class Place:
    """Where one embedded server has its files.

    Args:
        folder: holds everything; passed through by the server's user, written by its owner.
        account: the user that the server runs as.
        owner: user id that owns the folder: root, or the account itself.
        sockets: the folder of the Unix socket, entered by nobody but the account (and root).
    """

    folder: Path
    account: Account
    owner: int
    sockets: Path

    @property
    def data(self) -> Path:
        """Postgres's own data directory; whole or absent."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Folder of the server's log files."""
        return self.folder / "log"

    @property
    def start_log(self) -> Path:
        """What the server says before its own logging has begun."""
        return self.folder / "start.log"

    @property
    def password(self) -> Path:
        """File with the password of the role `ingestd`."""
        return self.folder / "password"

    @property
    def socket(self) -> Path:
        """The socket itself."""
        return self.sockets / f".s.PGSQL.{PORT}"

    def read_password(self) -> str:
        """The password of the role `ingestd`, made at random on the first call and kept, synced, before it is used.

        Raises:
            Refused: the file is gone while the database that needs it is there.
        """
        with contextlib.suppress(FileNotFoundError):
            return _read(self.password)
        if self.data.exists():
            raise Refused(
                f"the password of the embedded Postgres is gone: {self.password} is missing",
                hint="restore that file, or move its folder away to start with an empty database",
            )
        self.write("password", secrets.token_urlsafe(32) + "\n", secret=True)
        return _read(self.password)

    def write(self, name: str, text: str, *, secret: bool = False) -> None:
        """Replace one file whole, readable by the server's user (and, as a secret, owned by it)."""
        account = self.account.uid if secret else self.owner
        write_whole(self.folder / name, text, mode=0o600 if secret else 0o640, uid=account, gid=self.account.gid)

    def make_folder(self, path: Path) -> None:
        """Make a folder for the server's user alone, or see that it is one.

        Raises:
            Refused: something else stands there: a link, a file, or a folder of another user.
        """
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            self.account.give(path)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.account.uid:
            raise Refused(
                f"{path} is not a folder of user {self.account.name!r}, so the embedded Postgres does not trust it",
                hint="remove it and try again",
            )
        if found.st_mode & 0o077:
            path.chmod(0o700)


def find_place(data_dir: Path, system_dir: Path = SYSTEM_DIR) -> Place:
    """Find the place of the server whose data folder is named, making it as needed. Blocks briefly.

    Args:
        data_dir: the data folder as configured.
        system_dir: where root's servers live if their user cannot get into the data folder.

    Raises:
        Refused: the folder cannot be made, or belongs to someone else.
    """
    data_dir = Path(os.path.realpath(data_dir.expanduser()))
    if any(character < " " for character in str(data_dir)):
        raise Refused(f"the embedded Postgres cannot live in a folder with control characters in its name: {data_dir!r}")
    if os.geteuid() != 0:
        return _own_place(data_dir)
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        owner = data_dir.lstat().st_uid
        if owner != 0:
            # An ordinary user's server that root joins (`sudo ingestd psql`): it stays that user's in all respects.
            return _place(data_dir, account_of(owner))
    return _place_of_root(data_dir, system_dir)


def _own_place(data_dir: Path) -> Place:
    account = account_of(os.geteuid())
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    data_dir.mkdir(mode=0o700, exist_ok=True)
    owner = data_dir.stat().st_uid
    if owner != account.uid:
        name = account_of(owner).name
        raise Refused(
            f"the embedded Postgres in {data_dir} belongs to user {name!r}, and you are {account.name!r}",
            hint=f"run ingestd as {name!r} or root, or choose another [daemon] state_dir",
        )
    data_dir.chmod(0o700)
    return _place(data_dir, account)


def _place_of_root(data_dir: Path, system_dir: Path) -> Place:
    account = system_account()
    if system_dir in data_dir.parents:
        _let_through(system_dir, account)
    data_dir.mkdir(mode=0o710, exist_ok=True)
    # Two processes that both found no place yet must not make two.
    with _locked(data_dir):
        folder = _reachable_folder(data_dir, system_dir, account)
    os.chown(folder, 0, account.gid)
    folder.chmod(0o710)
    return _place(folder, account)


def _reachable_folder(data_dir: Path, system_dir: Path, account: Account) -> Path:
    pointer = data_dir / "moved-to"
    if pointer.exists():
        folder = Path(_read(pointer))
        if not folder.is_dir() or folder.stat().st_uid != 0:
            raise Refused(
                f"the embedded Postgres of {data_dir} lives in {folder}, says {pointer}, and that folder is gone",
                hint=f"bring it back, or delete {pointer} to start with an empty database",
            )
        return folder
    there = (data_dir / "data").exists()
    if account.can_enter(data_dir.parent) and (there or _only_root_may_move(data_dir)):
        return data_dir
    if there:
        raise Refused(
            f"the embedded Postgres in {data_dir} runs as system user {account.name!r}, which cannot get there",
            hint="give others the right to pass through the folders above it (chmod o+x)",
        )
    # The name is random besides being recognisable: a state folder that was deleted to start afresh gets a fresh
    # database, and the old one is left alone for whoever wants it back.
    folder = system_dir / f"{_digest(data_dir)}-{secrets.token_hex(4)}"
    _let_through(system_dir, account)
    folder.mkdir(mode=0o700)
    write_whole(folder / "origin", f"{data_dir}\n", mode=0o600)
    write_whole(pointer, f"{folder}\n", mode=0o600)
    return folder


def _only_root_may_move(folder: Path) -> bool:
    """Whether no other user can put something else (a link to /etc, say) where root is about to write."""
    above = [parent.stat() for parent in folder.parents]
    return all(found.st_uid == 0 and (not found.st_mode & 0o022 or found.st_mode & stat.S_ISVTX) for found in above)


def abandoned_places(place: Place) -> list[Place]:
    """Earlier places of the same data folder that nothing points to any more, because that folder was deleted."""
    with contextlib.suppress(OSError):
        origin = _read(place.folder / "origin")
        siblings = place.folder.parent.glob(f"{_digest(Path(origin))}-*")
        return [_place(sibling, place.account) for sibling in siblings if sibling != place.folder]
    return []


def _let_through(system_dir: Path, account: Account) -> None:
    """Let the account pass through our own system folder, without letting it or anyone read what is there."""
    system_dir.mkdir(mode=0o710, parents=True, exist_ok=True)
    if account.can_enter(system_dir):
        return
    os.chown(system_dir, -1, account.gid)
    system_dir.chmod(stat.S_IMODE(system_dir.stat().st_mode) & ~0o070 | 0o010)


def _place(folder: Path, account: Account) -> Place:
    owner = folder.stat().st_uid
    return Place(folder, account, owner, _socket_folder(folder, account, owner))


def _socket_folder(folder: Path, account: Account, owner: int) -> Path:
    """Beside the data, or short where that path is too long for a socket or would read as a list of hosts.

    It depends on nothing but the place, so that every process finds the same one: not on XDG_RUNTIME_DIR, which a
    daemon may lack and which goes away when its user logs out.
    """
    beside = folder / "run"
    if len(os.fsencode(beside / f".s.PGSQL.{PORT}")) <= _LONGEST_SOCKET_PATH and "," not in str(folder):
        return beside
    # Root's server: /run, where nobody else can take the name first. Others: /tmp, where the owner is checked.
    parent = Path("/run" if owner != account.uid else "/tmp")  # noqa: S108 - see make_folder
    return parent / f"ingestd-{account.uid}-{_digest(folder)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _read(path: Path) -> str:
    """A small file of ours in one line; a link is not followed, as the folder may be a less privileged user's."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle) as file:
        return file.read(4096).strip()


def write_whole(path: Path, text: str, *, mode: int, uid: int = -1, gid: int = -1) -> None:
    """Replace a file durably, whole or not at all.

    Args:
        path: the file.
        text: what it says from now on.
        mode: its permission bits.
        uid: its owner, where we are root.
        gid: its group, where we are root.
    """
    making = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        handle = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            if os.geteuid() == 0:
                os.fchown(handle, uid, gid)
            os.fchmod(handle, mode)
            os.fsync(handle)
        making.rename(path)
    finally:
        making.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
