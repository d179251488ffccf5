"""Every error ingestd raises on purpose, and what the process, the API and the terminal make of it.

IngestdError                     70  500  our bug, unless a subclass says otherwise
├── UsageError                   64  400  the caller asked for something that makes no sense
│   └── InvalidInput             64  422  a value does not fit what it is for
├── FileMissing                  66  404  a file that was named is not there
├── NotFound                     66  404  no such job, load, schedule …
├── DatabaseUnreachable          69  503  Postgres did not answer in time
├── PortTaken                    73  500  the admin address is in use
├── AlreadyRunning               75  409  another process holds what this one needs
├── Conflict                     75  409  the object is in a state that forbids the action
│   ├── JobOpen                  75  409  a job that is open stands in the way; it says which
│   └── TooOften                 75  429  it was asked for too often; it says when to try again
├── Refused                      77  403  not permitted, or not readable
├── ConfigurationError           78  500  the configuration has problems; all of them are listed
├── JobFailed                     1  409  the job that was waited for failed
│   └── JobCancelled              1  409  it was cancelled or skipped
└── StaleClaim                   70  409  a write about a job whose claim is no longer ours; it changed nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class IngestdError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: one clear line that says what is wrong and, where possible, what to do.
        hint: an optional second line with the remedy.
    """

    exit_code: ClassVar[int] = 70
    http_status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(IngestdError):
    """The request or command line makes no sense as given."""

    exit_code, http_status, slug, title = 64, 400, "bad-request", "Bad request"


class InvalidInput(UsageError):
    """A value does not fit what it is for.

    Args:
        message: what is wrong.
        pointer: JSON pointer or parameter name of the offending value.
    """

    http_status, slug, title = 422, "invalid-input", "Invalid input"

    def __init__(self, message: str, *, pointer: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pointer = pointer


class FileMissing(IngestdError):
    """A file that was named is not there."""

    exit_code, http_status, slug, title = 66, 404, "file-missing", "File missing"


class NotFound(IngestdError):
    """There is no such object."""

    exit_code, http_status, slug, title = 66, 404, "not-found", "Not found"


class DatabaseUnreachable(IngestdError):
    """Postgres did not answer within the time allowed."""

    exit_code, http_status, slug, title = 69, 503, "database-unreachable", "Database unreachable"


class PortTaken(IngestdError):
    """The admin address is in use by another process."""

    exit_code, slug, title = 73, "port-taken", "Port taken"


class AlreadyRunning(IngestdError):
    """Another process holds what this one needs."""

    exit_code, http_status, slug, title = 75, 409, "already-running", "Already running"


class Conflict(IngestdError):
    """The object is in a state that forbids the action.

    Args:
        message: what is wrong.
        current_state: the state the object is in now.
    """

    exit_code, http_status, slug, title = 75, 409, "conflict", "Conflict"

    def __init__(self, message: str, *, current_state: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.current_state = current_state


class JobOpen(Conflict):
    """A job that is open stands in the way.

    Args:
        message: what is wrong.
        job_id: the job.
        current_state: the state the object is in now.
    """

    def __init__(self, message: str, *, job_id: int, current_state: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, current_state=current_state, hint=hint)
        self.job_id = job_id


class TooOften(Conflict):
    """The action was asked for too often.

    Args:
        message: what the limit is.
        retry_after_s: in how many seconds it may be tried again.
    """

    http_status, slug, title = 429, "too-often", "Too many requests"

    def __init__(self, message: str, *, retry_after_s: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Refused(IngestdError):
    """The action is not permitted, or a file or folder is not readable."""

    exit_code, http_status, slug, title = 77, 403, "refused", "Refused"


class ConfigurationError(IngestdError):
    """The configuration has problems.

    Args:
        problems: one line each, with its place and, where there is one, a suggestion.
    """

    exit_code, slug, title = 78, "configuration", "Configuration error"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class JobFailed(IngestdError):
    """A job that was waited for failed.

    Args:
        message: what happened to it, and why.
        job_id: its number.
        error: `{"class", "message", "traceback"}` of its last attempt.
    """

    exit_code, http_status, slug, title = 1, 409, "job-failed", "Job failed"

    def __init__(self, message: str, *, job_id: int, error: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.error = error


class JobCancelled(JobFailed):
    """A job that was waited for was cancelled, or skipped because one before it failed."""

    slug, title = "job-cancelled", "Job cancelled"


class StaleClaim(IngestdError):
    """A write about a job whose claim is no longer ours: it changed nothing and was rolled back."""

    http_status, slug, title = 409, "stale-claim", "Stale claim"
