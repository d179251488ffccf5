"""The order of a workflow's steps, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.app.settings import load
from ingestd.app.targets import target_job
from ingestd.app.workflows import WorkflowSettings, unknown_undos
from ingestd.errors import ConfigurationError, InvalidInput
from ingestd.jobs.model import NewJob
from ingestd.jobs.plan import plan
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


def declared(**steps: dict[str, object]) -> WorkflowSettings:
    return WorkflowSettings.model_validate({"steps": steps})


def told(workflow: WorkflowSettings) -> list[tuple[tuple[str, ...], str]]:
    return [(fault.place, fault.problem) for fault in workflow.faults("w", {})]


def test_references_that_lead_nowhere_are_told_with_their_place_all_at_once() -> None:
    workflow = declared(
        fetch={"job": "x"},
        aside={"job": "x"},
        load={"job": "x", "after": ["fetch"], "args": {"file": {"from": "fech"}, "list": [{"from": "aside", "path": "a"}]}},
        self={"job": "x", "args": {"n": {"from": "self"}}, "undo": {"job": "y", "args": {"id": {"from": "self"}, "far": {"from": "load"}}}},
        lost={"job": "x", "after": ["lod"]},
    )
    assert told(workflow) == [
        (("lost", "after"), '"after" in [workflows.w.steps.lost]: there is no step "lod", did you mean "load"?'),
        (("load", "args"), '"args.file" in [workflows.w.steps.load]: there is no step "fech", did you mean "fetch"?'),
        (("load", "args"), '"args.list.0" in [workflows.w.steps.load]: step "aside" may not be final by then; add it to "after"'),
        (("self", "args"), '"args.n" in [workflows.w.steps.self]: a step cannot take its own result'),
        (("self", "undo", "args"), '"undo.args.far" in [workflows.w.steps.self]: step "load" may not be final by then; add it to "after"'),
    ]


def test_a_reference_may_reach_back_over_several_steps() -> None:
    workflow = declared(a={"job": "x"}, b={"job": "x", "after": ["a"]}, c={"job": "x", "after": ["b"], "args": {"n": {"from": "a"}}})
    assert told(workflow) == []


def test_an_import_in_a_run_that_may_be_taken_back_needs_an_undo() -> None:
    steps = {"load": {"import": "i"}, "send": {"job": "x", "after": ["load"], "on_failure": "compensate"}}
    ((place, problem),) = told(WorkflowSettings.model_validate({"steps": steps}))
    assert place == ("load", "import")
    assert "a load cannot be taken back by itself yet" in problem
    steps["load"]["undo"] = {"job": "unload"}
    assert told(WorkflowSettings.model_validate({"steps": steps})) == []


def test_an_undo_that_nobody_could_run_is_told_with_the_one_that_was_meant() -> None:
    workflow = declared(charge={"job": "x", "undo": {"job": "refnd"}}, other={"job": "x", "undo": {"job": "refund"}})
    assert unknown_undos({"order": workflow}, ["refund", "charge"]) == [
        '"undo" in [workflows.order.steps.charge]: none of [daemon] handlers declares the kind "refnd", did you mean "refund"?'
    ]
    assert workflow.idle_undos() == ["charge", "other"]


def test_a_plan_tells_layers_queues_and_what_a_failure_does() -> None:
    workflow = WorkflowSettings.model_validate(
        {
            "overlap": "skip",
            "steps": {
                "a": {"job": "x", "undo": {"job": "y"}},
                "b": {"job": "x", "after": ["a"], "on_failure": "compensate"},
                "c": {"import": "i", "after": ["b"], "undo": {"job": "y"}},
                "d": {"command": "cleanup", "after": ["b"], "on_failure": "run"},
            },
        }
    ).compile("w", target_job)
    planned = plan(workflow, {"x": "fast"}, busy=7)
    assert (planned["starts"], planned["busy_run"], planned["overlap"]) == ("refused", 7, "skip")
    assert [[step["step"] for step in layer] for layer in planned["layers"]] == [["a"], ["b"], ["c", "d"]]
    steps = {step["step"]: step for layer in planned["layers"] for step in layer}
    assert {name: step["queue"] for name, step in steps.items()} == {"a": "fast", "b": "fast", "c": "imports", "d": "maintenance"}
    assert steps["a"]["undo"] == {"kind": "y", "args": {}, "queue": "default"}
    assert steps["b"]["if_it_fails"] == {"skips": ["c"], "undoes": ["a"]}
    assert plan(workflow, {})["starts"] == "now"


def test_steps_are_checked_together_with_those_that_have_a_mistake_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        """
[workflows.order.steps]
a = { job = "x", after = ["c"] }
b = { job = "x", after = ["a", "nosuch"], args = { n = { from = "zz" } } }
c = { job = "x", after = ["b"], on_failure = "rum" }
d = { jobb = "x", after = ["e"] }
e = { job = "x", after = ["d"] }
f = { import = "none", after = ["d"] }
[queues.calls]
concurrency = "many"
""",
        encoding="utf-8",
    )
    with pytest.raises(ConfigurationError) as refused:
        load([file], {})
    told = [problem.partition("config.toml:")[2] for problem in refused.value.problems]
    for number, words in [
        (3, "a → b → c → a"),
        (4, 'no step "nosuch"'),
        (4, 'no step "zz"'),
        (5, '"rum" is not skip'),
        (6, 'unknown key "jobb"'),
        (7, "e → d → e"),
        (8, 'no import "none"'),
        (10, "must be a whole number"),
    ]:
        assert any(problem.startswith(f"{number}: ") and words in problem for problem in told), (number, words, told)
    assert len(told) == 8
