"""What programs of the queue's model are made of: steps with their arguments, as often as they are of use."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.jobs.model_kit import Spec

# Queues, and how many jobs of one key run in each at the same time; 0 is one.
LANES = {"default": 0, "imports": 2, "alerts": 1}

picks = st.integers(0, 30)
nodes = st.integers(0, 1)
lanes = st.sampled_from(list(LANES))
hours = st.sampled_from([0, 0, 1, 2])
keys = st.sampled_from(["a", "a", "b"])
stale = st.sampled_from([False, False, True])
specs = st.one_of(
    st.builds(Spec, lanes, st.sampled_from([-10, 0, 0, 5]), hours, st.integers(1, 3), store=st.sampled_from([None, None, 0, 1])),
    st.builds(Spec, st.sampled_from(["imports", "imports", "alerts"]), st.sampled_from([0, 5]), hours, key=keys, strict=st.booleans()),
    st.builds(
        Spec, lanes, delay=hours, unique_key=keys, mode=st.sampled_from(["skip", "replace", "reschedule"]),
        until=st.sampled_from(["start", "finish"]), hold=st.sampled_from([0, 0, 2]), word=st.integers(0, 9),
    ),
)  # fmt: skip

# How often each is done, and with what.
STEPS: dict[str, tuple[int, dict[str, st.SearchStrategy[Any]]]] = {
    "enqueue": (6, {"spec": specs, "copies": st.integers(1, 3)}),
    "enqueue_child": (2, {"spec": specs, "number": picks}),
    "start_workflow": (1, {"queue": lanes, "after": st.sampled_from(["skip", "run"]), "key": st.sampled_from([None, None, "a"])}),
    "sweep": (8, {"node": nodes, "free": st.integers(1, 4), "answered": st.sampled_from([True, True, True, False])}),
    "claim_behind_a_cursor": (3, {"node": nodes, "lane": nodes, "free": st.integers(1, 4), "low_first": st.booleans()}),
    "claim_within_limits": (4, {"node": nodes, "lane": nodes, "free": st.integers(1, 4)}),
    "claim_a_suspect": (5, {"node": nodes, "number": picks}),
    "ack": (6, {"number": picks, "most": st.integers(1, 3), "stale": stale, "partial": st.booleans(),
                "state": st.sampled_from(["succeeded", "failed", "failed", "cancelled"])}),
    "ack_plain": (2, {"number": picks, "most": st.integers(1, 4), "stale": stale}),
    "put_back": (5, {"number": picks, "most": st.integers(1, 3), "stale": stale, "after": hours,
                     "how": st.sampled_from(["retry", "snooze", "await"])}),
    "release_a_claim_whose_answer_was_lost": (2, {"keep": st.booleans()}),
    "a_node_dies": (3, {"node": nodes, "number": st.sampled_from([0, 0, 1])}),
    "cancel": (2, {"number": picks, "force": st.booleans()}),
    "retry": (3, {"number": picks, "state": st.sampled_from(["failed", "cancelled", "retrying", "any"])}),
    "run_again": (1, {"number": picks}),
    "snooze": (1, {"number": picks, "after": hours}),
    "edit": (1, {"number": picks, "queue": st.none() | lanes, "priority": st.none() | st.integers(-1, 1),
                 "attempts": st.none() | st.integers(1, 5)}),
    "delete": (1, {"number": picks}),
    "skip_what_holds_a_key": (1, {"number": picks}),
    "pause_or_resume": (1, {"queue": lanes, "pause": st.sampled_from([True, False, False])}),
    "declare": (2, {"queue": lanes, "most": st.sampled_from([0, 0, 1, 2]), "rate": st.sampled_from([0, 0, 1, 3])}),
    "promote": (7, {}),
    "hours_pass": (3, {"passed": st.sampled_from([1, 2])}),
}  # fmt: skip
OF_JOBS = {"enqueue_child", "cancel", "retry", "run_again", "snooze", "edit", "delete"}
OF_GIVEN = {"ack", "ack_plain", "put_back"}
steps = st.sampled_from([name for name, (weight, _) in STEPS.items() for _ in range(weight)]).flatmap(
    lambda name: st.tuples(st.just(name), st.fixed_dictionaries(STEPS[name][1]))
)
