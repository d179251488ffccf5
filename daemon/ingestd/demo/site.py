"""The demo's own folder: its configuration, its inbox, and the port it is served on."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import TextIO

from ingestd.app.settings import Settings, build, default_state_dir
from ingestd.cli.shell import Shell
from ingestd.errors import AlreadyRunning, Refused
from ingestd.settings import read_layers

STATE_DIR = "INGESTD_DAEMON__STATE_DIR"


def open_folder(environ: Mapping[str, str]) -> Path:
    """Make the demo's folder, beside the usual one and never in it.

    Raises:
        Refused: it cannot be used.
    """
    given = environ.get(STATE_DIR)
    try:
        folder = Path(given).expanduser().absolute() if given else default_state_dir().with_name("ingestd-demo")
        # Root's Postgres runs as another user, who must be able to pass through.
        folder.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        (folder / "inbox").mkdir(exist_ok=True)
        demo = (resources.files("ingestd.demo") / "demo.toml").read_text(encoding="utf-8")
        (folder / "demo.toml").write_text(demo, encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Refused(f"cannot use the folder {given or folder}: {why}", hint=f"set {STATE_DIR} to a folder of yours") from None
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only demo in its folder.

    Raises:
        AlreadyRunning: another one runs there.
    """
    with (folder / "demo.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            port = ""
            with suppress(OSError):
                port = (folder / "admin.port").read_text(encoding="ascii").strip()
            where = f" at http://127.0.0.1:{port}" if port else ""
            raise AlreadyRunning(
                f"the demo is running already{where}, in {folder}", hint=f"stop it, or set {STATE_DIR} to another folder"
            ) from None
        yield


def open_log(folder: Path) -> TextIO:
    """Where the daemon's log lines go while the terminal shows the demo; nobody else may read them."""
    return os.fdopen(os.open(folder / "demo.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "a", encoding="utf-8")


def configure(folder: Path, shell: Shell) -> Settings:
    """The demo's configuration with the user's files, as given by --config, and environment on top.

    Not INGESTD_CONFIG: whoever has a daemon of their own configured there does not want the demo's tables in its database.

    Raises:
        ConfigurationError: the two do not go together.
    """
    layers = read_layers([folder / "demo.toml", *map(Path, shell.config_files)], shell.environ)
    settings = build(layers)
    return settings if ("admin", "port") in layers.origin else _with_a_free_port(settings)


def _with_a_free_port(settings: Settings) -> Settings:
    admin = settings.admin
    with socket.socket(socket.AF_INET6 if ":" in admin.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((admin.host, admin.port))
        except OSError:
            return settings.model_copy(update={"admin": admin.model_copy(update={"port": 0})})
    return settings
