"""Every statement of the queue as a step of a program: done to the database and to the model, and their answers compared."""

from __future__ import annotations

import uuid
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingestd.access.roles import Actor
from ingestd.errors import Conflict, NotFound
from ingestd.jobs import actions
from ingestd.jobs.enqueue import enqueue_told
from ingestd.jobs.filters import JobFilter
from ingestd.jobs.model import Job, NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.settings import QueueSettings, Rate
from ingestd.jobs.store import ack, claim, history, limits, queues, reads, rescue
from ingestd.jobs.store.ack import PutBack, Result
from ingestd.jobs.store.claim import Claimant
from ingestd.jobs.workflow import Step, Workflow, order_steps, start
from ingestd.settings import parse_priority
from ingestd.work.cursor import LOW_FIRST_EVERY, Cursor
from tests.jobs import model_kit
from tests.jobs.limit_lab import REGISTER
from tests.jobs.model_draws import LANES, OF_GIVEN, OF_JOBS, steps
from tests.jobs.model_kit import Model, Queue, Spec
from tests.jobs.model_lab import BROKEN, FORGET, HOURS_PASS, Lab, same

LONE_CRASHES = 2
ANN = Actor("ann", "operator", "api")
STORES = (uuid.UUID(int=1), uuid.UUID(int=2))
PERIOD = timedelta(minutes=90)

T = TypeVar("T")


