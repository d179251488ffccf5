"""A request's body says what it means, or is refused: nothing of it is guessed, rounded or passed over."""

from __future__ import annotations

import pytest

from ingestd.admin.api.bulk import BulkFilter
from ingestd.admin.api.jobs import When
from ingestd.admin.bodies import check_unambiguous
from ingestd.admin.problems import InvalidBody
from ingestd.admin.shapes import parse
from ingestd.errors import InvalidInput


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"action": "delete", "filter": {"id": 1}, "filter": {"kind": "x"}}', 'member "filter" is given twice'),
        (b'{"args": {"n": [{"a": 1, "a": 1}]}}', 'member "a" is given twice'),
        (b'{"args": {"n": 18446744073709551616}}', "18446744073709551616 has more than 64 bits"),
        (b'{"args": [-9223372036854775809]}', "more than 64 bits"),
    ],
)
def test_what_would_silently_become_something_else_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        check_unambiguous(raw)


def test_what_can_be_kept_as_it_is_may_come() -> None:
    check_unambiguous(b'{"a": 18446744073709551615, "b": -9223372036854775808, "c": [{"a": 1e300}, {"a": 0.1}], "d": {"a": null}}')


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_moment_at_the_end_of_the_calendar_is_refused(moment: str) -> None:
    """Postgres cannot take the one, and a page in another time zone cannot show the other."""
    with pytest.raises(InvalidBody, match="run_at: must be in the years 2 to 9998"):
        parse(When, {"run_at": moment})


@pytest.mark.parametrize(
    ("given", "pointer", "said"),
    [
        ({"kind": "x", "id": []}, "/id", "id: is an empty list: leave it out if you mean any"),
        ({"kind": "x", "state": []}, "/state", "empty list"),
        ({"id": ""}, "/id", "must be a word"),
        ({"kind": "", "state": "failed"}, "/kind", "kind: must have at least 1 character"),
        ({"id": [True]}, "/id", "must be a word"),
        ({"run": 1.5}, "/run", "must be a word"),
        ({"id": list(range(10_001))}, "/id", "takes at most 10,000 ids"),
    ],
)
def test_a_filter_that_chooses_nothing_never_means_all(given: object, pointer: str, said: str) -> None:
    with pytest.raises(InvalidBody, match=said) as caught:
        parse(BulkFilter, given)  # type: ignore[arg-type]
    assert caught.value.problems[0][0] == pointer


def test_ids_come_as_numbers_strings_or_both() -> None:
    which = parse(BulkFilter, {"id": ["1", 2], "state": ["failed", "cancelled"], "run": 3, "parent": "4"}).filter()
    assert (which.ids, which.workflow_run, which.parent_id) == ((1, 2), 3, 4)
