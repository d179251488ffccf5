"""Running jobs in a test, in its own event loop: one of them, or all that are due, one after the other."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, TypeAlias

import asyncpg
import orjson

from ingestd.errors import NotFound
from ingestd.jobs.checks import checked
from ingestd.jobs.decorator import JobFunction, declared_jobs
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Job, NewJob
from ingestd.jobs.options import new_job
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.registry import HandlerSpec, Registry
from ingestd.jobs.store.queues import publish_kinds
from ingestd.postgres.pool import Database
from ingestd.settings import parse_duration
from ingestd.testing import store
from ingestd.testing.attempts import Attempts, Ran
from ingestd.testing.lending import NoDatabase, lend
from ingestd.testing.queue import Open, open_jobs
from ingestd.testing.sandbox import Sandbox

MOST_ATTEMPTS = 1000

Kind: TypeAlias = JobFunction[..., Any] | HandlerSpec
Given: TypeAlias = str | Database | asyncpg.Connection | Sandbox


@dataclass(frozen=True, slots=True)
class Drained:
    """What ran, in order, and what is still open.

    Args:
        ran: every attempt.
        left: jobs that are not due, that no given handler runs, or that wait for something.
    """

    ran: list[Ran] = field(default_factory=list)
    left: list[Open] = field(default_factory=list)

    def of(self, kind: str) -> list[Ran]:
        """The attempts at jobs of one kind."""
        return [ran for ran in self.ran if ran.kind == kind]

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """(kind, outcome) of every attempt, in order."""
        return [(ran.kind, ran.outcome) for ran in self.ran]

    def check(self) -> Drained:
        """Raise what the first attempt raised that did; otherwise this again."""
        for ran in self.ran:
            if ran.exception is not None:
                raise ran.exception
        return self

    def __len__(self) -> int:
        return len(self.ran)

    def __iter__(self) -> Iterator[Ran]:
        return iter(self.ran)


async def run(
    job: Kind,
    args: Mapping[str, Any] | None = None,
    *,
    database: Given | None = None,
    attempt: int = 1,
    checkpoint: Any = None,
    **options: Any,
) -> Ran:
    """Run one attempt at one job, inline: the same context, outcomes and fenced transaction as in a daemon.

    Args:
        job: a `@job` function.
        args: its arguments.
        database: a migrated one: its URL, the `ingestd_db` fixture, open pools, or a connection, whose open transaction the job is
            then part of. None: the job is in no database, and may not use one.
        attempt: the number of this try.
        checkpoint: what an earlier try has stored with `ctx.step()`.
        options: those of an enqueue: `key`, `tags`, `correlation_id`, `timeout` …

    Raises:
        InvalidInput: an option makes no sense.
    """
    spec = _spec(job)
    new = _new(spec, args, options)
    if database is None:
        return await _run_nowhere(spec, new, attempt, checkpoint)
    async with lend(database) as db:
        attempts = Attempts(db)
        try:
            async with db.services() as conn:
                await store.make_queues(conn, [spec.queue])
                (job_id,) = await enqueue(conn, [new])
                taken = await store.take(conn, job_id, uuid.uuid4(), attempts.node)
            assert taken is not None, "nobody else can hold a job that was only just enqueued"
            taken.attempt, taken.checkpoint = attempt, checkpoint
            taken.max_attempts = new.max_attempts or spec.max_attempts
            return await attempts.make(taken, spec)
        finally:
            await attempts.close()


def _new(spec: HandlerSpec, args: Mapping[str, Any] | None, options: Mapping[str, Any]) -> NewJob:
    return new_job(spec.kind, args, {"queue": spec.queue, "priority": spec.priority, **options})


async def _run_nowhere(spec: HandlerSpec, new: NewJob, attempt: int, checkpoint: Any) -> Ran:
    now = datetime.now(UTC)
    # As they come out of the queue: through JSON.
    args = orjson.loads(checked(new))
    most = new.max_attempts or spec.max_attempts
    job = Job(
        0, spec.kind, new.queue or spec.queue, args, attempt, most, 0, now, new.run_at or now, now, uuid.uuid4(), checkpoint=checkpoint
    )
    for name in ("key", "timeout", "hard_timeout", "backoff", "tags", "correlation_id", "parent_id"):
        setattr(job, name, getattr(new, name))
    job.priority = new.priority or 0
    attempts = Attempts(NoDatabase(), stored=False)
    try:
        return await attempts.make(job, spec)
    finally:
        await attempts.close()


async def publish(database: Given, *jobs: Kind | ModuleType) -> None:
    """Make kinds known, with the queues they name, as a node that runs them does: then anybody may enqueue them by name.

    Args:
        database: as in `run`.
        jobs: `@job` functions, or modules of them.
    """
    async with lend(database) as db, db.services() as conn:
        await _publish(conn, _specs(jobs), uuid.uuid4())


async def _publish(conn: asyncpg.Connection, specs: Sequence[HandlerSpec], node: uuid.UUID) -> None:
    await store.make_queues(conn, [spec.queue for spec in specs])
    await publish_kinds(conn, specs, node)


async def drain(
    database: Given,
    *jobs: Kind | ModuleType,
    queues: Sequence[str] | None = None,
    ahead: str | timedelta = timedelta(),
    limit: int = MOST_ATTEMPTS,
) -> Drained:
    """Run everything that is due, with what follows from it, until nothing is.

    One attempt after the other, in the order of time and priority, in this event loop; retries, follow-up jobs and steps of
    workflows run in their turn. Limits of queues and rates are not heeded, paused queues are left alone.

    Args:
        jobs: the handlers: `@job` functions, or modules of them.
        queues: only these.
        ahead: what is due within that time counts as due, so `ahead="1h"` runs the retries of the next hour at once.
        limit: of attempts: a job that retries or snoozes for ever is a mistake.

    Raises:
        AssertionError: the limit was reached.
    """
    registry = Registry(_specs(jobs))
    within = parse_duration(ahead)
    done = Drained()
    async with lend(database) as db:
        attempts = Attempts(db)
        try:
            async with db.services() as conn:
                await _publish(conn, registry.specs(), attempts.node)
            while (taken := await _next(db, registry, queues, within, attempts)) is not None:
                assert len(done) < limit, f"{limit} attempts and no end; the last were {done.outcomes[-5:]}"
                spec = registry.get(taken.kind)
                assert spec is not None, "only known kinds are taken"
                done.ran.append(await attempts.make(taken, spec))
            async with db.services() as conn:
                done.left.extend(await open_jobs(conn))
        finally:
            await attempts.close()
    return done


async def _next(db: Database, registry: Registry, queues: Sequence[str] | None, ahead: timedelta, attempts: Attempts) -> Job | None:
    async with db.services() as conn:
        # First what the last one has freed: steps of workflows, parents, heads of keys.
        await promote_once(conn)
        while (job_id := await store.next_due(conn, registry.kinds(), queues, ahead)) is not None:
            if (job := await store.take(conn, job_id, uuid.uuid4(), attempts.node)) is not None:
                return job
    return None


def _spec(job: Kind) -> HandlerSpec:
    if isinstance(job, HandlerSpec):
        return job
    if not isinstance(job, JobFunction):
        raise TypeError(f"not a job: {job!r}; give the function itself, with @job(…) above it, or its module")
    (spec,) = declared_jobs({"": job})  # with what its module's handlers share
    return spec


def _specs(jobs: Iterable[Kind | ModuleType]) -> list[HandlerSpec]:
    found: list[HandlerSpec] = []
    for one in jobs:
        specs = declared_jobs(vars(one)) if isinstance(one, ModuleType) else [_spec(one)]
        if not specs and isinstance(one, ModuleType):
            raise NotFound(f"module {one.__name__} declares no @job function")
        found += [spec for spec in specs if spec not in found]
    return found
