"""The order of a workflow's steps, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.app.targets import target_job
from ingestd.app.workflows import WorkflowSettings
from ingestd.errors import ConfigurationError, InvalidInput
from ingestd.jobs.model import NewJob
from ingestd.jobs.workflow import Step, order_steps


def step(name: str, *after: str) -> Step:
    return Step(name, NewJob("kind"), after)


@given(st.integers(min_value=1, max_value=12), st.data())
def test_parents_come_before_their_children(size: int, data: st.DataObject) -> None:
    names = [f"s{number}" for number in range(size)]
    steps = [
        step(name, *data.draw(st.lists(st.sampled_from(names[:number]), unique=True)) if number else [])
        for number, name in enumerate(names)
    ]
    ordered = [one.name for one in order_steps("w", data.draw(st.permutations(steps)))]
    assert sorted(ordered) == sorted(names)
    for one in steps:
        assert all(ordered.index(parent) < ordered.index(one.name) for parent in one.after)


@pytest.mark.parametrize("circle", [[step("a", "a")], [step("a", "b"), step("b", "a")], [step("a", "c"), step("b", "a"), step("c", "b")]])
def test_steps_that_wait_for_each_other_are_refused_with_the_circle(circle: list[Step]) -> None:
    with pytest.raises(ConfigurationError, match="steps wait for each other") as refused:
        order_steps("w", circle)
    assert all(one.name in refused.value.problems[0] for one in circle)


def test_every_unknown_parent_is_named_with_the_step_that_was_meant() -> None:
    with pytest.raises(ConfigurationError) as refused:
        order_steps("w", [step("prices"), step("load", "pries"), step("report", "lod")])
    assert refused.value.problems == [
        '"after" in [workflows.w.steps.load]: there is no step "pries", did you mean "prices"?',
        '"after" in [workflows.w.steps.report]: there is no step "lod", did you mean "load"?',
    ]


def test_a_step_takes_the_workflows_rule_for_failures_unless_it_has_its_own() -> None:
    declared = WorkflowSettings.model_validate(
        {"on_failure": "run", "steps": {"a": {"job": "x"}, "b": {"job": "x", "after": ["a"], "on_failure": "skip"}}}
    )
    workflow = declared.compile("w", target_job)
    assert [(one.name, one.on_failure, one.require) for one in workflow.steps] == [("a", "run", "any"), ("b", "skip", "any")]


def test_steps_of_every_kind_become_jobs() -> None:
    steps = {"a": {"import": "i"}, "b": {"rollup": "r"}, "c": {"command": "cleanup"}, "d": {"job": "mine", "args": {"x": 1}}}
    workflow = WorkflowSettings.model_validate({"steps": steps}).compile("w", target_job)
    jobs = {one.name: one.job for one in workflow.steps}
    assert (jobs["a"].kind, jobs["a"].args, jobs["a"].queue) == ("import", {"import": "i"}, "imports")
    assert jobs["b"].kind == "rollup"
    assert (jobs["c"].kind, jobs["c"].queue) == ("cleanup", "maintenance")
    assert (jobs["d"].kind, jobs["d"].args) == ("mine", {"x": 1})


def test_a_target_of_no_known_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not something a schedule or step can start"):
        target_job("report", "x")
