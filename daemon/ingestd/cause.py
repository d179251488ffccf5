"""For whom something happens here: the node, the job that runs or the request that is answered, as context variables.

Tasks and threads inherit them from what started them. So whatever is said or enqueued on behalf of a job can be joined to it, also
by code that knows nothing of jobs.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

# What a caller may choose; anything else could hide what it is in a log or a header.
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Subject(Protocol):
    """The job for which something happens."""

    @property
    def id(self) -> int:
        """Its id."""
        ...

    @property
    def kind(self) -> str:
        """Which handler runs it."""
        ...

    @property
    def attempt(self) -> int:
        """Which try it is."""
        ...

    @property
    def correlation_id(self) -> str | None:
        """What joins it with everything else of the same cause."""
        ...


NODE: ContextVar[str | None] = ContextVar("ingestd_node", default=None)
JOB: ContextVar[Subject | None] = ContextVar("ingestd_job", default=None)
REQUEST: ContextVar[str | None] = ContextVar("ingestd_request", default=None)

# Called for every job: nothing but the variable's own method.
on_behalf_of: Callable[[Subject | None], object] = JOB.set


def correlation() -> str | None:
    """The correlation id of the job that runs here, or of the request that is answered here; None outside of both."""
    job = JOB.get()
    return job.correlation_id if job is not None else REQUEST.get()


def correlation_from(given: str | None) -> str:
    """A correlation id from outside where it is well formed, else a new one."""
    return given if given is not None and _WELL_FORMED.fullmatch(given) else str(uuid.uuid4())
