"""The results as a table: medians of the rounds, their spread, and how many times better ours is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import line
from benchmarks.queues.systems import OURS, SYSTEMS
from benchmarks.queues.workloads import Numbers

Rounds = list[Numbers]


@dataclass
class Results:
    """Everything one run has found.

    Args:
        found: system → workload → its numbers in each round.
        failed: system → workload → why, the last time.
        absent: system → why it could not be run.
        versions: system → package → version.
    """

    command: str
    facts: dict[str, str]
    servers: dict[str, str]
    scale: float
    rounds: int
    found: dict[str, dict[str, Rounds]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def values(self, system: str, workload: str, number: str) -> list[float]:
        """One number in each round that has it."""
        return [entry[number] for entry in self.found.get(system, {}).get(workload, []) if number in entry]

    def median(self, system: str, workload: str, number: str) -> float | None:
        """The median of the rounds; None if there is none."""
        values = self.values(system, workload, number)
        return statistics.median(values) if values else None

    def spread(self, system: str, workload: str, number: str) -> float | None:
        """Half the distance between the best and the worst round, as a share of the median."""
        values = self.values(system, workload, number)
        return (max(values) - min(values)) / 2 / statistics.median(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Column:
    """One column of the big table.

    Args:
        lower: whether less is better.
    """

    title: str
    workload: str
    number: str
    shown: str = "{:,.0f}"
    lower: bool = False


COLUMNS = (
    Column("W1 bulk enqueue, jobs/s", "W1", "rate"),
    Column("W2 drain, jobs/s", "W2", "rate"),
    Column("W3 pick-up p50, ms", "W3", "p50", "{:.2f}", lower=True),
    Column("W3 p99, ms", "W3", "p99", "{:.2f}", lower=True),
    Column("W4 one client, jobs/s", "W4", "rate"),
    Column("W4 64 clients, jobs/s", "W4", "many_rate"),
    Column("W4 64 clients p50, ms", "W4", "many_p50", "{:.2f}", lower=True),
    Column("W5 drain, 1M waiting, jobs/s", "W5", "rate"),
    Column("LT drain, transaction open, jobs/s", "LT", "rate"),
    Column("idle CPU, %", "idle", "cpu", "{:.2f}", lower=True),
    Column("idle memory, MB", "idle", "pss", "{:.0f}", lower=True),
)


@dataclass(frozen=True)
class Target:
    """One thing that ours must reach.

    Args:
        measure: its value, or None where something it needs was not measured.
        least: the value that meets it; with `at_most`, the most that does.
    """

    says: str
    measure: Callable[[Results], float | None]
    limit: float
    at_most: bool = False


def _over(workload: str, number: str, peer: str) -> Callable[[Results], float | None]:
    return lambda results: _ratio(results.median(OURS, workload, number), results.median(peer, workload, number))


def _within(top: tuple[str, str], bottom: tuple[str, str]) -> Callable[[Results], float | None]:
    return lambda results: _ratio(results.median(OURS, *top), results.median(OURS, *bottom))


def _to_best(top: tuple[str, str], redis: bool) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        peers = [system.name for system in SYSTEMS if system.name != OURS and system.queue and system.on_redis is redis]
        known = [value for name in peers if (value := results.median(name, "W3", "p50")) is not None]
        return _ratio(results.median(OURS, *top), min(known)) if known else None

    return measure


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None


TUNED = "graphile-worker tuned"
TARGETS = (
    Target("W1 over graphile-worker", _over("W1", "rate", TUNED), 2.0),
    Target("W1 over pgqueuer", _over("W1", "rate", "pgqueuer"), 2.5),
    Target("W1 over procrastinate", _over("W1", "rate", "procrastinate"), 8.0),
    Target("W2 over graphile-worker tuned", _over("W2", "rate", TUNED), 1.0),
    Target("W2 over pgqueuer", _over("W2", "rate", "pgqueuer"), 2.5),
    Target("W2 over oban", _over("W2", "rate", "oban"), 25.0),
    Target("W2 over procrastinate", _over("W2", "rate", "procrastinate"), 50.0),
    Target("W2 over taskiq + redis", _over("W2", "rate", "taskiq + redis"), 20.0),
    Target("W2 over celery + redis", _over("W2", "rate", "celery + redis"), 40.0),
    Target("W2 over the pgbench floor", _within(("W2", "rate"), ("floor", "rate")), 0.7),
    Target("W3 p50 to that of the best Postgres peer", _to_best(("W3", "p50"), redis=False), 0.6, at_most=True),
    Target("W3 p50 in the daemon's process to that of the best Redis peer", _to_best(("W3in", "p50"), redis=True), 1.0, at_most=True),
    Target("W3 p99, ms", lambda results: results.median(OURS, "W3", "p99"), 5.0, at_most=True),
    Target("W4 one client over pgqueuer", _over("W4", "rate", "pgqueuer"), 1.3),
    Target("W4 64 clients over the same on connections of their own", _within(("W4", "many_rate"), ("W4apart", "many_rate")), 10.0),
    Target("W4 64 clients p50, ms", lambda results: results.median(OURS, "W4", "many_p50"), 2.0, at_most=True),
    Target("W5 over W2, both to the last function", _within(("W5", "rate"), ("W2", "last_rate")), 0.85),
    Target("LT over W2", _within(("LT", "rate"), ("W2", "rate")), 0.9),
    Target("urgent pick-up p99 in LT, ms", lambda results: results.median(OURS, "LT", "urgent_p99"), 50.0, at_most=True),
    Target("idle CPU, % of a core", lambda results: results.median(OURS, "idle", "cpu"), 1.0, at_most=True),
    Target("memory with 100,000 jobs open, MB", lambda results: results.median(OURS, "idle", "pss"), 150.0, at_most=True),
)


def markdown(results: Results) -> str:
    """The whole report."""
    medians = (
        f"Medians of {results.rounds} interleaved round{'s' if results.rounds > 1 else ''} (± half the range); in brackets how many "
        "times better ingestd is. Counted after the acknowledgement is committed, except on Redis."
    )
    parts = [
        "# Queues, side by side in one run",
        f"`{results.command}`",
        line(results.facts) + "; " + ", ".join(f"{name} {version}" for name, version in results.servers.items()) + ".",
        medians,
        *_small_print(results),
        _big_table(results),
        _targets(results),
        _inner(results),
        _versions(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _small_print(results: Results) -> list[str]:
    said = []
    if results.scale != 1:
        said.append(f"**Scale {results.scale:g}: this run shows that everything works, not how fast it is. Do not quote it.**")
    said += [f"- {name} is absent: {why}" for name, why in results.absent.items()]
    for name, failures in results.failed.items():
        said += [f"- {name}, {workload} failed: {why[:400]}" for workload, why in failures.items()]
    for name, workloads in results.found.items():
        cut = [workload for workload, rounds in workloads.items() if any(entry.get("cut") for entry in rounds)]
        said += [f"- {name}, {workload}: cut off at the time limit; the rate is of what was done until then" for workload in cut]
    return ["\n".join(said)] if said else []


def _big_table(results: Results) -> str:
    rows = []
    for system in SYSTEMS:
        if system.name in results.found:
            cells = [_cell(results, system.name, column) for column in COLUMNS]
            rows.append([f"**{system.name}**" if system.name == OURS else system.name, *cells, system.keeps])
    return _table(["system", *[column.title for column in COLUMNS], "keeps history"], rows)


def _cell(results: Results, system: str, column: Column) -> str:
    value = results.median(system, column.workload, column.number)
    if value is None:
        return "-"
    text = column.shown.format(value)
    spread = results.spread(system, column.workload, column.number)
    if spread is not None:
        text += f" ±{100 * spread:.0f} %"
    ours = results.median(OURS, column.workload, column.number)
    if system != OURS and ours:
        better = _ratio(value, ours) if column.lower else _ratio(ours, value)
        text += f" ({better:.3g}x)" if better is not None else ""
    return text


def _targets(results: Results) -> str:
    rows = []
    for target in TARGETS:
        value = target.measure(results)
        if value is not None:
            met = value <= target.limit if target.at_most else value >= target.limit
            rows.append([target.says, f"{'≤' if target.at_most else '≥'} {target.limit:g}", f"{value:.3g}", "met" if met else "**missed**"])
    return "## Targets\n\n" + _table(["what", "target", "measured", ""], rows) if rows else ""


def _inner(results: Results) -> str:
    """Ours alone: numbers that no peer has."""
    wanted = (
        ("W2, 2 worker processes, jobs/s", "W2x2", "rate", "{:,.0f}"),
        ("W2, 4 worker processes, jobs/s", "W2x4", "rate", "{:,.0f}"),
        ("W2 to the last function, jobs/s", "W2", "last_rate", "{:,.0f}"),
        ("pgbench floor, jobs/s", "floor", "rate", "{:,.0f}"),
        ("W3 p50 when enqueued inside the daemon, ms", "W3in", "p50", "{:.2f}"),
        ("W3 p99 when enqueued inside the daemon, ms", "W3in", "p99", "{:.2f}"),
        ("W4, 64 clients on 8 connections of their own, jobs/s", "W4apart", "many_rate", "{:,.0f}"),
        ("W4, the same, p50 ms", "W4apart", "many_p50", "{:.2f}"),
        ("urgent pick-up in LT, p50 ms", "LT", "urgent_p50", "{:.2f}"),
        ("urgent pick-up in LT, p99 ms", "LT", "urgent_p99", "{:.2f}"),
    )
    rows = [
        [says, shown.format(value) + (f" ±{100 * spread:.0f} %" if spread is not None else "")]
        for says, workload, number, shown in wanted
        if (value := results.median(OURS, workload, number)) is not None
        for spread in [results.spread(OURS, workload, number)]
    ]
    return "## ingestd alone\n\n" + _table(["", ""], rows) if rows else ""


def _versions(results: Results) -> str:
    named = ("python", "node", "asyncpg", "psycopg", "pg", "redis", "taskiq-redis", "uvloop")
    rows = []
    for system in SYSTEMS:
        known = results.versions.get(system.name)
        if known and system.peer:
            driver = ", ".join(f"{name} {known[name]}" for name in named if name in known and name != system.peer)
            rows.append([system.name, known.get(system.peer, "?"), driver, str(system.jobs), str(system.concurrency)])
    head = ["system", "version", "on", "jobs at scale 1", "concurrency or batch"]
    return "## Versions and settings\n\n" + _table(head, rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def document(results: Results) -> Mapping[str, Any]:
    """Everything, for JSON: each round's numbers included."""
    return {
        "command": results.command,
        "machine": results.facts,
        "servers": results.servers,
        "scale": results.scale,
        "rounds": results.rounds,
        "results": results.found,
        "failed": results.failed,
        "absent": results.absent,
        "versions": results.versions,
        "targets": [
            {"what": target.says, "limit": target.limit, "at_most": target.at_most, "measured": target.measure(results)}
            for target in TARGETS
        ],
    }
