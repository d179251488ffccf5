"""What a daemon says went wrong, as the command line's own errors: the same words and exit codes as without one in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ingestd import __version__
from ingestd.errors import (
    AlreadyRunning,
    Conflict,
    DatabaseUnreachable,
    FileMissing,
    IngestdError,
    InvalidInput,
    JobOpen,
    NotFound,
    Refused,
    TooOften,
    UsageError,
)

_PLAIN: Mapping[str, Callable[..., IngestdError]] = {
    kind.slug: kind for kind in (UsageError, FileMissing, NotFound, DatabaseUnreachable, AlreadyRunning, Refused)
}


class DaemonUnreachable(IngestdError):
    """No daemon answers at an address, or something else does."""

    exit_code, http_status, slug, title = 69, 502, "daemon-unreachable", "Daemon unreachable"


class DaemonFailed(IngestdError):
    """A daemon could not answer: the reason is in its log."""


def error_of(status: int, document: Any, where: str) -> IngestdError:
    """The error that a problem document tells of.

    Args:
        status: of the HTTP answer.
        document: its body, if that was JSON.
        where: the daemon's address.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("detail"), str):
        return _unworded(status, where)
    message, hint = document["detail"], document.get("hint")
    known = {"hint": hint if isinstance(hint, str) else None}
    slug = str(document.get("type", "")).rpartition(":")[2]
    if slug in _PLAIN:
        return _PLAIN[slug](message, **known)
    if status == 401:
        return Refused(message, hint="send a token: --token, or INGESTD_TOKEN in the environment")
    if status == 403:
        return Refused(message, **known)
    if status == 404:
        return NotFound(message, **known)
    if status == 429:
        return TooOften(message, retry_after_s=0, **known)
    if status == 409:
        state = document.get("current_state")
        job = str(document.get("job_id", ""))
        if job.isascii() and job.isdigit():
            return JobOpen(message, job_id=int(job), current_state=state, **known)
        return Conflict(message, current_state=state, **known)
    if status == 422:
        return InvalidInput(message, pointer=_pointer(document), **known)
    if status in (502, 503, 504):
        return DaemonUnreachable(f"{where}: {message}", **known)
    if status < 500:
        return UsageError(message, **known)
    return DaemonFailed(f"{where}: {message}", hint=f"correlation id {document.get('correlation_id')}")


def no_answer_of_ours(where: str, error: Exception) -> DaemonUnreachable:
    """What was answered is JSON, but has not the members that it should have.

    Args:
        where: the daemon's address.
        error: that came of it.
    """
    return DaemonUnreachable(
        f"{where} does not answer as ingestd {__version__} does ({type(error).__name__}: {error})",
        hint="is the address right, and the version there the same? -v shows more",
    )


def _unworded(status: int, where: str) -> IngestdError:
    """What answers is no daemon of ours, but something before it or in its place."""
    if status in (401, 403, 407):
        return Refused(f"{where} refuses with status {status}, and it is not ingestd that says so: a proxy stands before it")
    return DaemonUnreachable(f"{where} answers with status {status}, but not as ingestd does", hint="is the address right?")


def _pointer(document: Mapping[str, Any]) -> str | None:
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    pointer = first.get("pointer") if isinstance(first, Mapping) else None
    return pointer if isinstance(pointer, str) else None
