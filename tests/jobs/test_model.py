"""The queue's statements against a model: random programs of everything that may happen to jobs, compared after every step.

A step is an enqueue, a claim of one of two nodes, an ack (also with a claim that is stale), a retry, a cancel, a death, a pass of the
promoter and so on. After each, every job must be where the model has it, with the same state, attempts and crashes.

`INGESTD_TEST_MODEL_PROGRAMS` is how many programs are tried, 25 unless it says so (a thorough look: 2000), of
`INGESTD_TEST_MODEL_STEPS` steps each, otherwise 60. A failure prints the shortest program that hypothesis found, and a line
`@reproduce_failure(…)`: put above `class Programs` in model_steps, that runs it again; so does a second run of the test.

That the model would notice is shown by mutants: statements without one of their safeguards. The first of them are tried always, the others
where more programs than usual are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from ingestd.jobs.store import ack, claim, history, limits, promote, rescue
from tests.jobs.model_lab import Lab
from tests.jobs.model_steps import LONE_CRASHES, Programs

USUAL = 25
PROGRAMS = int(os.environ.get("INGESTD_TEST_MODEL_PROGRAMS", USUAL))
STEPS = int(os.environ.get("INGESTD_TEST_MODEL_STEPS", "60"))
FENCE = " and j.claim = r.claim"
# Whose statement, its name, what is taken out of it, and what stands there then.
MUTANTS = {
    "a stale ack is accepted": (ack, "ACK", FENCE, ""),
    "a stale plain ack is accepted": (ack, "ACK_PLAIN", FENCE, ""),
    "a stale put-back is accepted": (ack, "PUT_BACK", FENCE, ""),
    "what was asked to stop goes back into the queue": (ack, "PUT_BACK", " and j.cancel_asked_at is null", ""),
    "a sweep takes what is blocked": (claim, "SWEEP", "parked = 0", "true"),
    "a sweep takes suspects along": (claim, "SWEEP", "crashes = 0", "true"),
    "a claim behind the cursor takes from limited queues": (
        claim,
        "CLAIM",
        "not (select limited from ingestd.queue where id = $3)",
        "true",
    ),
    "what runs is not counted": (limits, "ROOM", "j.claim is not null", "false"),
    "a paused queue has room": (limits, "ROOM", "q.paused_at is null", "true"),
    "what was started is not remembered": (limits, "SPEND", "e.at + q.period > to_timestamp(moment)", "false"),
    "a release gives back what the node kept": (claim, "RELEASE_CLAIM", "not id = any ($3::bigint[])", "$3::bigint[] is not null"),
    "a crash is not counted": (rescue, "RESCUE", "j.crashes + judged.crashed::int", "j.crashes"),
    "a rescue spends an attempt": (rescue, "RESCUE", "attempt = greatest(j.attempt - 1, 0)", "attempt = j.attempt"),
    "a quarantined job is not counted": (rescue, "QUARANTINE", "from gone group by", "from gone where false group by"),
    "a cancel ends what runs": (history, "END", "(claim is null or $4)", "$4 is not null"),
    "a retried job has no attempt left": (history, "REVIVE", "greatest(max_attempts, attempt + 1)", "max_attempts"),
    "a retried step does not wait for others": (history, "REVIVE", "p.state in ('blocked', 'open')", "false"),
    "a held key goes on": (promote, "KEYS", "not exists (select from ingestd.key_hold k where k.key = w.key)", "true"),
    "a strict job shares its key": (promote, "KEYS", "bool_or(c.key_strict) over (order by c.id)", "c.key_strict"),
    "a retry holds up the jobs behind it": (promote, "REPARK", "not o.key_strict", "false"),
    "a parent does not wait for its children": (promote, "CHILDREN", "c.parent_id = p.id", "false"),
}
TRIED = list(MUTANTS) if PROGRAMS > USUAL else list(MUTANTS)[:3]


@pytest.fixture
def lab(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(rescue, "QUARANTINE_AFTER", LONE_CRASHES)
    made = Lab(dsn)
    yield made
    made.close()


def how(programs: int) -> settings:
    """Settings to try so many programs."""
    checks = list(HealthCheck)
    return settings(max_examples=programs, stateful_step_count=STEPS, deadline=None, print_blob=True, report_multiple_bugs=False,
                    suppress_health_check=checks)  # fmt: skip


def test_whatever_happens_to_jobs_they_are_where_the_model_has_them(lab: Lab) -> None:
    run_state_machine_as_test(type("Programs", (Programs,), {"lab": lab}), settings=how(PROGRAMS))


@pytest.mark.parametrize("mutant", TRIED)
def test_the_model_notices_when(mutant: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, safeguard, instead = MUTANTS[mutant]
    statement = getattr(module, name)
    assert safeguard in statement
    monkeypatch.setattr(module, name, statement.replace(safeguard, instead))
    quick = settings(how(500), phases=[Phase.generate], derandomize=True, database=None, print_blob=False)
    with pytest.raises((AssertionError, asyncpg.PostgresError)):
        run_state_machine_as_test(type("Programs", (Programs,), {"lab": lab}), settings=quick)
