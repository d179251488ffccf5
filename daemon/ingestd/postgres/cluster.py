"""One Postgres cluster on disk: making it, its configuration, starting its server, and what its log says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import psutil

from ingestd.errors import ConfigurationError, DatabaseUnreachable, IngestdError, Refused
from ingestd.postgres.place import PORT, Place, sync_folder

ROLE = "ingestd"
_INITDB_PATIENCE = 300.0  # seconds
_LOG_FILES_KEPT = 8  # of 10 MB each
_TELLING = ("FATAL:", "PANIC:", "ERROR:", "error:", "could not", "invalid value", "unrecognized", "HINT:")

_SETTINGS = """\
# Written by ingestd at every start: changes made here are lost. Settings of your own go into local.conf beside it.
listen_addresses = ''
port = {port}
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
password_encryption = scram-sha-256
max_connections = 100
shared_buffers = 128MB
max_wal_size = 1GB
fsync = on
synchronous_commit = on
full_page_writes = on
jit = off
# The role is called ingestd, and so is our schema: with "$user" first, a table a user makes would land among ours.
search_path = 'public'
timezone = UTC
log_timezone = UTC
datestyle = 'ISO, YMD'
lc_messages = C
lc_monetary = C
lc_numeric = C
lc_time = C
default_text_search_config = 'pg_catalog.english'
logging_collector = on
log_directory = '{log}'
log_filename = 'postgres-%Y%m%d-%H%M%S.log'
log_file_mode = 0600
log_rotation_age = 1d
log_rotation_size = 10MB
log_line_prefix = '%m [%p] '
include_if_exists = 'local.conf'
"""
_ACCESS = """\
# Written by ingestd at every start. No TCP, no trust: whoever reaches the socket still needs the password.
local all all scram-sha-256
local replication all scram-sha-256
"""


def cluster_name(place: Place) -> str:
    """A name that stands in the title of each of the server's processes, so that orphans of exactly this one are found.

    Made from its random password (and not reversible): a path would be the same in every container.
    """
    return f"ingestd-{hashlib.sha256(b'cluster ' + place.read_password().encode()).hexdigest()[:12]}"


def check_version(place: Place, version: int) -> None:
    """See that the data on disk is of the wanted major version.

    Raises:
        ConfigurationError: it is of another one, and what to do.
    """
    found = (place.data / "PG_VERSION").read_text().strip()
    if found != str(version):
        problem = (
            f"the embedded database in {place.data} was made by Postgres {found} and Postgres {version} cannot read it: "
            f"go back to embedded version {found}, or dump it there with pg_dump, move the folder away and restore"
        )
        raise ConfigurationError([problem])


def make_cluster(place: Place, programs: Path, version: int, liveness: int) -> None:
    """Make the data directory with initdb: in a folder of its own, renamed into place when it is whole. Blocks.

    Args:
        place: where; it must have no data yet.
        programs: folder with `initdb`.
        version: major version of these programs.
        liveness: an open, locked file that initdb keeps open while it lives, so that one left behind is found.

    Raises:
        Refused: the disk is full or the folder not writable.
        IngestdError: initdb failed otherwise.
    """
    place.read_password()
    for leftover in place.folder.glob(".initdb-*"):
        # Of a start that was killed.
        shutil.rmtree(leftover, ignore_errors=True)
    making = Path(tempfile.mkdtemp(prefix=".initdb-", dir=place.folder))
    place.account.give(making)
    try:
        _run_initdb(place, programs, version, making, liveness)
        making.rename(place.data)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    sync_folder(place.folder)


def _run_initdb(place: Place, programs: Path, version: int, target: Path, liveness: int) -> None:
    command = [str(programs / "initdb"), "--pgdata", str(target), "--username", ROLE]
    command += ["--pwfile", str(place.password), "--auth", "scram-sha-256", "--encoding", "UTF8", "--data-checksums"]
    # From 17 on Postgres brings this locale itself, so that sorting does not depend on the machine's libc.
    command += ["--locale", "C.UTF-8"] if version < 17 else ["--locale", "C", "--locale-provider", "builtin"]
    command += [] if version < 17 else ["--builtin-locale", "C.UTF-8"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command of ours, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_INITDB_PATIENCE,
            check=False,
            pass_fds=(liveness,),
            **place.account.spawn_options(),
        )
    except subprocess.TimeoutExpired:
        raise DatabaseUnreachable(f"initdb did not finish within {_INITDB_PATIENCE:.0f} s in {place.folder}") from None
    if done.returncode:
        raise _failure(f"the embedded database cannot be made in {place.folder}", done.stderr)


def _failure(what: str, text: str) -> IngestdError:
    words = " ".join(_telling_lines(text)[:2]) or "no reason was given"
    kind = Refused if "No space left" in text or "Permission denied" in text else DatabaseUnreachable
    return kind(f"{what}: {words}")


def write_configuration(place: Place) -> None:
    """Write the server's configuration anew; it stands outside the data directory, where the server cannot change it."""
    # Inside the quotes of the file stand the quotes of a list of folders.
    sockets = '"' + str(place.sockets).replace('"', '""') + '"'
    place.write("ingestd.conf", _SETTINGS.format(port=PORT, sockets=_quoted(sockets), log=_quoted(str(place.log))))
    place.write("hba.conf", _ACCESS)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def launch(place: Place, programs: Path, liveness: int, colliding_pid: int | None) -> psutil.Process:
    """Start the postmaster as a process of its own, which outlives us.

    Args:
        place: where its data is.
        programs: folder with `postgres`.
        liveness: an open, locked file that the server and all its processes keep open while they live.
        colliding_pid: a process id that its old postmaster.pid names and that belongs to somebody else now.

    Returns:
        The postmaster.
    """
    options = place.account.spawn_options()
    if colliding_pid is not None:
        # After a reboot (or in a container, where ids are small) the old id is often in use again. This is the
        # variable by which pg_ctl tells Postgres about ids that do not mean a second postmaster; everything else that
        # Postgres checks, its shared memory above all, is still checked.
        options["env"] = options["env"] | {"PG_GRANDPARENT_PID": str(colliding_pid)}
    place.start_log.unlink(missing_ok=True)
    log = os.open(place.start_log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - a fixed command of ours, no shell
            [
                *(str(programs / "postgres"), "-D", str(place.data)),
                *("-c", f"config_file={place.folder}/ingestd.conf"),
                *("-c", f"hba_file={place.folder}/hba.conf"),
                *("-c", f"cluster_name={cluster_name(place)}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(liveness,),
            start_new_session=True,
            **options,
        )
    finally:
        os.close(log)
    # Popen warns when it is dropped while its child lives. This child is meant to outlive us; `reap` sees to its end.
    process.returncode = 0
    return psutil.Process(process.pid)


def last_words(place: Place) -> IngestdError:
    """The error to raise for a server that ended: what its log says last, and where the rest is."""
    text = _tail(place.start_log)
    if not any(word in text for word in _TELLING):
        with contextlib.suppress(OSError, ValueError):
            # What stands before its start was said by an earlier server.
            text = _tail(max(place.log.glob("postgres-*.log"))).rpartition("starting PostgreSQL")[2]
    failure = _failure("the embedded Postgres does not run", text)
    failure.hint = f"its log is in {place.log}"
    return failure


def _tail(path: Path) -> str:
    """The last 4 kB of a log file; the folder is the server's, so neither links nor pipes in it are opened."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode):
                file.seek(max(0, status.st_size - 4096))
                return file.read().decode(errors="replace") + "\n"
    return ""


def _telling_lines(text: str) -> list[str]:
    """The lines of a log that give a reason, the last ones, without their time stamps."""
    lines = [line for line in text.splitlines() if any(word in line for word in _TELLING)][-3:]
    return [line.partition("] ")[2] or line.strip() for line in lines] or text.strip().splitlines()[-1:]


def prune_logs(place: Place) -> None:
    """Delete the oldest log files beyond the number kept; the server rotates them but never deletes one."""
    with contextlib.suppress(OSError):
        for old in sorted(place.log.glob("postgres-*.log"))[:-_LOG_FILES_KEPT]:
            old.unlink(missing_ok=True)
