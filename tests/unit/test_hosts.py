"""Which servers a database URL names."""

from __future__ import annotations

import pytest

from ingestd.postgres.hosts import places
from ingestd.postgres.session import describe


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p,w@a,b:2/db", [("a", 5432), ("b", 2)]),
        ("postgresql://u@/db?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql://u@/db?host=a,b&port=7", [("a", 7), ("b", 7)]),
        ("postgresql://u@/db?host=/run/a", [("/run/a", 5432)]),
        ("postgresql://u@%2Frun%2Fa:9/db", [("/run/a", 9)]),
        ("postgresql://[::1]:33,h/db", [("::1", 33), ("h", 5432)]),
        ("postgresql:///db", [("", 5432)]),
    ],
)
def test_every_server_that_a_url_names_is_found(dsn: str, expected: list[tuple[str, int]]) -> None:
    assert places(dsn) == expected


def test_people_are_shown_the_servers_and_no_password() -> None:
    assert describe("postgresql://u:secret@a,b:2/db") == "a:5432, b:2/db"
