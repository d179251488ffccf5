"""Schedules, workflows, records, statistics and health as they are answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ingestd.admin.answers.base import Answer, At, Id, Json, Object


class Slot(Answer):
    """One fire time of a schedule."""

    due_at: At
    state: str = Field(description="waiting, fired, late, skipped or missed.")
    reason: str | None
    job_id: Id | None
    triggered_by: str | None
    overdue: str | None
    job_state: str | None


class Schedule(Answer):
    """One schedule."""

    name: str
    rule: str
    timezone: str
    target: Object
    args: Json
    enabled: bool
    overlap: str
    catch_up: str
    owner: str
    next_due_at: At | None
    problem: str | None
    paused: bool
    paused_by: str | None
    paused_at: At | None
    paused_until: At | None
    pause_reason: str | None
    skip_at: At | None
    last_slot: Object | None


class ScheduleWhole(Schedule):
    """One schedule with what its owner wrote."""

    spec: Object


class ScheduleDeleted(Answer):
    """What was deleted."""

    name: str
    deleted: bool


class Upcoming(Answer):
    """A slot to come."""

    at: At
    note: str | None = Field(description="What the clock does there.")


class Downtime(Answer):
    """A time in which nothing fired slots."""

    id: Id


class Step(Answer):
    """One step of a run."""

    step: str
    state: str
    job_id: Id | None


class WorkflowRun(Answer):
    """One run of a workflow."""

    id: Id
    workflow: str
    state: str
    created_at: At
    finished_at: At | None
    steps: list[Step]


class WorkflowShown(Answer):
    """One declared workflow with its last run."""

    name: str
    last_run: WorkflowRun | None


class WorkflowWhole(WorkflowShown):
    """One declared workflow with its latest runs."""

    runs: list[WorkflowRun]


class RunRecord(Answer):
    """One run of something that runs again and again: a slot, a load, a workflow run or a job."""

    id: str
    state: str
    due_at: At | None
    started_at: At | None
    finished_at: At | None
    duration_ms: int | None
    triggered_by: str | None
    job_id: Id | None
    subject: str | None
    reason: str | None
    error: Json
    counts: Object | None


class Statistics(Answer):
    """What the last days held."""

    type: str
    name: str
    days: int
    timezone: str
    from_: At = Field(alias="from")
    to: At
    runs: int
    by_state: dict[str, int]
    success_rate: float | None
    duration_ms: Object | None
    consecutive_failures: int
    last_success_at: At | None
    last_failure_at: At | None
    totals: Object | None
    timeline: list[Object]


class Last(Answer):
    """The newest run, success and failure."""

    type: str
    name: str
    run: RunRecord | None
    last_success: RunRecord | None
    last_failure: RunRecord | None


class Status(Answer):
    """How it stands now."""

    type: str
    name: str
    state: str
    healthy: bool
    problems: list[str]
    enabled: bool
    paused: bool
    paused_by: str | None
    running_job_id: Id | None
    next_due_at: At | None
    consecutive_failures: int
    last_success_at: At | None
    last_failure_at: At | None


class Stats(Answer):
    """Open jobs, and what finished within a window."""

    window: str
    open: dict[str, dict[str, int]] = Field(description="Open jobs by queue and state.")
    finished: list[Object]
    per_minute: list[Object]


class JobsSummary(Answer):
    """Jobs in numbers."""

    open: dict[str, int] = Field(description="Open jobs by state.")
    oldest_due_seconds: float = Field(description="How long the oldest job that could run has waited.")
    finished: dict[str, int] = Field(description="Jobs that ended within the window, by outcome.")
    success_rate: float | None


class Summary(Answer):
    """Everything in a few numbers."""

    window: str
    at: At
    jobs: JobsSummary
    queues: Object
    nodes: dict[str, int] = Field(description="Nodes by state.")
    schedules: dict[str, int] = Field(description="Schedules by standing: well, trouble, paused, disabled.")
    imports: Object
    rollups: Object
    workflows: Object


class HealthCheck(Answer):
    """One health check."""

    name: str
    status: Literal["healthy", "degraded", "critical"]
    value: str
    threshold: str
    since: At | None
    hint: str


class Health(Answer):
    """All health checks, and the worst of them."""

    status: Literal["healthy", "degraded", "critical"]
    checks: list[HealthCheck]
    at: At
    node: str
    version: str
    environment: str


class Probe(Answer):
    """What a probe wants to know."""

    status: str
