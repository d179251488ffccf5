"""`[workflows.NAME]`: the declared DAGs. They name imports, rollups, jobs and commands, so they belong to composition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from ingestd.errors import ConfigurationError
from ingestd.jobs.model import NewJob
from ingestd.jobs.workflow import Step, Workflow, order_steps
from ingestd.settings import Name, Section, StrList

StepTarget = tuple[str, str]


class StepSettings(Section):
    """One step: exactly one target, and what it waits for."""

    job: str | None = Field(default=None, min_length=1, description="kind of job to run")
    import_: str | None = Field(default=None, min_length=1, alias="import", description="import to scan")
    rollup: str | None = Field(default=None, min_length=1, description="rollup to refresh")
    command: Literal["cleanup", "health"] | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    after: StrList = Field(default_factory=list, description="steps that must be final before")
    on_failure: Literal["skip", "run"] | None = Field(default=None, description="when one of those did not succeed")
    require: Literal["any", "complete"] = Field(default="any", description="complete: a partial success is not enough")

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


class WorkflowSettings(Section):
    """A DAG of steps, declared once and started as one run."""

    on_failure: Literal["skip", "run"] = Field(default="skip", description="default of its steps")
    steps: dict[Name, StepSettings] = Field(min_length=1)

    def compile(self, name: str, target_job: Callable[[str, str, dict[str, Any]], NewJob]) -> Workflow:
        """Turn the declaration into a checked workflow.

        Args:
            target_job: what to enqueue for a target type, its name and arguments.

        Raises:
            ConfigurationError: unknown parents or a circle.
        """
        steps = [
            Step(step_name, target_job(*step.target, step.args), tuple(step.after), step.on_failure or self.on_failure, step.require)
            for step_name, step in self.steps.items()
        ]
        return Workflow(name, order_steps(name, steps), self.model_dump(mode="json", by_alias=True, exclude_defaults=True))

    def problems(self, name: str) -> list[str]:
        """What is wrong with the order of its steps."""
        try:
            self.compile(name, lambda kind, _name, _args: NewJob(kind))
        except ConfigurationError as error:
            return error.problems
        return []
