"""Looks at every watched folder at its own pace, and at any folder once when a job asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import asyncpg

from ingestd.errors import FileMissing, Refused
from ingestd.events import Bus, LoadFinished, Notice
from ingestd.files.identity import Stamp, shown
from ingestd.files.spool import NotComplete, StorageFull
from ingestd.imports.arrivals import Cause, Intake
from ingestd.imports.clearing import clear
from ingestd.imports.settings import ImportSettings
from ingestd.imports.sources.folder import Scan, Seen, Settling, in_order, old_enough, scan
from ingestd.imports.store import arrivals as store
from ingestd.postgres.outage import OUTAGE
from ingestd.service import Poller

IDLE_S = 5.0
LOST_EVERY_S = 10.0
# How long an `import` job waits for files that are still being written before it leaves them to the next one.
PATIENCE_S = 10.0

Imports = Callable[[], Mapping[str, ImportSettings]]


@dataclass
class Visit:
    """What one look at a source came to.

    Args:
        loads: ids of the new loads, in arrival order.
        growing: files left for another time because they are still being written.
    """

    loads: list[int] = field(default_factory=list)
    growing: int = 0
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class _Watched:
    """What the loop remembers of one import between two looks; of files, only those still lying there."""

    settings: ImportSettings
    settling: Settling
    next_s: float = 0.0
    known: dict[str, Stamp] = field(default_factory=dict)
    cleared: set[str] = field(default_factory=set)


class ArrivalWatch:
    """The folder watch of one node.

    Args:
        imports: the imports of the configuration in force.
        intake: takes the files in.
        bus: where problems are told, once each.
    """

    def __init__(self, imports: Imports, intake: Intake, bus: Bus) -> None:
        self._imports = imports
        self._intake = intake
        self._bus = bus
        self._watched: dict[str, _Watched] = {}
        self._problems: dict[str, list[str]] = {}
        self._told: dict[str, dict[str, str]] = {}
        self._stopping = False
        self._lost_next_s = 0.0

    def poller(self) -> Poller:
        """The service loop of this watch."""
        return Poller("arrivals", self.poll, self._bus)

    def stop(self) -> None:
        """Let the pass under way end after the file it is at."""
        self._stopping = True

    def problems(self, name: str) -> list[str]:
        """What is wrong with an import's source now, in words."""
        return self._problems.get(name, [])

    async def poll(self) -> float:
        """Look at every source that is due; returns the seconds until the next one is."""
        wanted = {name: one for name, one in self._imports().items() if one.pattern and one.poll is not None}
        self._forget(name for name in self._watched if name not in wanted)
        failure: Exception | None = None
        for name, settings in wanted.items():
            watched = self._watched.get(name)
            if watched is None or watched.settings != settings:
                watched = self._watched[name] = _Watched(settings, Settling(settings.settle.total_seconds()))
            if watched.next_s <= time.monotonic() and not self._stopping:
                # Set first: one source that cannot be looked at must not keep the others from their turn.
                watched.next_s = time.monotonic() + settings.poll_s
                try:
                    await self._look(name, watched)
                except OUTAGE:
                    raise
                except Exception as error:  # noqa: BLE001 - raised again below, after the others
                    failure = failure or error
        if failure:
            raise failure
        await self._settle_lost()
        due = min((watched.next_s for watched in self._watched.values()), default=time.monotonic() + IDLE_S)
        return max(0.01, min(due - time.monotonic(), LOST_EVERY_S))

    async def visit(self, name: str, settings: ImportSettings, cause: Cause) -> Visit:
        """Look at one source now and take in what is complete, waiting a little for what is still being written."""
        assert settings.pattern is not None
        settle_s = settings.settle.total_seconds()
        settling = Settling(settle_s)
        deadline = time.monotonic() + max(PATIENCE_S, 5 * settle_s)
        done = Visit()
        while True:
            found = await asyncio.to_thread(scan, settings.pattern)
            fresh = await self._intake.unknown(name, found.files)
            old = [file for file in fresh if old_enough(file, settle_s)]
            settled = settling.complete([file for file in fresh if not old_enough(file, settle_s)], time.monotonic())
            done.loads += await self._take_all(name, settings, in_order([*old, *settled]), cause, found)
            wait_s = settling.wait_s(time.monotonic())
            taken = len(old) + len(settled)
            if wait_s is None or taken == len(fresh):
                break
            if time.monotonic() + wait_s > deadline or self._stopping:
                done.growing = len(fresh) - taken
                break
            await asyncio.sleep(wait_s)
        self._tell(name, found)
        await self._clear(name, settings, found.files, set())
        done.problems = found.problems
        return done

    async def _look(self, name: str, watched: _Watched) -> None:
        settings = watched.settings
        assert settings.pattern is not None
        found = await asyncio.to_thread(scan, settings.pattern)
        known = {file.path: file.stamp for file in found.files if watched.known.get(file.path) == file.stamp}
        candidates = [file for file in found.files if file.path not in known]
        fresh = await self._intake.unknown(name, candidates)
        known |= {file.path: file.stamp for file in candidates} if not fresh else _without(candidates, fresh)
        watched.known = known
        for file in watched.settling.complete(fresh, time.monotonic()):
            if self._stopping:
                return
            await self._take(name, settings, file, Cause(), found)
        watched.cleared &= {file.path for file in found.files}
        await self._clear(name, settings, found.files, watched.cleared)
        self._tell(name, found)
        now_s = time.monotonic()
        wait_s = watched.settling.wait_s(now_s)
        watched.next_s = now_s + min(settings.poll_s, settings.poll_s if wait_s is None else wait_s)

    async def _take_all(self, name: str, settings: ImportSettings, files: Iterable[Seen], cause: Cause, found: Scan) -> list[int]:
        taken = [await self._take(name, settings, file, cause, found) for file in files]
        return [load_id for load_id in taken if load_id is not None]

    async def _take(self, name: str, settings: ImportSettings, file: Seen, cause: Cause, found: Scan) -> int | None:
        try:
            return await self._intake.take(name, settings, file, cause)
        except (NotComplete, FileMissing):
            return None  # changed or gone since the look: the next one sees it as it is then
        except (Refused, StorageFull) as error:
            found.problems[shown(file.path)] = error.message
        except asyncpg.ProgramLimitExceededError:
            found.problems[shown(file.path)] = f"the path of {shown(file.path)} is too long to be remembered"
        return None

    async def _clear(self, name: str, settings: ImportSettings, files: list[Seen], cleared: set[str]) -> None:
        """Move or delete what was loaded and is still here: its load job may have died just before it did."""
        if settings.after_load == "keep" or not files:
            return
        candidates = [(file.path, file.stamp) for file in files if file.path not in cleared]
        async with self._intake.db.services() as conn:
            done = await store.clearable(conn, name, self._intake.store.id, candidates)
        for path, stamp in done:
            problem = await asyncio.to_thread(clear, settings, path, stamp)
            if problem:
                cleared.add(path)  # once is enough: it is told below and tried again after a restart
                self._bus.emit(Notice(problem, details={"import": name}))

    async def _settle_lost(self) -> None:
        if time.monotonic() < self._lost_next_s:
            return
        async with self._intake.db.services() as conn:
            lost = await store.fail_lost_loads(conn)
        for row in lost:
            self._bus.emit(LoadFinished(row["id"], row["import"], row["file_name"], "failed", reason=row["reason"]))
        self._lost_next_s = time.monotonic() + LOST_EVERY_S

    def _tell(self, name: str, found: Scan) -> None:
        """Emit a notice for what is new, once; say as well when a problem is gone."""
        before = self._told.get(name, {})
        now = found.problems | {place: text for place, text in found.remarks.items() if place not in found.problems}
        for place, text in now.items():
            if before.get(place) != text:
                level = "warning" if place in found.problems else "info"
                self._bus.emit(Notice(f"import {name}: {text}", level, {"import": name}))
        for place, text in before.items():
            if place not in now:
                self._bus.emit(Notice(f"import {name}: no longer: {text}", "info", {"import": name}))
        self._told[name] = now
        self._problems[name] = list(found.problems.values())

    def _forget(self, names: Iterable[str]) -> None:
        for name in list(names):
            del self._watched[name]
            self._problems.pop(name, None)
            self._told.pop(name, None)


def _without(candidates: list[Seen], fresh: list[Seen]) -> dict[str, Stamp]:
    new = {file.path for file in fresh}
    return {file.path: file.stamp for file in candidates if file.path not in new}