class Programs(RuleBasedStateMachine):
    """One program; every step does a thing to both and compares what they answer."""

    lab: ClassVar[Lab]

    def __init__(self) -> None:
        super().__init__()
        self.conn, self.run = self.lab.conn, self.lab.run
        self.model = Model({name: Queue(key_concurrency=n) for name, n in LANES.items()}, LONE_CRASHES)
        # Every job that a node was ever given, and claims whose answer it never got.
        self.given: list[Job] = []
        self.unanswered: list[tuple[int, UUID]] = []
        self.run(self.conn.execute(FORGET))
        for name in LANES:
            self.declare(name, 0, 0)
        self.ids = {row["name"]: row["id"] for row in self.run(queues.queues(self.conn))}
        self.nodes = [uuid.uuid4(), uuid.uuid4()]
        for node in self.nodes:
            self.run(self.conn.execute(REGISTER, node, uuid.uuid4(), "n"))

    @rule(step=steps)
    def do(self, step: tuple[str, dict[str, Any]]) -> None:
        """One rule for all: hypothesis leaves out half of the rules of a program, and without a claim little happens."""
        name, how = step
        if (name in OF_JOBS and not self.model.jobs) or (name in OF_GIVEN and not self.given):
            return
        getattr(self, name)(**how)

    # Comparing

    @invariant()
    def agree(self) -> None:
        self._jobs_agree()
        self._claims_and_keys_agree()
        self._statistics_add_up()

    def _jobs_agree(self) -> None:
        shown = self.run(reads.list_jobs(self.conn, JobFilter(), 10_000))
        assert len(shown) == len({job["id"] for job in shown}), "a job is in two places"
        names = ("state", "partial", "attempt", "max_attempts", "crashes", "queue")
        same(
            {job["id"]: (*(job[name] for name in names), parse_priority(job["priority"]), job["args"]["word"]) for job in shown},
            {
                job.id: (self.model.state(job), *(getattr(job, name) for name in names[1:]), job.priority, job.word)
                for job in self.model.jobs.values()
            },
        )
        broken = [tuple(row) for row in self.run(self.conn.fetch(BROKEN))]
        assert not broken, broken

    def _claims_and_keys_agree(self) -> None:
        rows = self.run(self.conn.fetch("select id, claim, node, parked, unique_key, cancel_asked_at is not null from ingestd.job"))
        nodes = {node: number for number, node in enumerate(self.nodes)}
        same(
            {number: (token, nodes.get(node), parked, unique, asked) for number, token, node, parked, unique, asked in rows},
            {job.id: (job.claim, job.node, job.parked, job.unique_key, job.asked) for job in self.model.open()},
        )
        same({row["key"]: row["job_id"] for row in self.run(history.key_holds(self.conn))}, self.model.key_holds)

    def _statistics_add_up(self) -> None:
        rows = self.run(self.conn.fetch("select queue_id, outcome, sum(n)::integer from ingestd.job_stat group by 1, 2"))
        same(
            {(queue, outcome): n for queue, outcome, n in rows},
            {(self.ids[queue], state): n for (queue, state), n in self.model.ends.items()},
        )

    def pick(self, number: int, *states: str) -> int:
        """A job in one of these states, a late one for a small number; where there is none such, any, and mostly one that is there."""
        known = self.model.jobs.values()
        found = sorted([job.id for job in known if self.model.state(job) in states] or self.model.jobs or self.model.deleted)
        return found[-1 - number % len(found)]

    def lane(self, number: int, *, limited: bool) -> str:
        """A queue of this sort where something may be taken, if there is one."""
        sort = [name for name, lane in self.model.queues.items() if lane.limited == limited] or list(LANES)
        sort = [name for name in sort if self.model.claimable(name, number)] or sort
        return sort[number % len(sort)]

    def told(self, work: Coroutine[Any, Any, T], allowed: bool) -> T | None:
        """What an action answers; it must be refused exactly where the model refuses it."""
        answer, refused = None, ""
        try:
            answer = self.run(work)
        except (Conflict, NotFound) as error:
            refused = str(error)
        assert allowed != bool(refused), refused or f"not refused: {answer}"
        return answer

    # Jobs come

    def enqueue(self, spec: Spec, copies: int) -> None:
        self._enqueue(spec, copies)

    def enqueue_child(self, spec: Spec, number: int) -> None:
        self._enqueue(spec, 1, parent=self.pick(number, "running"))

    def _enqueue(self, spec: Spec, copies: int, parent: int | None = None) -> None:
        self.model.next()
        job = NewJob(
            "k", {"word": spec.word}, spec.queue, spec.priority, delay=timedelta(hours=spec.delay) if spec.delay else None,
            max_attempts=spec.max_attempts, key=spec.key, key_strict=spec.strict, unique_key=spec.unique_key, unique_mode=spec.mode,  # type: ignore[arg-type]
            unique_until=spec.until, unique_for=timedelta(hours=spec.hold) if spec.hold else None,  # type: ignore[arg-type]
            store=None if spec.store is None else STORES[spec.store], parent_id=parent,
        )  # fmt: skip
        for done in self.run(enqueue_told(self.conn, [job] * copies)):
            assert done.existing or done.id not in self.model.jobs.keys() | self.model.deleted
            assert tuple(done) == self.model.enqueue(Spec(**vars(spec) | {"parent": parent}), done.id)

    def start_workflow(self, queue: str, after: str, key: str | None) -> None:
        self.model.next()
        job = NewJob("k", {"word": 0}, queue, key=key, max_attempts=3)
        parents: dict[str, tuple[str, ...]] = {"top": (), "left": ("top",), "right": ("top",), "last": ("left", "right")}
        made = [Step(name, job, behind, after if name == "last" else "skip") for name, behind in parents.items()]  # type: ignore[arg-type]
        run = self.run(start(self.conn, Workflow("w", order_steps("w", made)), triggered_by="cli"))
        rows = self.run(self.conn.fetch("select step, job_id from ingestd.workflow_step where run = $1 order by position", run))
        steps = self.model.runs[run] = {}
        self.model.run_states[run] = "running"
        for row in rows:
            name, number = row
            self.model.enqueue(Spec(queue, max_attempts=3, key=key, parked=1 if parents[name] else 0), number)
            self.model.jobs[number].run, self.model.jobs[number].step = run, name
            steps[name] = model_kit.Step(number, parents[name], after if name == "last" else "skip", "blocked" if parents[name] else "open")

    # Jobs are claimed

    def who(self, node: int) -> Claimant:
        self.model.next()
        return Claimant(uuid.uuid4(), self.nodes[node], ["k"], STORES[node])

    def took(self, who: Claimant, node: int, jobs: list[Job], expected: list[model_kit.Job], answered: bool = True) -> None:
        assert sorted(job.id for job in jobs) == sorted(job.id for job in expected)
        self.model.take_within(expected, who.token, node)
        for job in jobs:
            known = self.model.jobs[job.id]
            assert (job.attempt, job.max_attempts, job.crashes, job.priority, job.key, job.queue) == (
                known.attempt, known.max_attempts, known.crashes, known.priority, known.key, known.queue,
            )  # fmt: skip
        if answered:
            self.given += jobs
        elif jobs:
            self.unanswered.append((node, who.token))

    def sweep(self, node: int, free: int, answered: bool) -> None:
        who = self.who(node)
        served = {self.ids[name]: name for name, lane in self.model.queues.items() if not lane.paused}
        jobs = self.run(claim.sweep(self.conn, who, dict.fromkeys(served, free), served))
        expected = [
            job for name in served.values() if not self.model.queues[name].limited for job in self.model.claimable(name, node)[:free]
        ]
        self.took(who, node, jobs, expected, answered)

    def claim_behind_a_cursor(self, node: int, lane: int, free: int, low_first: bool) -> None:
        queue = self.lane(lane, limited=low_first and free > 3)
        if self.model.queues[queue].paused:
            return
        who = self.who(node)
        jobs = self.run(claim.claim(self.conn, who, self.ids[queue], queue, free, self._bounds(queue, low_first)))
        ready = [] if self.model.queues[queue].limited else self.model.claimable(queue, node)
        if low_first:
            ready.sort(key=lambda job: job.priority)
        self.took(who, node, jobs, ready[:free])

    def claim_within_limits(self, node: int, lane: int, free: int) -> None:
        queue = self.lane(lane, limited=True)
        who = self.who(node)
        taken = self.run(limits.claim_within_limit(self.conn, who, self.ids[queue], queue, free, self._bounds(queue, False)))
        self.took(who, node, taken.jobs, self.model.claimable(queue, node)[: min(free, self.model.room(queue) or 0)])

    def claim_a_suspect(self, node: int, number: int) -> None:
        found = [job.queue for job in self.model.open() if job.crashes and self.model.state(job) == "available"] or list(LANES)
        queue = found[number % len(found)]
        who = self.who(node)
        if self.model.queues[queue].limited:
            jobs = self.run(limits.claim_suspect_within_limit(self.conn, who, self.ids[queue], queue)).jobs
            suspects = self.model.claimable(queue, node, suspects=True) if self.model.room(queue) else []
        else:
            served = {self.ids[name]: name for name, lane in self.model.queues.items() if not lane.paused}
            jobs = self.run(claim.claim_suspect(self.conn, who, served))
            plain = [name for name in served.values() if not self.model.queues[name].limited]
            suspects = sorted((job for lane in plain for job in self.model.claimable(lane, node, suspects=True)), key=lambda job: job.place)
        self.took(who, node, jobs, suspects[:1])

    def _bounds(self, queue: str, low_first: bool) -> Any:
        cursor = Cursor(claims=LOW_FIRST_EVERY - 1 if low_first else 0)
        cursor.know(rank for _, rank in self.run(claim.ranks(self.conn, [self.ids[queue]])))
        return cursor.bounds()

    # Jobs end, or come back; what is told of may long be somebody else's

    def held(self, number: int, most: int, stale: bool) -> list[Job]:
        """Some jobs that nodes hold, or that they were given and may long have lost; one job once."""
        found = [job for job in self.given if stale or self.model.holds(job.id, job.claim)]
        first = number % len(found) if found else 0
        return list({job.id: job for job in found[first : first + most]}.values())

    def ack(self, number: int, most: int, stale: bool, state: str, partial: bool) -> None:
        self.model.next()
        partial = partial and state == "succeeded"
        jobs = self.held(number, most, stale)
        done = self.run(ack.ack(self.conn, [Result(job.id, job.claim, State(state), partial=partial, duration_ms=5) for job in jobs]))
        assert done == {job.id for job in jobs if self.model.ack(job.id, job.claim, state, partial=partial)}
        self._acks_are_found_again()

    def ack_plain(self, number: int, most: int, stale: bool) -> None:
        self.model.next()
        jobs = self.held(number, most, stale)
        done = self.run(ack.ack_plain(self.conn, [(job, 1e9, 5) for job in jobs]))
        acked = {job.id for job in jobs if self.model.ack(job.id, job.claim, "succeeded")}
        assert done == (None if len(acked) == len(jobs) else acked)
        self._acks_are_found_again()

    def _acks_are_found_again(self) -> None:
        """An ack whose answer was lost is asked for by its claim, and by no other."""
        found = self.run(ack.already_acked(self.conn, [(job.id, job.claim) for job in self.given]))
        known = ((self.model.jobs.get(job.id), job.claim) for job in self.given)
        assert found == {job.id for job, token in known if job is not None and job.final is not None and job.acked_by == token}

    def put_back(self, number: int, most: int, stale: bool, after: int, how: str) -> None:
        self.model.next()
        jobs = self.held(number, most, stale)
        after, parked = (0, model_kit.CHILDREN) if how == "await" else (after, 0)
        back = [PutBack(job.id, job.claim, timedelta(hours=after), how == "retry", parked) for job in jobs]
        done = self.run(ack.put_back(self.conn, back))
        assert done == {j.id for j in jobs if self.model.put_back(j.id, j.claim, after, spent=how == "retry", parked=parked)}
        asked = self.run(ack.asked_to_stop(self.conn, [(job.id, job.claim) for job in jobs]))
        assert asked == {job.id for job in jobs if self.model.holds(job.id, job.claim) and self.model.jobs[job.id].asked}

    def release_a_claim_whose_answer_was_lost(self, keep: bool) -> None:
        self.model.next()
        if not self.unanswered:
            return
        node, token = self.unanswered.pop()
        kept = [job.id for job in self.model.open() if job.claim == token][:1] if keep else []
        done = self.run(claim.release_claim(self.conn, self.nodes[node], token, kept))
        assert set(done) == self.model.release(node, token, kept)

    def a_node_dies(self, node: int, number: int) -> None:
        """One that holds something, if there is one; some of its jobs had started."""
        self.model.next()
        node = next((job.node for job in self.model.open() if job.node is not None), node)
        started = [job.id for job in self.model.open() if job.node == node][number:]
        dead, self.nodes[node] = self.nodes[node], uuid.uuid4()
        self.run(self.conn.execute(REGISTER, self.nodes[node], uuid.uuid4(), "n"))
        rescued = self.run(rescue.rescue(self.conn, dead, "gone", started))
        free, poison = self.model.rescue(node, started)
        assert (set(rescued.claimable), set(rescued.quarantined)) == (free, poison)
        self.unanswered = [(at, token) for at, token in self.unanswered if at != node]

    # People

    def cancel(self, number: int, force: bool) -> None:
        self.model.next()
        job = self.model.jobs.get(self.pick(number))
        assert job is not None
        answer = self.told(actions.cancel_job(self.conn, ANN, job.id, force=force), job.final is None)
        if answer is None:
            return
        assert answer == ("cancelled" if force or job.claim is None else "cancelling")
        if answer == "cancelled":
            self.model.end(job, "cancelled")
        else:
            job.asked = True

    def retry(self, number: int, state: str) -> None:
        self.model.next()
        chosen = self.pick(number, state)
        self.told(actions.retry_job(self.conn, ANN, chosen), self.model.retry(chosen))

    def run_again(self, number: int) -> None:
        self.model.next()
        chosen = self.pick(number, *model_kit.FINAL)
        job = self.model.jobs.get(chosen)
        new = self.told(actions.run_again(self.conn, ANN, chosen), job is not None and job.final is not None)
        if new is not None:
            self.model.again(chosen, new)

    def snooze(self, number: int, after: int) -> None:
        self.model.next()
        job = self.model.jobs[self.pick(number)]
        until = self.run(self.conn.fetchval("select now()")) + timedelta(hours=after)
        if self.told(self._flag(actions.snooze_job(self.conn, ANN, job.id, until)), job.final is None and job.claim is None):
            job.run_at = (self.model.hours + after, self.model.tick)

    def edit(self, number: int, queue: str | None, priority: int | None, attempts: int | None) -> None:
        self.model.next()
        job = self.model.jobs[self.pick(number)]
        changes = {"queue": queue, "priority": priority, "max_attempts": attempts}
        changes = {name: value for name, value in changes.items() if value is not None}
        if not changes:
            return
        if self.told(self._flag(actions.edit_job(self.conn, ANN, job.id, changes)), job.final is None and job.claim is None):
            for name, value in changes.items():
                setattr(job, name, value)

    @staticmethod
    async def _flag(work: Coroutine[Any, Any, None]) -> bool:
        await work
        return True

    def delete(self, number: int) -> None:
        self.model.next()
        chosen = self.pick(number)
        job = self.model.jobs[chosen]
        state = job.final or "waiting"
        assert self.told(actions.delete_job(self.conn, ANN, chosen), self.model.delete(chosen)) in (state, None)

    def skip_what_holds_a_key(self, number: int) -> None:
        if not self.model.key_holds:
            return
        key, job = sorted(self.model.key_holds.items())[number % len(self.model.key_holds)]
        assert self.run(history.release_key(self.conn, job)) == key
        del self.model.key_holds[key]

    def pause_or_resume(self, queue: str, pause: bool) -> None:
        self.model.queues[queue].paused = pause
        self.run((actions.pause_queue if pause else actions.resume_queue)(self.conn, ANN, queue))

    def declare(self, queue: str, most: int, rate: int) -> None:
        lane = self.model.queues[queue]
        lane.most, lane.rate = most, rate
        given = QueueSettings(
            global_concurrency=most, key_concurrency=lane.key_concurrency, rate=Rate(rate, PERIOD if rate else timedelta())
        )
        self.run(queues.declare_queue(self.conn, queue, given))

    # Time, and those who free what waits

    def promote(self) -> None:
        self.model.promote()
        self.run(promote_once(self.conn))
        runs = {row["id"]: row["state"] for row in self.run(self.conn.fetch("select id, state from ingestd.workflow_run"))}
        assert runs == self.model.run_states

    def hours_pass(self, passed: int) -> None:
        self.model.hours += passed
        self.run(self.conn.execute(HOURS_PASS, timedelta(hours=passed)))
