"""`bench`: how fast the queue is on the user's own machine and Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import typer
from rich.table import Table

from ingestd.app.database import Location, locate
from ingestd.cli.console import table
from ingestd.cli.shell import Shell, complain
from ingestd.errors import AlreadyRunning, Refused
from ingestd.lab import store
from ingestd.lab.bench import Plan, measure
from ingestd.postgres import locks, scratch
from ingestd.postgres.migrate import migrate, set_up
from ingestd.postgres.session import connect

PREFIX = "ingestd_bench"
LOCK = "bench"


def add_to(app: typer.Typer) -> None:
    """Enter the command."""
    usual = Plan()

    @app.command()
    def bench(
        ctx: typer.Context,
        jobs: int = typer.Option(usual.jobs, "--jobs", min=100, max=10_000_000, metavar="N", help="Jobs to enqueue many at a time."),
        seconds: float = typer.Option(usual.seconds, "--seconds", min=0.2, max=600, help="How long each of the timed parts takes."),
        callers: int = typer.Option(usual.callers, "--callers", min=1, max=1000, metavar="N", help="Who enqueue one by one, at once."),
        database_url: str = typer.Option("", "--database-url", metavar="URL", help="Measure this server, not the configured one."),
        in_place: bool = typer.Option(False, "--in-place", help="In this very database, in a queue of its own."),
    ) -> None:
        """Measure the queue on this machine and this Postgres.

        In a database that is made for it and dropped afterwards; real jobs are not touched, but they share the machine.
        """
        shell: Shell = ctx.obj
        if database_url:
            shell = replace(shell, environ={**shell.environ, "INGESTD_DATABASE__URL": database_url, "INGESTD_DATABASE__DIRECT_URL": ""})
        shell.run(_bench(shell, Plan(jobs, seconds, callers), in_place))


async def _bench(shell: Shell, plan: Plan, in_place: bool) -> None:
    settings = shell.settings()
    async with locate(settings, shell.report) as location, _here(location) if in_place else _elsewhere(location) as url:
        found = await measure(url, plan, shell.report)
    if found["server"]["fsync"] == "off" or found["server"]["synchronous_commit"] == "off":
        complain("this server may lose what it has committed (fsync or synchronous_commit is off): the numbers are those of memory")
    shell.answer(found, _table(found))


@asynccontextmanager
async def _elsewhere(location: Location) -> AsyncIterator[str]:
    """A database to throw away, beside the configured one."""
    conn = await connect(location.direct_dsn, application_name="ingestd:bench")
    try:
        if not await scratch.may_create(conn):
            raise Refused(
                "this role may not make a database to measure in",
                hint="grant it CREATEDB, or add --in-place: then a queue `ingestd_bench` of the configured database is used and emptied",
            )
        await scratch.drop_left(conn, PREFIX)
    finally:
        await conn.close(timeout=5)
    async with scratch.scratch(location.direct_dsn, PREFIX) as name:
        url = scratch.with_database(location.direct_dsn, name)
        await _migrate(url)
        yield url


@asynccontextmanager
async def _here(location: Location) -> AsyncIterator[str]:
    """The configured database, from which everything of ours is taken away before and after."""
    conn = await connect(location.direct_dsn, application_name="ingestd:bench")
    try:
        await set_up(conn)
        async with locks.alone(conn, LOCK) as mine:
            if not mine:
                raise AlreadyRunning("another bench runs in this database")
            await store.remove(conn)
            try:
                yield location.direct_dsn
            finally:
                await store.remove(conn)
    finally:
        await conn.close(timeout=5)


async def _migrate(url: str) -> None:
    conn = await connect(url, application_name="ingestd:migrate")
    try:
        await migrate(conn)
    finally:
        await conn.close(timeout=5)


def _table(found: dict[str, Any]) -> Table | str:
    floor, drain, pickup, ratio = found["floor"], found["drain"], found["pickup"], found["ratios"]
    one, callers = found["enqueue_one"], found["enqueue_callers"]
    single, many = (f"p50 {part['p50_ms']:.2f} ms, p99 {part['p99_ms']:.2f} ms" for part in (one, callers))
    rows: list[list[Any]] = [
        ["plain transactions, 1 session", _rate(floor["one"]["per_s"]), f"each {floor['one']['p50_ms']:.2f} ms"],
        [f"plain transactions, {floor['several']['sessions']} sessions", _rate(floor["several"]["per_s"]), "the floor of this server"],
        ["enqueue_many, 1,000 a call", _rate(found["enqueue_many"]["per_s"]), f"{ratio['enqueue_many_per_transaction']:.1f} x the floor"],
        ["enqueue, 1 caller", _rate(one["per_s"]), single],
        [
            f"enqueue, {callers['callers']} callers",
            _rate(callers["per_s"]),
            many,
        ],
        ["drain, 1 process, acked, history kept", _rate(drain["per_s"]), f"{ratio['drain_per_transaction']:.1f} x the floor"],
        ["pick-up by an idle worker", f"{pickup['p50_ms']:.2f} ms", f"p99 {pickup['p99_ms']:.2f} ms"],
    ]
    server, machine = found["server"], found["machine"]
    title = (
        f"Postgres {server['version']}, synchronous_commit {server['synchronous_commit']}, fsync {server['fsync']};"
        f" {machine['cores']} cores, load {machine['load']} before"
    )
    return table(["measured", "result", ""], rows, title=title)


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}/s"
