"""What happens next in a workflow run, from the states of its steps. Pure: the promoter carries it out.

A run goes forward while it is `running`. It is `compensating` from the moment a step fails whose rule says so: what has not
begun is left out, except for steps that run whatever happens; what has begun goes on to its end; then the compensations of
all that succeeded are made steps of the run themselves, each waiting for those of the steps that built upon its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ingestd.jobs.model import FINAL

OnFailure = Literal["skip", "run", "compensate"]
RunState = Literal["waiting", "running", "compensating", "succeeded", "partial", "failed", "cancelled"]
OPEN_RUN: frozenset[str] = frozenset({"waiting", "running", "compensating"})
TAKEN_BACK = "skipped: the run is being taken back"


@dataclass(frozen=True, slots=True)
class StepState:
    """One step of a run as it stands.

    Args:
        name: unique in the run.
        state: blocked, open, or how its job ended.
        partial: it succeeded, but not with everything.
        compensates: the step it takes back.
        undo: whether something can take it back.
        withdrawable: its job is open and nobody has begun it.
    """

    name: str
    state: str
    after: tuple[str, ...] = ()
    on_failure: OnFailure = "skip"
    require: Literal["any", "complete"] = "any"
    partial: bool = False
    compensates: str | None = None
    undo: bool = False
    withdrawable: bool = False

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in FINAL


@dataclass
class Course:
    """What is to be done with a run.

    Args:
        state: of the run from here on.
        release: steps whose jobs may run.
        skip: steps that will not, and why.
        withdraw: steps to skip if nobody has begun them until then.
        compensate: steps to take back -> the steps whose compensations come first; None: it is not time for that.
    """

    state: RunState
    release: list[str] = field(default_factory=list)
    skip: dict[str, str] = field(default_factory=dict)
    withdraw: list[str] = field(default_factory=list)
    compensate: Mapping[str, tuple[str, ...]] | None = None


def compensation_of(step: str) -> str:
    """The name of the step that takes this one back; no declared step can have it."""
    return f"{step}.undo"


def decide(state: RunState, steps: Sequence[StepState]) -> Course:
    """What is next in a run.

    Args:
        state: `running` or `compensating`.
        steps: all of them, parents first.
    """
    course = Course(state)
    known = {step.name: step for step in steps}
    if state == "running" and any(_calls_for_compensation(step) for step in steps):
        course.state = "compensating"
    for step in steps:
        if step.state == "blocked":
            _decide_step(course, known, step)
        elif course.state == "compensating" and step.withdrawable and step.compensates is None and step.on_failure != "run":
            course.withdraw.append(step.name)
    if all(step.final for step in known.values()):
        _end(course, list(known.values()))
    return course


def _calls_for_compensation(step: StepState) -> bool:
    return step.state == "failed" and step.on_failure == "compensate" and step.compensates is None


def _decide_step(course: Course, known: dict[str, StepState], step: StepState) -> None:
    """Release or skip a blocked step; the ones behind it see what became of it."""
    forward = step.compensates is None
    if forward and course.state == "compensating" and step.on_failure != "run":
        return _skip(course, known, step, TAKEN_BACK)
    waits_for = list(_before(known, step))
    if not all(parent.final for parent, _ in waits_for):
        return None
    bad = [parent for parent, child in waits_for if not _good_enough(parent, child)]
    if bad and step.on_failure != "run":
        return _skip(course, known, step, f"skipped: {', '.join(dict.fromkeys(map(_told, bad)))}")
    course.release.append(step.name)
    known[step.name] = replace(step, state="open")
    return None


def _before(known: Mapping[str, StepState], step: StepState) -> Iterator[tuple[StepState, StepState]]:
    """The steps that one waits for, each with the step behind it.

    Its parents, and beyond those that have succeeded theirs: in a run that is retried a step that was kept is final while what
    stands before it runs again.
    """
    seen: set[str] = set()
    ahead = [step]
    while ahead:
        child = ahead.pop()
        for parent in [known[name] for name in child.after if name in known]:
            yield parent, child
            if parent.name not in seen and parent.state == "succeeded" and parent.on_failure != "run":
                seen.add(parent.name)
                ahead.append(parent)


def _skip(course: Course, known: dict[str, StepState], step: StepState, reason: str) -> None:
    course.skip[step.name] = reason
    known[step.name] = replace(step, state="skipped")


def _good_enough(parent: StepState, step: StepState) -> bool:
    return parent.state == "succeeded" and not (parent.partial and step.require == "complete")


def _told(step: StepState) -> str:
    return f"{step.name} {step.state}{' (partial)' if step.partial else ''}"


def _end(course: Course, steps: Sequence[StepState]) -> None:
    if course.state == "compensating" and not any(step.compensates for step in steps):
        course.compensate = compensations(steps)
        if course.compensate:
            return
    course.state = final_state(steps, compensated=course.state == "compensating")


def compensations(steps: Iterable[StepState]) -> dict[str, tuple[str, ...]]:
    """What is to be taken back, the last first: each step with those whose compensations must have succeeded before.

    Steps that cannot be taken back pass on the waiting: what stands behind them still comes first.
    """
    forward = [step for step in steps if step.compensates is None]
    found: dict[str, tuple[str, ...]] = {}
    # step -> the nearest steps behind it that are taken back
    behind: dict[str, set[str]] = {step.name: set() for step in forward}
    for step in reversed(forward):
        if step.undo and step.state == "succeeded":
            found[step.name] = tuple(sorted(behind[step.name]))
            nearest = {step.name}
        else:
            nearest = behind[step.name]
        for parent in step.after:
            behind[parent] |= nearest
    return found


def final_state(steps: Iterable[StepState], *, compensated: bool = False) -> RunState:
    """How a run ends whose steps are all final."""
    every = list(steps)
    forward = [step for step in every if step.compensates is None]
    undone = [step for step in every if step.compensates is not None]
    states = {step.state for step in forward}
    if "failed" in states or any(step.state != "succeeded" for step in undone):
        return "failed"
    if compensated or undone or states & {"cancelled", "skipped"}:
        return "cancelled"
    return "partial" if any(step.partial for step in forward) else "succeeded"
