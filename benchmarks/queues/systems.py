"""The systems: how each is started, how much it is given to do, and where its open jobs stand."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.setup import Installed

PEERS = Path(__file__).parents[1] / "peers"
OURS = "ingestd"


@dataclass(frozen=True)
class System:
    """One system as it is measured.

    Args:
        name: as in the table and on the command line.
        peer: what `benchmarks.setup` installs for it; empty: nothing.
        script: its driver and worker, in `benchmarks/peers`.
        jobs: how many it is given at full scale to enqueue in bulk and to drain; sized to take seconds, not minutes.
        concurrency: handed to its worker; what it means there is in its script.
        workloads: which are measured.
        keeps: what is left of a finished job.
        table: its jobs, for filling it with a million of them; empty: not on Postgres.
        open_rows: a condition on that table that is true of jobs not yet finished and acknowledged.
        extra: more environment of its worker.
        queue: False: the least that Postgres can do, to compare with; no peer that anything is measured against.
    """

    name: str
    peer: str
    script: str
    jobs: int
    concurrency: int
    workloads: frozenset[str]
    keeps: str
    table: str = ""
    open_rows: str = "true"
    extra: Mapping[str, str] = field(default_factory=dict)
    queue: bool = True

    @property
    def on_redis(self) -> bool:
        """Whether it needs Redis instead of Postgres."""
        return not self.table

    def command(self, installed: Installed | None, role: str) -> list[str]:
        """How to start its driver ("drive") or worker ("work")."""
        interpreter = installed.interpreter if installed else sys.executable
        return [str(interpreter), str(PEERS / self.script), role]

    def environment(self, installed: Installed | None, **more: str) -> dict[str, str]:
        """What its processes see: as little of ours as can be."""
        names = ("PATH", "HOME", "LANG", "TZ") if installed else ("PATH", "HOME", "LANG", "TZ", "PYTHONPATH")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        modules = str(installed.folder) if installed else ""
        return kept | {"BENCH_CONCURRENCY": str(self.concurrency), "BENCH_MODULES": modules} | dict(self.extra) | more


ON_POSTGRES = frozenset({"W1", "W2", "W3", "W4", "W5", "LT", "idle"})
ON_REDIS = frozenset({"W1", "W2", "W3", "W4", "idle"})

SYSTEMS = (
    System(
        OURS,
        "",
        "peer_ours.py",
        jobs=300_000,
        concurrency=200,
        workloads=ON_POSTGRES | {"W2x2", "W2x4", "W3in", "W4apart", "floor", "urgent"},
        keeps="full row",
        table="ingestd.job",
    ),
    System(
        "graphile-worker tuned",
        "graphile-worker",
        "peer_graphile.mjs",
        jobs=300_000,
        concurrency=10,
        workloads=ON_POSTGRES,
        keeps="no",
        table="graphile_worker._private_jobs",
        extra={"BENCH_LOCAL_QUEUE": "2000"},
    ),
    System(
        "graphile-worker default",
        "graphile-worker",
        "peer_graphile.mjs",
        jobs=20_000,
        concurrency=10,
        workloads=frozenset({"W2", "W3"}),
        keeps="no",
        table="graphile_worker._private_jobs",
    ),
    System(
        "pgqueuer",
        "pgqueuer",
        "peer_pgqueuer.py",
        jobs=100_000,
        concurrency=1000,
        workloads=ON_POSTGRES,
        keeps="log rows",
        table="pgqueuer",
    ),
    System(
        "oban",
        "oban",
        "peer_oban.py",
        jobs=10_000,
        concurrency=500,
        workloads=ON_POSTGRES,
        keeps="full row",
        table="oban_jobs",
        open_rows="state not in ('completed', 'discarded', 'cancelled')",
    ),
    System(
        "procrastinate",
        "procrastinate",
        "peer_procrastinate.py",
        jobs=5_000,
        concurrency=20,
        workloads=ON_POSTGRES,
        keeps="full row",
        table="procrastinate_jobs",
        open_rows="status in ('todo', 'doing')",
    ),
    System("taskiq + redis", "taskiq", "peer_taskiq.py", jobs=10_000, concurrency=100, workloads=ON_REDIS, keeps="no"),
    System("celery + redis", "celery", "peer_celery.py", jobs=5_000, concurrency=2, workloads=ON_REDIS, keeps="no"),
    System(
        "bare table",
        "",
        "peer_bare.py",
        jobs=1,
        concurrency=1,
        workloads=frozenset({"W3"}),
        keeps="no",
        table="bare_job",
        open_rows="claim is null",
        queue=False,
    ),
)
