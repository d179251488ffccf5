"""Imports, loads and rollups as they are answered."""

from __future__ import annotations

from pydantic import Field

from ingestd.admin.answers.base import Answer, At, Id, Object


class Counts(Answer):
    """What became of records."""

    read: int | None
    inserted: int | None
    updated: int | None
    unchanged: int | None
    rejected: int | None
    superseded: int | None


class Import(Counts):
    """One declared import, with its last load."""

    name: str
    source: str
    table: str
    mode: str
    order: str
    last_load: Id | None
    last_status: str | None
    pending: int = Field(description="Loads that wait or run.")
    blocked_by: Id | None = Field(description="The failed load that the later ones wait behind.")


class Load(Counts):
    """One load."""

    id: Id
    import_name: str
    file: str
    status: str = Field(description="pending, succeeded, partial, failed or skipped.")
    duration_ms: int | None
    triggered_by: str
    reason: str | None
    table: str
    mode: str
    bytes: int | None
    job_id: Id | None
    created_at: At
    started_at: At | None
    finished_at: At | None


class Reject(Answer):
    """One thing that kept a record from being loaded."""

    record: int
    reason: str


class Rollup(Answer):
    """One rollup."""

    name: str
    flag: str
    staleness_seconds: float
    dirty_ranges: int
    last_refresh: At | None
    max_staleness: str


class LoadSettled(Answer):
    """The load as it is now."""

    id: Id


class AuditRow(Answer):
    """One thing that somebody did, or was refused."""

    id: Id
    at: At
    actor: str
    role: str
    via: str
    action: str
    object_type: str
    object_id: str
    detail: Object
    correlation_id: str | None
    outcome: str


class Event(Answer):
    """One thing that happened."""

    id: Id
    at: At
    node: str
    event: str
    data: Object


class Token(Answer):
    """One token; never its text."""

    id: Id
    name: str
    begins: str
    role: str
    scopes: list[str]
    state: str
    created_at: At
    expires_at: At | None
    last_used_at: At | None


class TokenMade(Token):
    """The token, and its text for this once."""

    token: str
    notice: str
