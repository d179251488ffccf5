"""What the documents say of a queue, in plain Python: no database, no SQL, no clock.

Time is (hours, tick): hours pass only when somebody says so, and each statement has a tick of its own. Nothing of the real thing is used
here but the meaning of its words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from uuid import UUID

Moment = tuple[int, int]

FINAL = {"succeeded", "failed", "cancelled", "skipped"}
STEPS, KEY, CHILDREN = 1, 2, 4
# A rate's period is an hour and a half: what was spent counts for one full hour, and not for two.
RATE_HOURS = 2


@dataclass(frozen=True)
class Spec:
    """A job as it is asked for; hours from now."""

    queue: str = "default"
    priority: int = 0
    delay: int = 0
    max_attempts: int = 3
    key: str | None = None
    strict: bool = False
    unique_key: str | None = None
    mode: str = "skip"
    until: str = "finish"
    hold: int = 0
    parent: int | None = None
    store: int | None = None
    word: int = 0
    parked: int = 0


@dataclass
class Job:
    """One job, open or final; one that was deleted is nowhere."""

    id: int
    queue: str
    priority: int
    run_at: Moment
    max_attempts: int
    key: str | None
    strict: bool
    unique_key: str | None
    until: str
    parent: int | None
    store: int | None
    word: int
    parked: int
    attempt: int = 0
    crashes: int = 0
    claim: UUID | None = None
    node: int | None = None
    asked: bool = False
    final: str | None = None
    partial: bool = False
    acked_by: UUID | None = None
    run: int | None = None
    step: str | None = None

    @property
    def place(self) -> tuple[int, Moment, int]:
        """Where it stands in its queue."""
        return -self.priority, self.run_at, self.id


@dataclass
class Queue:
    """A lane with its limits; `spent` are the hours at which its rate let jobs through."""

    key_concurrency: int = 0
    most: int = 0
    rate: int = 0
    paused: bool = False
    spent: list[int] = field(default_factory=list)

    @property
    def limited(self) -> bool:
        """Whether it is claimed apart."""
        return self.most > 0 or self.rate > 0


@dataclass
class Step:
    """One step of a run."""

    job: int
    after: tuple[str, ...]
    on_failure: str
    state: str
    partial: bool = False


class Model:
    """The queue.

    Args:
        queues: by name.
        lone_crashes: so many, and a job is quarantined.
    """

    def __init__(self, queues: dict[str, Queue], lone_crashes: int) -> None:
        self.queues = queues
        self.lone_crashes = lone_crashes
        self.hours = self.tick = 0
        self.jobs: dict[int, Job] = {}
        self.deleted: set[int] = set()
        self.periods: dict[str, tuple[int, Moment]] = {}
        self.key_holds: dict[str, int] = {}
        self.ends: Counter[tuple[str, str]] = Counter()
        self.runs: dict[int, dict[str, Step]] = {}
        self.run_states: dict[int, str] = {}

    # What is

    @property
    def now(self) -> Moment:
        return self.hours, self.tick

    def next(self) -> None:
        """Another statement."""
        self.tick += 1

    def open(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.final is None]

    def state(self, job: Job) -> str:
        if job.final is not None:
            return job.final
        if job.claim is not None:
            return "running"
        if job.parked:
            return "blocked"
        if job.run_at > self.now:
            return "retrying" if job.attempt else "scheduled"
        return "available"

    def claimable(self, queue: str, store: int, *, suspects: bool = False) -> list[Job]:
        """What may be taken there, in its order."""
        found = [j for j in self.open() if j.queue == queue and self.state(j) == "available" and (j.crashes > 0) == suspects]
        return sorted((j for j in found if j.store in (None, store)), key=lambda j: j.place)

    def room(self, queue: str) -> int | None:
        """How many more the limits let through; None where nothing is claimed within limits."""
        lane = self.queues[queue]
        if lane.paused or not lane.limited:
            return None
        live = sum(job.queue == queue and job.claim is not None for job in self.open())
        spent = sum(self.hours - hour < RATE_HOURS for hour in lane.spent)
        return max(0, min(lane.most - live if lane.most else 10**6, lane.rate - spent if lane.rate else 10**6))

    # What programs do

    def enqueue(self, spec: Spec, number: int) -> tuple[int, bool, bool]:
        """Returns the id that answers, whether it was there, and whether it was changed; `number` is that of a new one."""
        run_at = (self.hours + spec.delay, self.tick)
        held = self._holder(spec.unique_key) if spec.unique_key else None
        if held is None:
            parked = spec.parked | (KEY if spec.key else 0)
            self.jobs[number] = Job(
                number, spec.queue, spec.priority, run_at, spec.max_attempts, spec.key, spec.strict, spec.unique_key, spec.until,
                spec.parent, spec.store, spec.word, parked,
            )  # fmt: skip
            if spec.unique_key and spec.hold:
                self.periods[spec.unique_key] = (number, (self.hours + spec.hold, self.tick))
            return number, False, False
        job = self.jobs.get(held)
        if spec.mode == "skip" or job is None or job.final or job.claim or job.unique_key != spec.unique_key:
            return held, True, False
        if spec.mode == "replace":
            job.word = spec.word
        else:
            job.run_at = run_at
        return held, True, True

    def _holder(self, key: str) -> int | None:
        if key in self.periods and self.periods[key][1] > self.now:
            return self.periods[key][0]
        return next((job.id for job in self.open() if job.unique_key == key), None)

    def take(self, jobs: Iterable[Job], claim: UUID, node: int) -> None:
        for job in jobs:
            assert self.state(job) == "available", f"{job} was taken"
            job.claim, job.node, job.attempt = claim, node, job.attempt + 1
            if job.until == "start":
                job.unique_key = None

    def take_within(self, jobs: list[Job], claim: UUID, node: int) -> None:
        self.take(jobs, claim, node)
        for job in jobs:
            if self.queues[job.queue].rate:
                self.queues[job.queue].spent.append(self.hours)

    def holds(self, number: int, claim: UUID) -> bool:
        job = self.jobs.get(number)
        return job is not None and job.final is None and job.claim == claim

    def ack(self, number: int, claim: UUID, state: str, *, partial: bool = False) -> bool:
        if not self.holds(number, claim):
            return False
        self.end(self.jobs[number], state, partial=partial, claim=claim, blocks=True)
        return True

    def end(self, job: Job, state: str, *, partial: bool = False, claim: UUID | None = None, blocks: bool = False) -> None:
        job.final, job.partial, job.claim, job.node, job.asked, job.acked_by = state, partial, None, None, False, claim
        self.ends[job.queue, state] += 1
        if job.run is not None:
            step = self.runs[job.run][str(job.step)]
            step.state, step.partial = state, partial
        if blocks and state == "failed" and job.strict and job.key:
            self.key_holds.setdefault(job.key, job.id)

    def put_back(self, number: int, claim: UUID, hours: int, *, spent: bool, parked: int = 0) -> bool:
        if not self.holds(number, claim) or self.jobs[number].asked:
            return False
        job = self.jobs[number]
        job.run_at, job.parked = (self.hours + hours, self.tick), parked
        self._let_go(job, spent=spent)
        return True

    def _let_go(self, job: Job, *, spent: bool = False) -> None:
        job.claim = job.node = None
        job.attempt -= not spent

    def rescue(self, node: int, started: Collection[int]) -> tuple[set[int], set[int]]:
        """Returns what is claimable again, and what is quarantined."""
        free, poison = set(), set()
        self._end_asked([job for job in self.open() if job.node == node])
        for job in [job for job in self.open() if job.node == node]:
            job.run_at = self.now
            self._let_go(job)
            job.crashes += job.id in started
            if job.id in started and job.crashes >= self.lone_crashes:
                poison.add(job.id)
                self.end(job, "failed", blocks=True)
            else:
                free.add(job.id)
        return free, poison

    def release(self, node: int, claim: UUID, keep: Collection[int]) -> set[int]:
        self._end_asked([job for job in self.open() if job.claim == claim and job.node == node and job.id not in keep])
        freed = {job.id for job in self.open() if job.claim == claim and job.node == node and job.id not in keep}
        for number in freed:
            self.jobs[number].run_at = max(self.jobs[number].run_at, self.now)
            self._let_go(self.jobs[number])
        return freed

    def _end_asked(self, jobs: list[Job]) -> None:
        """What was asked to stop does not go back into the queue."""
        for job in jobs:
            if job.asked:
                self.end(job, "cancelled")

    # What people do

    def retry(self, number: int) -> bool:
        job = self.jobs.get(number)
        if job is None:
            return False
        if self.state(job) == "retrying":
            job.run_at = self.now
            return True
        if job.final not in ("failed", "cancelled"):
            return False
        job.final, job.partial, job.acked_by, job.unique_key, job.crashes = None, False, None, None, 0
        job.run_at, job.max_attempts = self.now, max(job.max_attempts, job.attempt + 1)
        job.parked = KEY if job.key else 0
        if job.key and self.key_holds.get(job.key) == number:
            del self.key_holds[job.key]
        if job.run is not None:
            steps = self.runs[job.run]
            step = steps[str(job.step)]
            waits = any(steps[name].state not in FINAL for name in step.after)
            job.parked |= STEPS if waits else 0
            step.state, step.partial = "blocked" if waits else "open", False
            self.run_states[job.run] = "running"
        return True

    def again(self, number: int, new: int) -> None:
        old = self.jobs[number]
        self.jobs[new] = Job(
            new, old.queue, old.priority, self.now, old.max_attempts, old.key, old.strict, None, "finish", number, old.store, old.word,
            KEY if old.key else 0,
        )  # fmt: skip

    def delete(self, number: int) -> bool:
        job = self.jobs.get(number)
        if job is None or job.claim is not None:
            return False
        if job.final is None:
            if job.run is not None:
                self.runs[job.run][str(job.step)].state = "cancelled"
            self.periods = {key: held for key, held in self.periods.items() if held[0] != number}
        self.key_holds = {key: holder for key, holder in self.key_holds.items() if holder != number}
        del self.jobs[number]
        self.deleted.add(number)
        return True

    # What frees what waits

    def promote(self) -> None:
        for run, state in self.run_states.items():
            if state == "running":
                self.next()
                self._settle(run)
        self.next()
        parents = {job.parent for job in self.open()}
        for job in self.open():
            if job.parked & CHILDREN and job.id not in parents:
                self._unpark(job, CHILDREN)
        for key in {str(job.key) for job in self.open() if job.key}:
            self._free_key(key)

    def _unpark(self, job: Job, bit: int) -> None:
        job.parked &= ~bit
        job.run_at = max(job.run_at, self.now)

    def _settle(self, run: int) -> None:
        steps = self.runs[run]
        before = None
        while before != (before := [step.state for step in steps.values()]):
            for step in steps.values():
                behind = [steps[name].state for name in step.after]
                if step.state == "blocked" and set(behind) <= FINAL:
                    if set(behind) <= {"succeeded"} or step.on_failure == "run":
                        step.state = "open"
                        self._unpark(self.jobs[step.job], STEPS)
                    else:
                        self.end(self.jobs[step.job], "skipped")
        states = set(before)
        if states <= FINAL:
            worst = (
                "cancelled" if states & {"cancelled", "skipped"} else "partial" if any(s.partial for s in steps.values()) else "succeeded"
            )
            self.run_states[run] = "failed" if "failed" in states else worst

    def _free_key(self, key: str) -> None:
        mine = sorted((job for job in self.open() if job.key == key), key=lambda job: job.id)
        line = [job for job in mine if job.parked == KEY]
        if any(job.run_at <= self.now for job in line):
            for job in mine:
                # Whoever waits for its next try stands in line again, unless the key is strict.
                if not job.parked & KEY and job.claim is None and not job.strict and job.run_at > self.now:
                    job.parked |= KEY
            line = [job for job in mine if job.parked == KEY]
        due = [job for job in line if job.strict or job.run_at <= self.now]
        due = due or sorted(line, key=lambda job: (job.run_at, job.id))[:1]
        ahead = [job for job in mine if not job.parked & KEY]
        if key in self.key_holds:
            return
        for job in due:
            ahead.append(job)
            places = 1 if any(one.strict for one in ahead) else max(self.queues[job.queue].key_concurrency, 1)
            if len(ahead) <= places:
                self._unpark(job, KEY)
