"""References to results in a step's arguments: what is one, and what it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from ingestd.errors import InvalidInput
from ingestd.jobs.references import Reference, references, resolve

RESULTS = {"fetch": {"path": "/x", "rows": [{"id": 7}, {"id": None}], "n": 0}, "nothing": None}


def test_references_are_found_at_any_depth() -> None:
    args = {"file": {"from": "fetch", "path": "path"}, "all": [{"x": {"from": "fetch"}}, 3], "plain": {"from": "a", "to": "b"}}
    assert references(args) == [Reference("file", "fetch", "path"), Reference("all.0.x", "fetch")]


@pytest.mark.parametrize("args", [{"from": "fetch"}, {"from": "fetch", "path": "path"}, {"x": {"path": "a"}}, {"x": {"from": 3}}])
def test_what_only_looks_like_one_stays_as_it_is(args: dict[str, Any]) -> None:
    assert references(args) == []
    assert resolve(args, RESULTS) == args


@pytest.mark.parametrize(
    ("path", "value"),
    [("", RESULTS["fetch"]), ("path", "/x"), ("rows.0.id", 7), ("rows.1", {"id": None}), ("rows.1.id", None), ("n", 0)],
)
def test_a_reference_becomes_what_it_refers_to(path: str, value: Any) -> None:
    assert resolve({"deep": [{"x": {"from": "fetch", "path": path}}]}, RESULTS) == {"deep": [{"x": value}]}


@pytest.mark.parametrize(
    ("step", "path", "told"),
    [
        ("fetch", "pth", 'argument "x": the result of fetch has no "pth", it has path, rows, n'),
        ("fetch", "rows.2.id", 'argument "x": the result of fetch.rows has no "2", it is a list of 2'),
        ("fetch", "rows.-1", 'argument "x": the result of fetch.rows has no "-1", it is a list of 2'),
        ("fetch", "path.0", 'argument "x": the result of fetch.path has no "0", it is a single value'),
        ("nothing", "a", 'argument "x": the result of nothing has no "a", it is null'),
        ("other", "", 'argument "x" needs the result of step "other", which has not succeeded'),
    ],
)
def test_one_that_leads_nowhere_says_where_it_ended(step: str, path: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        resolve({"x": {"from": step, "path": path}}, RESULTS)
    assert refused.value.message == told
