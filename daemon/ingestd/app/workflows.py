"""`[workflows.NAME]`: the declared DAGs. They name imports, rollups, jobs and commands, so they belong to composition."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ingestd.jobs.course import OnFailure
from ingestd.jobs.model import NewJob
from ingestd.jobs.workflow import Fault, Overlap, Step, Workflow, faults, order_steps
from ingestd.settings import Name, Section, StrList, did_you_mean

StepTarget = tuple[str, str]
TargetJob = Callable[[str, str, dict[str, Any]], NewJob]


class UndoSettings(Section):
    """The job that takes a step back when its run is compensated."""

    job: str = Field(min_length=1, description="kind of job to run")
    args: dict[str, Any] = Field(default_factory=dict, description="empty: those of the step")


class StepSettings(Section):
    """One step: exactly one target, and what it waits for."""

    job: str | None = Field(default=None, min_length=1, description="kind of job to run")
    import_: str | None = Field(default=None, min_length=1, alias="import", description="import to scan")
    rollup: str | None = Field(default=None, min_length=1, description="rollup to refresh")
    command: Literal["cleanup", "health", "maintenance"] | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    after: StrList = Field(default_factory=list, description="steps that must be final before")
    on_failure: OnFailure | None = Field(default=None, description="when one of those did not succeed, or it fails itself")
    require: Literal["any", "complete"] = Field(default="any", description="complete: a partial success is not enough")
    undo: UndoSettings | None = Field(default=None, description="takes the step back when the run is compensated")

    @model_validator(mode="after")
    def _one_target(self) -> StepSettings:
        named = [name for name, value in self._targets().items() if value]
        if len(named) != 1:
            what = f"names {' and '.join(named)}" if named else "names nothing to run"
            raise ValueError(f"a step {what}: give it exactly one of job, import, rollup or command")
        if self.args and not self.job:
            raise ValueError("args are for job steps only")
        return self

    def _targets(self) -> dict[str, str | None]:
        return {"job": self.job, "import": self.import_, "rollup": self.rollup, "command": self.command}

    @property
    def target(self) -> StepTarget:
        """What the step runs: type and name."""
        return next((kind, name) for kind, name in self._targets().items() if name)

    def compile(self, name: str, on_failure: OnFailure, target_job: TargetJob) -> Step:
        """The step with the job it starts.

        Args:
            on_failure: the workflow's, for a step without its own.
        """
        undo = None if self.undo is None else target_job("job", self.undo.job, self.undo.args)
        job = target_job(*self.target, self.args)
        return Step(name, job, tuple(self.after), self.on_failure or on_failure, self.require, undo, bool(self.job))


class WorkflowSettings(Section):
    """A DAG of steps, declared once and started as one run."""

    on_failure: OnFailure = Field(default="skip", description="default of its steps")
    overlap: Overlap = Field(default="allow", description="while an earlier run is open: refuse, wait for its end, or run beside it")
    steps: dict[Name, StepSettings] = Field(min_length=1)

    def compile(self, name: str, target_job: TargetJob) -> Workflow:
        """Turn the declaration into a checked workflow.

        Args:
            target_job: what to enqueue for a target type, its name and arguments.

        Raises:
            ConfigurationError: unknown parents, a circle, references that lead nowhere.
        """
        steps = self._compiled(target_job)
        definition = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return Workflow(name, order_steps(name, steps), definition, self.overlap)

    def _compiled(self, target_job: TargetJob) -> list[Step]:
        return [step.compile(name, self.on_failure, target_job) for name, step in self.steps.items()]

    def faults(self, name: str, declared: Mapping[str, Any]) -> list[Fault]:
        """What is wrong with its steps, each with its place below `steps`.

        Args:
            declared: the steps as they are written: one that has a problem of its own is not among ours, but it is there.
        """
        steps = self._compiled(lambda kind, target, args: NewJob(target if kind == "job" else kind, args))
        steps += [Step(name, NewJob(""), _after(step)) for name, step in declared.items() if name not in self.steps]
        found = faults(name, steps)
        if self.compensates:
            found += [
                Fault(
                    (step_name, "import"),
                    f"[workflows.{name}.steps.{step_name}]: the run may be compensated, and a load cannot be taken back by itself yet: "
                    'give the step an undo = { job = "…" }',
                )
                for step_name, step in self.steps.items()
                if step.import_ and step.undo is None
            ]
        return found

    @property
    def compensates(self) -> bool:
        """Whether a failure of one of its steps has the run taken back."""
        return any((step.on_failure or self.on_failure) == "compensate" for step in self.steps.values())

    def idle_undos(self) -> list[str]:
        """Steps whose undo is only for a run that somebody cancels and takes back by hand."""
        return [] if self.compensates else [name for name, step in self.steps.items() if step.undo]


def _after(step: Any) -> tuple[str, ...]:
    after = step.get("after") if isinstance(step, dict) else None
    return tuple(parent for parent in after if isinstance(parent, str)) if isinstance(after, list) else ()


def unknown_undos(workflows: Mapping[str, WorkflowSettings], kinds: Collection[str]) -> list[str]:
    """Compensations that nobody could run: found now, not when they are needed."""
    return [
        f'"undo" in [workflows.{name}.steps.{step_name}]: none of [daemon] handlers declares the kind '
        f'"{step.undo.job}"{did_you_mean(step.undo.job, kinds)}'
        for name, workflow in workflows.items()
        for step_name, step in workflow.steps.items()
        if step.undo is not None and step.undo.job not in kinds
    ]
