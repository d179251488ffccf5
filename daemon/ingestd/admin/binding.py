"""The sockets that the server listens on."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ingestd.errors import PortTaken, Refused

BACKLOG = 512
SOCKET_MODE = 0o660
LIVES_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a Unix socket that this process made.

    Args:
        path: where it is.
        device: of its inode.
    """

    path: Path
    device: int
    inode: int

    def remove(self) -> None:
        """Remove it, unless another process has put its own there since."""
        with suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                self.path.unlink()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on an address of this machine.

    Args:
        host: an IP address, or `localhost` for IPv4's.
        port: 0: any free one.

    Raises:
        PortTaken: another process listens there.
        Refused: the address cannot be bound.
    """
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        # Listen now: two processes may bind the same port with SO_REUSEADDR as long as neither listens.
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"{host}:{port} is in use by another process",
                hint="set [admin] port (INGESTD_ADMIN__PORT) to another one, or to 0 for any free port",
            ) from None
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise Refused(f"cannot listen on {host}:{port}: {reason}", hint="set [admin] host and port") from None
    return sock


def bind_socket(path: Path) -> tuple[socket.socket, SocketFile]:
    """A listening Unix socket that its owner and group may connect to; one that a dead process left behind is replaced.

    Raises:
        PortTaken: another process listens there.
        Refused: it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(path)
        # No moment at which others could connect: the mode is right from the beginning.
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        made = path.lstat()
    except PortTaken:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise Refused(f"cannot listen on {path}: {reason}", hint="set [admin] socket to a path in a folder of the daemon's user") from None
    return sock, SocketFile(path, made.st_dev, made.st_ino)


def _remove_dead(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(LIVES_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, None) and not isinstance(error, TimeoutError):
                raise
    raise PortTaken(f"{path} is in use by another process", hint="set [admin] socket (INGESTD_ADMIN__SOCKET) to another path")
