"""`import`, `imports` and `loads`, with no daemon to help."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.kit import Cli, fetchval, finish
from tests.support import eventually

CONFIGURATION = """
[imports.readings]
source = "inbox/*.csv"
table = "public.readings"
mode = "upsert"
key = ["id"]
[imports.byhand]
source = "upload"
table = "public.byhand"
max_reject_ratio = 1.0
"""


@pytest.fixture(autouse=True)
def declared(cli: Cli) -> None:
    cli.configure(CONFIGURATION)


def file(folder: Path, name: str, *rows: str) -> str:
    """A file with a header and these rows."""
    path = folder / name
    path.write_text("\n".join(["id,at,kwh", *rows, ""]), encoding="utf-8")
    return str(path)


def test_a_file_is_loaded_and_its_counts_are_told(cli: Cli, dsn: str) -> None:
    path = file(cli.folder, "r.csv", "1,2024-01-01,1.5", "2,2024-01-01,2.5")
    ran = cli("import", "readings", path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "load 1: read 2 inserted 2 updated 0 unchanged 0 rejected 0 superseded 0 status succeeded\n"
    assert fetchval(dsn, "select sum(kwh) from readings") == 4
    again = cli("import", "readings", path)
    assert again.out.endswith("status skipped (already loaded by load 1)\n")
    file(cli.folder, "r.csv", "1,2024-01-01,1.5", "2,2024-01-01,9")
    assert "read 2 inserted 0 updated 1 unchanged 1 rejected 0" in cli("import", "readings", path).out


def test_what_is_kept_with_a_load_is_shown_with_it(cli: Cli) -> None:
    path = file(cli.folder, "r.csv", "1,2024-01-01,1.5")
    done = cli("import", "byhand", path, "--tag", "a", "--notes", "n", "--metadata", '{"id": 7}', "--json").json
    assert (done["id"], done["tags"], done["notes"], done["metadata"]) == ("1", ["a"], "n", {"id": 7})
    assert "byhand" in cli("loads", "show", "1").out
    assert [load["id"] for load in cli("loads", "list", "--import", "byhand", "--json").json["items"]] == ["1"]
    assert cli("loads", "list", "--import", "readings").out == "no loads\n"
    (byhand,) = [one for one in cli("imports", "list", "--json").json["items"] if one["name"] == "byhand"]
    assert (byhand["last_status"], byhand["last_file"]) == ("succeeded", "r.csv")


def test_rejects_are_shown_as_data_whatever_they_hold(cli: Cli) -> None:
    file(cli.folder, "good.csv", "1,2024-01-01,1")
    cli("import", "byhand", f"{cli.folder}/good.csv")
    ran = cli("import", "byhand", file(cli.folder, "bad.csv", "1,2024-01-01,\x1b[31mred", "2,never,2", "3,2024-01-01,3"))
    assert ran.code == 0
    assert "read 3 inserted 1 updated 0 unchanged 0 rejected 2 superseded 0 status partial" in ran.out
    shown = cli("loads", "rejects", "2").out
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown
    rejects = cli("loads", "rejects", "2", "--json").json["items"]
    assert [(row["record"], row["column"]) for row in rejects] == [(1, "kwh"), (2, "at")]
    assert cli("loads", "rejects", "1").out == "no rejects\n"


def test_a_failed_load_tells_why_and_the_next_one_waits_for_a_decision(cli: Cli, dsn: str) -> None:
    good = file(cli.folder, "good.csv", "1,2024-01-01,1")
    assert cli("import", "readings", good).code == 0
    failed = cli("import", "readings", file(cli.folder, "bad.csv", "2,never,2"))
    assert failed.code == 1
    assert "rejected 1 superseded 0 status failed" in failed.out
    assert "more than max_reject_ratio 0.05 allows" in failed.err
    waits = cli("import", "readings", file(cli.folder, "next.csv", "3,2024-01-01,3"))
    assert waits.code == 75
    assert "load 3 waits behind load 2, which failed" in waits.problem
    assert "ingestd loads retry 2, or ingestd loads skip 2" in waits.problem
    assert cli("loads", "skip", "2").code == 0
    assert cli("import", "readings", file(cli.folder, "last.csv", "4,2024-01-01,4")).code == 0
    assert fetchval(dsn, "select array_agg(id::int order by id) from readings") == [1, 3, 4]
    assert cli("loads", "retry", "1").code == 75
    assert "load 1 is succeeded: only a failed load can be retried" in cli("loads", "retry", "1").problem


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["import", "redings", "FILE"], 66, 'there is no import "redings", did you mean "readings"?'),
        (["import", "readings", "nowhere.csv"], 66, "nowhere.csv is not there"),
        (["import", "readings", "/"], 77, "/ is not a regular file"),
        (["imports", "trigger", "redings"], 66, 'did you mean "readings"?'),
        (["loads", "list", "--import", "redings"], 66, 'did you mean "readings"?'),
        (["loads", "show", "7"], 66, "there is no load 7"),
        (["loads", "rejects", "7"], 66, "there is no load 7"),
        (["loads", "retry", "7"], 66, "there is no load 7"),
        (["loads", "skip", "7"], 66, "there is no load 7"),
    ],
)
def test_what_is_not_there_is_one_line(cli: Cli, words: list[str], code: int, said: str) -> None:
    path = file(cli.folder, "r.csv", "1,2024-01-01,1")
    ran = cli(*[path if word == "FILE" else word for word in words])
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.problem


def test_a_trigger_waits_for_a_daemon_and_says_so(cli: Cli, dsn: str) -> None:
    ran = cli("imports", "trigger", "readings", "--json")
    assert "no daemon works on this database now" in ran.problem
    assert fetchval(dsn, "select kind from ingestd.job where id = $1", int(ran.json["job_id"])) == "import"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_an_import_that_is_ended_in_the_middle_leaves_nothing_half_done(
    cli: Cli, dsn: str, number: signal.Signals, code: int
) -> None:
    import asyncio

    from ingestd.postgres.session import connect

    big = cli.folder / "big.csv"
    big.write_text("id,at,kwh\n" + "".join(f"{number},2024-01-01,{number}.5\n" for number in range(100_000)))
    process = cli.start("import", "readings", str(big))
    conn = await connect(dsn)
    try:

        async def works() -> bool:
            return await conn.fetchval("select exists (select from ingestd.job where kind = 'load' and claim is not null)")  # type: ignore[no-any-return]

        await eventually(works)
        process.send_signal(number)
        ran = await asyncio.to_thread(finish, process)
        assert ran.code in (code, 0)
        if number != signal.SIGKILL and ran.code == code:
            assert "load 1 stays in the queue" in ran.err

        async def whole() -> int:
            there = await conn.fetchval("select to_regclass('public.readings') is not null")
            return await conn.fetchval("select count(*) from readings") if there else 0  # type: ignore[no-any-return]

        assert await whole() in (0, 100_000)
        again = await asyncio.to_thread(cli.process, "import", "readings", str(big))
        assert again.code == 0
        assert await whole() == 100_000
        assert await conn.fetchval("select count(*) from ingestd.job") == 0
        rows = await conn.fetch("select status, inserted from ingestd.load order by id")
        assert [tuple(row) for row in rows] == [("succeeded", 100_000), ("skipped", 0)]
    finally:
        await conn.close()
