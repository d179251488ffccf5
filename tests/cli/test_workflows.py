"""`workflows` without a daemon, and what `check` says of declarations that cannot work."""

from __future__ import annotations

import asyncpg

from tests.cli.kit import Cli, ask, fetchval

CONFIGURATION = """
[daemon]
handlers = ["myjobs"]
[workflows.order]
on_failure = "compensate"
overlap = "skip"
[workflows.order.steps]
pay = { job = "greet", undo = { job = "fail" } }
send = { job = "greet", args = { name = { from = "pay", path = "greeted" } }, after = ["pay"] }
"""
WRONG = """
[workflows.order]
on_failure = "compensat"
[workflows.circle.steps.a]
job = "greet"
after = ["b"]
[workflows.circle.steps.b]
job = "greet"
after = ["a", "c"]
[workflows.order.steps.pay]
job = "greet"
undo = { jop = "fail" }
[workflows.lost.steps.load]
import = "readings"
on_failure = "compensate"
[workflows.lost.steps.send]
job = "greet"
args = { name = { from = "lod" } }
[imports.readings]
source = "inbox/*.csv"
table = "public.readings"
"""


def test_a_dry_run_shows_the_plan_and_starts_nothing(cli: Cli, dsn: str) -> None:
    cli.configure(CONFIGURATION)
    shown = cli("workflows", "start", "order", "--dry-run")
    assert shown.out.splitlines()[0] == "order: would start now"
    assert shown.out.splitlines()[3].split() == ["2", "send", "greet", "default", "pay", "takes", "back", "pay", "-"]
    assert [len(layer) for layer in cli("workflows", "start", "order", "--dry-run", "--json").json["layers"]] == [1, 1]
    assert fetchval(dsn, "select count(*) from ingestd.workflow_run") == 0
    assert 'did you mean "order"?' in cli("workflows", "start", "ordr", "--dry-run").problem


def test_a_run_is_refused_shown_cancelled_and_retried(cli: Cli, dsn: str) -> None:
    cli.configure(CONFIGURATION)
    run = cli("workflows", "start", "order", "--json").json["run"]
    refused = cli("workflows", "start", "order")
    assert (refused.code, refused.out) == (75, "")
    assert f"still busy with run {run}" in refused.problem
    assert f"would be refused now, run {run} is open" in cli("workflows", "start", "order", "--dry-run").out
    assert cli("workflows", "retry", run).code == 75
    assert cli("workflows", "cancel", run).out == f"run {run} is being cancelled\n"

    async def promote(conn: asyncpg.Connection) -> None:
        from ingestd.jobs.promoter import promote_once

        await promote_once(conn)

    ask(dsn, promote)
    shown = cli("workflows", "show", run).out.splitlines()
    assert shown[0].startswith(f"order run {run}: cancelled after ")
    assert [line.split()[0] for line in shown[2:]] == ["pay", "send"]
    assert cli("workflows", "cancel", run).code == 75
    assert 'has no step "snd", did you mean "send"?' in cli("workflows", "retry", run, "--step", "snd").problem
    assert cli("workflows", "retry", run, "--json").json == {"run": run, "state": "running", "steps": ["pay", "send"]}
    assert cli("workflows", "cancel", run, "--undo").out == f"run {run} is being taken back\n"
    assert fetchval(dsn, "select array_agg(action order by id) from ingestd.audit") == ["start", "cancel", "retry", "cancel"]
    assert cli("workflows", "retry", "99").code == cli("workflows", "cancel", "99").code == 66


def test_check_tells_every_mistake_of_workflows_with_its_place(bare: Cli) -> None:
    bare.configure(WRONG)
    ran = bare("check")
    assert ran.code == 78
    warned, wrong = ([line for line in ran.err.splitlines() if ("warning: " in line) is told] for told in (True, False))
    assert len(warned) == 3, "the jobs that none of no handlers declares are warned of in the same breath"
    told = [line.partition("config.toml:")[2].removesuffix(': give the step an undo = { job = "…" }') for line in wrong]
    assert told == [
        '3: "on_failure" in [workflows.order]: "compensat" is not skip, run or compensate, did you mean "compensate"?',
        "6: [workflows.circle.steps]: steps wait for each other: a → b → a",
        '9: "after" in [workflows.circle.steps.b]: there is no step "c"',
        '12: missing key "job" in [workflows.order.steps.pay.undo]',
        '12: unknown key "jop" in [workflows.order.steps.pay.undo], did you mean "job"?',
        "14: [workflows.lost.steps.load]: the run may be compensated, and a load cannot be taken back by itself yet",
        '18: "args.name" in [workflows.lost.steps.send]: there is no step "lod", did you mean "load"?',
    ]


def test_check_refuses_an_undo_that_no_handler_declares(cli: Cli) -> None:
    cli.configure(CONFIGURATION.replace('{ job = "fail" }', '{ job = "fial" }'))
    ran = cli.process("check")
    assert ran.code == 78
    assert '"undo" in [workflows.order.steps.pay]: none of [daemon] handlers declares the kind "fial", did you mean "fail"?' in ran.err
