"""Random workflows with random outcomes, with two promoters that race, against a model that knows nothing of the database."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass, field

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd.jobs.model import Job, NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.store import ack, claim, reads
from ingestd.jobs.store.ack import Result
from ingestd.jobs.store.claim import Claimant
from ingestd.jobs.workflow import Step, Workflow, order_steps, start
from ingestd.postgres.session import connect

NODE = uuid.uuid4()
FINAL = {"succeeded", "failed", "cancelled", "skipped"}


@dataclass(frozen=True)
class Spec:
    """A step as drawn: what it is, and how its job and its undo will end."""

    name: str
    after: tuple[str, ...]
    on_failure: str
    require: str
    undo: bool
    outcome: str
    undo_outcome: str


@st.composite
def workflows(draw: st.DrawFn) -> tuple[Spec, ...]:
    """A DAG of up to eight steps, any parents among the ones before; half of them end in a failure that takes all back."""
    steps: list[Spec] = []
    doomed = draw(st.booleans())
    size = draw(st.integers(1, 8))
    for number in range(size):
        names = [one.name for one in steps]
        after = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        steps.append(
            Spec(
                f"s{number}",
                tuple(after),
                draw(st.sampled_from(["skip", "skip", "run", "compensate", "compensate"])),
                draw(st.sampled_from(["any", "any", "complete"])),
                draw(st.sampled_from([True, True, True, False])),
                draw(st.sampled_from(["succeeded"] * (9 if doomed else 4) + ["partial", "failed", "cancelled"])),
                draw(st.sampled_from(["succeeded"] * 5 + ["failed"])),
            )
        )
    if doomed:
        steps.append(Spec("last", tuple(one.name for one in steps), "compensate", "any", False, "failed", "succeeded"))
    return tuple(steps)


@dataclass
class Model:
    """What the documents say of a run, worked out by going over all steps again and again until nothing changes.

    Nothing here is in the order of the real thing, and nothing of it is used.
    """

    steps: tuple[Spec, ...]
    states: dict[str, str] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    undos: dict[str, str] = field(default_factory=dict)
    compensating: bool = False
    begun: bool = False

    def __post_init__(self) -> None:
        self.states = {one.name: "blocked" for one in self.steps}
        self.settle()

    def end(self, name: str, outcome: str) -> None:
        """A job has ended."""
        states, key = (self.undos, name.removesuffix(".undo")) if name.endswith(".undo") else (self.states, name)
        assert states[key] == "open", f"{name} ran although it was {states[key]}"
        states[key] = "succeeded" if outcome == "partial" else outcome
        if outcome == "partial":
            self.partial.add(key)
        self.settle()

    def settle(self) -> None:
        before = None
        while before != (before := (dict(self.states), dict(self.undos), self.compensating)):
            if any(self.states[one.name] == "failed" and one.on_failure == "compensate" for one in self.steps):
                self.compensating = True
            for one in self.steps:
                self._settle_step(one)
            if self.compensating and not self.undos and set(self.states.values()) <= FINAL:
                self.undos = {one.name: "blocked" for one in self.steps if one.undo and self.states[one.name] == "succeeded"}
            for name, state in self.undos.items():
                behind = [self.undos[other] for other in self.undos if name in self._ancestors(other)]
                if state == "blocked" and set(behind) <= FINAL:
                    self.undos[name] = "open" if set(behind) <= {"succeeded"} else "skipped"

    def _settle_step(self, one: Spec) -> None:
        state = self.states[one.name]
        if self.compensating and one.on_failure != "run" and state in ("blocked", "open"):
            # Nobody has begun it: jobs here end the moment they are claimed.
            self.states[one.name] = "skipped"
        elif state == "blocked" and all(self.states[parent] in FINAL for parent in one.after):
            good = all(
                self.states[parent] == "succeeded" and not (parent in self.partial and one.require == "complete") for parent in one.after
            )
            self.states[one.name] = "open" if good or one.on_failure == "run" else "skipped"

    def _ancestors(self, name: str) -> set[str]:
        (spec,) = [one for one in self.steps if one.name == name]
        return set(spec.after) | {above for parent in spec.after for above in self._ancestors(parent)}

    def open(self) -> set[str]:
        return {name for name, state in self.states.items() if state == "open"} | {
            f"{name}.undo" for name, state in self.undos.items() if state == "open"
        }

    def run(self) -> str:
        if not set(self.states.values()) <= FINAL or not set(self.undos.values()) <= FINAL:
            return "compensating" if self.compensating else "running"
        if "failed" in self.states.values() or set(self.undos.values()) - {"succeeded"}:
            return "failed"
        if self.compensating or {"cancelled", "skipped"} & set(self.states.values()):
            return "cancelled"
        return "partial" if self.partial else "succeeded"

    def all(self) -> dict[str, str]:
        return {"run": self.run()} | self.states | {f"{name}.undo": state for name, state in self.undos.items()}


def compiled(steps: tuple[Spec, ...]) -> Workflow:
    made = [
        Step(one.name, NewJob("step"), one.after, one.on_failure, one.require, NewJob("undo") if one.undo else None)  # type: ignore[arg-type]
        for one in steps
    ]
    return Workflow("w", order_steps("w", made))


async def seen(conn: asyncpg.Connection, run: int) -> dict[str, str]:
    (found,) = await reads.workflow_runs(conn, run=run)
    return {"run": found["state"]} | {step["step"]: step["state"] for step in found["steps"]}


async def claim_all(conn: asyncpg.Connection) -> list[Job]:
    queues = {row["id"]: row["name"] for row in await conn.fetch("select id, name from ingestd.queue")}
    who = Claimant(uuid.uuid4(), NODE, ["step", "undo"], uuid.uuid4())
    return await claim.sweep(conn, who, dict.fromkeys(queues, 100), queues)


@pytest.fixture
async def racers(dsn: str):  # type: ignore[no-untyped-def]
    """Connections of two promoters and two nodes."""
    opened = [await connect(dsn) for _ in range(4)]
    yield opened
    for one in opened:
        await one.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=workflows(), seed=st.integers(0, 2**32))
async def test_any_run_goes_as_its_model_says(racers: list[asyncpg.Connection], steps: tuple[Spec, ...], seed: int) -> None:
    first, second, node, other = racers
    dice = random.Random(seed)
    outcomes = {one.name: one.outcome for one in steps} | {f"{one.name}.undo": one.undo_outcome for one in steps}
    model = Model(steps)
    run = await start(node, compiled(steps), triggered_by="cli")
    for _ in range(60):
        await asyncio.gather(promote_once(first), promote_once(second))
        assert await seen(node, run) == model.all()
        if model.run() in ("succeeded", "partial", "failed", "cancelled"):
            break
        jobs = await claim_all(node)
        assert {job.step for job in jobs} == model.open()
        ending = dice.sample(jobs, 1)
        if len(jobs) > 1 and dice.random() < 0.5 and not calls_for_undo(steps, jobs):
            ending = dice.sample(jobs, 2)
        # What is not ended goes back before anybody decides.
        kept = [job.id for job in jobs if job not in ending]
        await node.execute("update ingestd.job set claim = null, node = null where id = any ($1)", kept)
        for job in ending:
            model.end(str(job.step), outcomes[str(job.step)])
        deciding = [promote_once(first), promote_once(second)]
        await asyncio.gather(*deciding, *(finish(conn, job, outcomes) for conn, job in zip((node, other), ending, strict=False)))
    else:
        pytest.fail(f"the run did not end: {model.all()}")
    assert await node.fetchval("select count(*) from ingestd.job") == 0


def calls_for_undo(steps: tuple[Spec, ...], jobs: list[Job]) -> bool:
    """Whether one of them will have the run taken back: then it matters which of two ends first."""
    bad = {one.name for one in steps if one.outcome == "failed" and one.on_failure == "compensate"}
    return any(job.step in bad for job in jobs)


async def finish(conn: asyncpg.Connection, job: Job, outcomes: dict[str, str]) -> None:
    outcome = outcomes[str(job.step)]
    state = State.SUCCEEDED if outcome == "partial" else State(outcome)
    assert await ack.ack(conn, [Result(job.id, job.claim, state, partial=outcome == "partial")]) == {job.id}
