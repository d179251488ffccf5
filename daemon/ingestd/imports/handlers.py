"""The job kinds of imports: `load` takes one arrival into its table, `import` looks at a source and waits for its loads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg

from ingestd.errors import DatabaseUnreachable
from ingestd.events import LoadFinished, Notice
from ingestd.files.identity import Stamp, actual
from ingestd.files.spool import Store
from ingestd.imports.arrivals import FOLDER, IMPORT, LOAD, QUEUE, Cause
from ingestd.imports.clearing import clear
from ingestd.imports.loader import LoaderPool
from ingestd.imports.request import LoadOutcome, LoadRequest
from ingestd.imports.settings import ImportSettings
from ingestd.imports.store import arrivals as store
from ingestd.imports.watch import ArrivalWatch, Imports, Visit
from ingestd.jobs.model import AwaitChildren, Discard, Done, Outcome, Retry, Snooze, State
from ingestd.jobs.registry import HandlerSpec
from ingestd.work.context import Context
from ingestd.work.runner import describe

COUNTS = ("read", "inserted", "updated", "unchanged", "rejected", "superseded")
OUTAGE_WAIT = "2s"
_STATES = {"succeeded": State.SUCCEEDED, "partial": State.SUCCEEDED, "skipped": State.SUCCEEDED, "failed": State.FAILED}


def handlers(imports: Imports, files: Store, pool: LoaderPool, watch: ArrivalWatch) -> list[HandlerSpec]:
    """The kinds `load` and `import`.

    Args:
        imports: the imports of the configuration in force.
        files: where the bytes lie.
        pool: the child processes that load.
        watch: looks at sources.
    """
    return [
        HandlerSpec(LOAD, LoadHandler(imports, files, pool).run, queue=QUEUE),
        HandlerSpec(IMPORT, ImportHandler(imports, watch).run, queue=QUEUE),
    ]


class LoadHandler:
    """Runs one load in a child process, which acknowledges the job in the transaction of the rows."""

    def __init__(self, imports: Imports, files: Store, pool: LoaderPool) -> None:
        self._imports = imports
        self._files = files
        self._pool = pool

    async def run(self, ctx: Context, load: int, force: bool = False) -> Outcome | None:
        """Run a load.

        Args:
            load: its id.
            force: load it even if the same content has been loaded.
        """
        async with ctx.db.handlers() as conn:
            row = await store.load_to_run(conn, load)
            if row is None:
                return Discard(f"there is no load {load} any more")
            if row["status"] == "failed":
                # Its job is open, so somebody brought it back, or a crash came between the two notes about the failure.
                await store.reset_load(conn, load, ctx.job.id)
            elif row["status"] != "pending":
                return Done({"status": row["status"], "reason": row["reason"]})
            settings = self._imports().get(row["import"])
            obstacle = await self._obstacle(row, settings)
            if settings is not None and not obstacle and (row["target"], row["mode"]) != (settings.table, settings.mode):
                await store.retarget(conn, load, settings.table, settings.mode)
        if settings is None or obstacle:
            await self._give_up(ctx, row, obstacle or "")
            return None
        request = self._request(ctx, row, settings, force)
        try:
            outcome = await self._pool.load(request, ctx.progress)
        except DatabaseUnreachable:
            return Snooze(OUTAGE_WAIT)
        except Exception as error:
            if ctx.job.attempt < ctx.job.max_attempts:
                raise
            await self._give_up(ctx, row, str(error) or type(error).__name__, describe(error))
            return None
        self._finish(ctx, row, outcome)
        if outcome.status != "failed" and row["triggered_by"] == FOLDER:
            await self._clear(ctx, row, settings)
        return None

    async def _obstacle(self, row: asyncpg.Record, settings: ImportSettings | None) -> str | None:
        if settings is None:
            return f'import "{row["import"]}" is not in the configuration any more; put it back and retry, or skip the load'
        if row["store"] != self._files.id:
            return f"the bytes of {row['file_name']} lie in the store of another node ({row['store']})"
        kept = self._files.locate(row["kept"])
        size = await asyncio.to_thread(_size, kept)
        if size != row["size"]:
            what = "are gone" if size is None else f"are {size} instead of {row['size']}"
            return f"the bytes of {row['file_name']} in {kept} {what}; put the file into the source again"
        return None

    def _request(self, ctx: Context, row: asyncpg.Record, settings: ImportSettings, force: bool) -> LoadRequest:
        return LoadRequest(
            load_id=row["id"],
            job_id=ctx.job.id,
            claim=str(ctx.job.claim),
            import_name=row["import"],
            path=str(self._files.locate(row["kept"])),
            file_name=row["file_name"],
            file_id=row["file_id"],
            size=row["size"],
            target=settings.table,
            mode=settings.mode,
            key=tuple(settings.key),
            null=tuple(settings.null),
            columns=dict(settings.columns),
            rename=dict(settings.rename),
            max_reject_ratio=settings.max_reject_ratio,
            delimiter=settings.delimiter,
            force=force,
            attempt=ctx.job.attempt,
            max_attempts=ctx.job.max_attempts,
        )

    async def _give_up(self, ctx: Context, row: asyncpg.Record, reason: str, error: dict[str, Any] | None = None) -> None:
        # Load and job fail together: between the two, a retry by hand would take the job for one that is going on.
        async with ctx.transaction() as conn:
            await store.fail_load(conn, row["id"], reason)
            ctx.discard(reason, error)
        ctx.bus.emit(LoadFinished(row["id"], row["import"], row["file_name"], "failed", reason=reason))

    def _finish(self, ctx: Context, row: asyncpg.Record, outcome: LoadOutcome) -> None:
        result = {"load": row["id"], "status": outcome.status, "reason": outcome.reason, **outcome.counts}
        ctx.completed_elsewhere(_STATES[outcome.status], result, partial=outcome.status == "partial", reason=outcome.reason)
        event = LoadFinished(
            row["id"],
            row["import"],
            row["file_name"],
            outcome.status,
            **outcome.counts,
            duration_ms=outcome.duration_ms,
            reason=outcome.reason,
        )
        ctx.bus.emit(event)

    async def _clear(self, ctx: Context, row: asyncpg.Record, settings: ImportSettings) -> None:
        stamp = Stamp(row["source_size"], row["mtime_ns"])
        problem = await asyncio.to_thread(clear, settings, actual(row["path"]), stamp)
        if problem:
            ctx.bus.emit(Notice(problem, details={"import": row["import"]}))


class ImportHandler:
    """Looks at a source, makes a load of each new file, and ends as those loads end."""

    def __init__(self, imports: Imports, watch: ArrivalWatch) -> None:
        self._imports = imports
        self._watch = watch

    async def run(self, ctx: Context, **args: Any) -> Outcome:
        """Run an import.

        Args:
            args: `{"import": name}`.
        """
        name = str(args.get("import", ""))
        if ctx.job.checkpoint is not None:
            return await self._sum_up(ctx, name, Visit(growing=int(ctx.job.checkpoint.get("growing", 0))))
        settings = self._imports().get(name)
        if settings is None:
            return Discard(f'there is no import "{name}" in the configuration')
        if settings.pattern is None:
            return Discard(f'import "{name}" takes files by hand only: ingestd import {name} FILE')
        cause = Cause(ctx.job.triggered_by, ctx.job.id, ctx.job.correlation_id)
        visit = await self._watch.visit(name, settings, cause)
        if visit.problems:
            return Retry(reason="; ".join(visit.problems.values()))
        # Asked of the database, not of this visit: an earlier attempt may have made loads before it died.
        async with ctx.db.handlers() as conn:
            loads = [row["id"] for row in await store.loads_of_parent(conn, ctx.job.id)]
        if loads:
            return AwaitChildren({"loads": loads, "growing": visit.growing})
        return await self._sum_up(ctx, name, visit)

    async def _sum_up(self, ctx: Context, name: str, visit: Visit) -> Outcome:
        async with ctx.db.handlers() as conn:
            await store.fail_lost_loads(conn)
            loads = await store.loads_of_parent(conn, ctx.job.id)
        result: dict[str, Any] = {"files": len(loads)}
        if loads:
            result |= {count: sum(row[count] or 0 for row in loads) for count in COUNTS}
            result["skipped"] = sum(row["status"] == "skipped" for row in loads)
        if visit.growing:
            result["still_being_written"] = visit.growing
            ctx.bus.emit(Notice(f"import {name}: {visit.growing} file(s) are still being written and were left for the next scan"))
        ctx.result = result
        failed = [row for row in loads if row["status"] == "failed"]
        if failed:
            first = f"{failed[0]['file_name']}: {failed[0]['reason']} (load {failed[0]['id']})"
            return Discard(f"{len(failed)} of {len(loads)} files failed; {first}" if len(loads) > 1 else first)
        ctx.count(succeeded=result.get("read", 0) - result.get("rejected", 0), failed=result.get("rejected", 0))
        return Done(result)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
