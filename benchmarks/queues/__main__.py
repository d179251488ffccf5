"""`python -m benchmarks.queues`: installs what is missing, starts the servers, measures round by round, prints the table."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import setup
from benchmarks.machine import busy, machine
from benchmarks.queues.drive import Failed
from benchmarks.queues.report import Results, document, markdown
from benchmarks.queues.systems import OURS, SYSTEMS, System
from benchmarks.queues.workloads import WORKLOADS, Bench
from benchmarks.server import SETTINGS, Server, postgres, redis, redis_version

ALL_WORKLOADS = [name for names, _ in WORKLOADS for name in sorted(names)]
QUICK = [name for name in ALL_WORKLOADS if name not in ("W2x2", "W2x4", "idle")]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.queues", description="Measure ingestd's queue and its peers side by side, in one run."
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes; 0.01 only shows that everything works (default: 1)")
    parser.add_argument("--smoke", action="store_true", help="only show that everything works, in less than a minute")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; medians are reported (default: 3)")
    parser.add_argument("--only", default="", help="systems, with commas between: " + ", ".join(system.name for system in SYSTEMS))
    parser.add_argument("--workloads", default="", help="with commas between: " + ",".join(ALL_WORKLOADS))
    parser.add_argument("--cache", type=Path, default=setup.CACHE, help="where the peers are installed (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=0, help="of ingestd's queue (default: as in the list of systems)")
    parser.add_argument("--json", type=Path, help="write everything there too")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    asked = parser.parse_args(arguments)
    if asked.smoke:
        asked.scale, asked.rounds = 0.01, 1
    asked.only = [name.strip() for name in asked.only.split(",") if name.strip()] or [system.name for system in SYSTEMS]
    asked.workloads = [name.strip() for name in asked.workloads.split(",") if name.strip()] or (QUICK if asked.smoke else ALL_WORKLOADS)
    for name in asked.only:
        if name not in [system.name for system in SYSTEMS]:
            parser.error(f'"{name}" is no system')
    for name in asked.workloads:
        if name not in ALL_WORKLOADS:
            parser.error(f'"{name}" is no workload')
    if asked.scale <= 0 or asked.rounds < 1:
        parser.error("--scale and --rounds must be positive")
    return asked


def choose(asked: argparse.Namespace, results: Results) -> list[tuple[System, setup.Installed | None]]:
    """The systems that can be run, installed; the others are entered as absent."""
    chosen: list[tuple[System, setup.Installed | None]] = []
    for known in SYSTEMS:
        system = known
        if system.name not in asked.only:
            continue
        try:
            installed = setup.install(system.peer, asked.cache) if system.peer else None
        except setup.Absent as why:
            results.absent[system.name] = str(why)
            continue
        if asked.concurrency and system.name == OURS:
            system = replace(system, concurrency=asked.concurrency)
        if installed:
            results.versions[system.name] = installed.versions
        chosen.append((system, installed))
    return chosen


async def one_system(bench: Bench, wanted: set[str], results: Results, first_round: bool) -> None:
    """One round of one system."""
    for names, measure in WORKLOADS:
        if not names & wanted & bench.system.workloads or (names == {"idle"} and not first_round):
            continue
        began = time.monotonic()
        label = "+".join(sorted(names & bench.system.workloads))
        try:
            found = await measure(bench)
        except (Failed, OSError, ExceptionGroup) as error:
            results.failed.setdefault(bench.system.name, {})[label] = " ".join(str(error).split())
            say(f"  {bench.system.name}: {label}: failed: {error}")
            continue
        for name, numbers in found.items():
            results.found.setdefault(bench.system.name, {}).setdefault(name, []).append(numbers)
        say(f"  {bench.system.name}: {label}: {_brief(found)} ({time.monotonic() - began:.1f} s)")


async def measure_all(asked: argparse.Namespace, results: Results, server: Server, redis_url: str | None) -> None:
    """All rounds."""
    wanted = set(asked.workloads)
    with tempfile.TemporaryDirectory(prefix="ingestd-bench-run-") as folder:
        benches = [Bench(system, installed, server, redis_url, Path(folder), asked.scale) for system, installed in choose(asked, results)]
        for number in range(asked.rounds):
            say(f"round {number + 1} of {asked.rounds}")
            # Each round begins with another system, so that nobody always runs on the machine as another has left it.
            turn = number % max(1, len(benches))
            for bench in benches[turn:] + benches[:turn]:
                async with bench.round():
                    await one_system(bench, wanted, results, number == 0)


async def main(arguments: list[str]) -> int:
    """The whole run."""
    asked = parse(arguments)
    if warning := busy():
        say(f"warning: {warning}")
    setup.install_redis()
    command = f"python -m benchmarks.queues {shlex.join(arguments)}"
    results = Results(command, machine(), {}, asked.scale, asked.rounds)
    async with postgres() as server:
        with redis() as redis_url:
            settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
            results.servers = {"Postgres": f"{server.version} ({settings})", "Redis": f"{redis_version() or 'absent'} (appendonly off)"}
            await measure_all(asked, results, server, redis_url)
    text = markdown(results)
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text, encoding="utf-8")
    if asked.json:
        asked.json.write_text(json.dumps(document(results), indent=1), encoding="utf-8")
    return 1 if OURS in results.failed else 0


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def _brief(found: dict[str, dict[str, float]]) -> str:
    return "; ".join(f"{name} " + " ".join(f"{key}={value:.4g}" for key, value in numbers.items()) for name, numbers in found.items())


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
