"""Jobs, queues, kinds and nodes as they are answered."""

from __future__ import annotations

from pydantic import Field

from ingestd.admin.answers.base import Answer, At, Id, Json, Object


class Job(Answer):
    """One job."""

    id: Id
    kind: str
    queue: str
    state: str = Field(description="scheduled, blocked, available, running, retrying, succeeded, failed, cancelled or skipped.")
    partial: bool = Field(description="Whether it succeeded with rejects.")
    priority: int | str = Field(description="low, normal, high, or a number from -100 to 100; larger is sooner.")
    args: Json
    attempt: int
    max_attempts: int
    run_at: At | None
    created_at: At
    started_at: At | None
    finished_at: At | None
    duration_ms: int | None
    node: str | None
    correlation_id: str | None
    triggered_by: str
    progress: Json
    result: Json
    error: Object | None = Field(description="`class`, `message` and `traceback` of its last error.")
    reason: str | None = Field(description="Why it waits, or why it ended so.")
    tags: list[str]
    notes: str | None
    metadata: Object | None
    parent_id: Id | None
    workflow_run: Id | None
    step: str | None


class JobWhole(Job):
    """One job with all there is about it."""


class JobMade(Job):
    """The job, and whether it is one that was there before."""

    existing: bool = Field(description="Whether another job holds its unique key: that one is told.")
    changed: bool = Field(description="Whether that one took over what was asked for.")


class JobDeleted(Answer):
    """What was deleted."""

    id: Id
    deleted: bool
    was: str


class DeadGroup(Answer):
    """Jobs that failed for good with the same error."""

    error_group: str
    kind: str
    error_class: str | None
    message: str | None
    jobs: int
    first_seen: At
    last_seen: At
    sample: Id


class BulkDone(Answer):
    """What was done to the jobs that match, or with `preview` would be."""

    action: str
    jobs: int


class BulkStarted(BulkDone):
    """The job that does it."""

    id: Id


class Queue(Answer):
    """One queue."""

    name: str
    concurrency: int
    global_concurrency: int
    key_concurrency: int
    rate: str | None
    paused: bool
    paused_by: str | None
    paused_at: At | None
    slots: int
    nodes: int
    jobs: dict[str, int] = Field(description="Open jobs by state.")
    depth: int
    running: int
    oldest_age_seconds: float


class Kind(Answer):
    """One kind of job."""

    name: str
    queue: str
    priority: int
    max_attempts: int
    published_at: At
    here: bool = Field(description="Whether the node that answers runs it.")


class KindWhole(Kind):
    """One kind of job with its arguments."""

    arguments: Object | None = Field(description="JSON schema of its arguments; null where nobody told.")


class Node(Answer):
    """One node."""

    name: str
    self: bool = Field(description="Whether it is the one that answers.")
