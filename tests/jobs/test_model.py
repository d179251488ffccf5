"""The queue's statements against a model: random programs of everything that may happen to jobs, compared after every step.

A step is an enqueue, a claim of one of two nodes, an ack (also with a claim that is stale), a retry, a cancel, a death, a pass of the
promoter and so on. After each, every job must be where the model has it, with the same state, attempts and crashes.

`INGESTD_TEST_MODEL_PROGRAMS` is how many programs are tried, 25 unless it says so (a thorough look: 2000), of
`INGESTD_TEST_MODEL_STEPS` steps each, otherwise 60. A failure prints the shortest program that hypothesis found, and a line
`@reproduce_failure(…)`: put above `class Programs`, that runs it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ingestd.jobs.store import rescue
from tests.jobs.model_steps import LONE_CRASHES, Lab, Programs

PROGRAMS = int(os.environ.get("INGESTD_TEST_MODEL_PROGRAMS", "25"))
STEPS = int(os.environ.get("INGESTD_TEST_MODEL_STEPS", "60"))


@pytest.fixture
def lab(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(rescue, "QUARANTINE_AFTER", LONE_CRASHES)
    made = Lab(dsn)
    yield made
    made.close()


def try_programs(lab: Lab, programs: int = PROGRAMS) -> None:
    """Run random programs."""
    machine = type("Programs", (Programs,), {"lab": lab})
    how = settings(
        max_examples=programs,
        stateful_step_count=STEPS,
        deadline=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=how)


def test_whatever_happens_to_jobs_they_are_where_the_model_has_them(lab: Lab) -> None:
    try_programs(lab)
