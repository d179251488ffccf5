"""From a complete file to a pending load: the bytes first, then one transaction that makes them an arrival, a load and its job.

A crash between the two leaves bytes that nobody knows of; the file is taken again and finds them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from ingestd.cause import correlation_from
from ingestd.events import Bus, FileArrived
from ingestd.files.identity import Received, shown
from ingestd.files.spool import Store
from ingestd.files.store import remember
from ingestd.imports.settings import ImportSettings
from ingestd.imports.sources.folder import Seen
from ingestd.imports.store import arrivals as store
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import Database

QUEUE = "imports"
LOAD = "load"
IMPORT = "import"
FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Cause:
    """What made a load happen.

    Args:
        triggered_by: the word that jobs and loads show.
        parent_id: the `import` job that found the file.
    """

    triggered_by: str = FOLDER
    parent_id: int | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class ByHand:
    """What a person says about a file they import.

    Args:
        priority: -100..100; None: the import's.
        force: load it even if the same content has been loaded.
    """

    notes: str | None = None
    tags: tuple[str, ...] = ()
    priority: int | None = None
    metadata: Mapping[str, Any] | None = None
    force: bool = False


def table_key(target: str) -> str:
    """The key under which loads into one table run one at a time."""
    return f"table:{target}"


class Intake:
    """Takes files in.

    Args:
        db: this node's pools.
        store: where the bytes go.
        bus: where arrivals are told.
    """

    def __init__(self, db: Database, store: Store, bus: Bus) -> None:
        self.db = db
        self.store = store
        self._bus = bus

    async def unknown(self, name: str, files: Sequence[Seen]) -> list[Seen]:
        """Those of `files` that have not arrived yet."""
        if not files:
            return []
        async with self.db.services() as conn:
            known = await store.known(conn, name, self.store.id, [(file.path, file.stamp) for file in files])
        return [file for file in files if (file.path, file.stamp) not in known]

    async def take(self, name: str, settings: ImportSettings, file: Seen, cause: Cause) -> int | None:
        """Take in one complete file.

        Returns:
            The new load's id, or None if the file has arrived before.

        Raises:
            FileMissing: it has gone.
            NotComplete: it changed since it was looked at.
            Refused: it cannot be read.
            StorageFull: there is no room for it.
        """
        assert settings.pattern is not None
        received = await self.store.copy_in(Path(file.path), expected=file.stamp, beneath=settings.pattern.base)
        async with self.db.services() as conn, conn.transaction():
            await store.lock_order(conn, settings.table)
            file_id = await remember(conn, received, self.store.id)
            shown_name = shown(file.name)
            arrival_id = await store.new_arrival(conn, name, self.store.id, file.path, shown_name, file.stamp, file_id, FOLDER)
            if arrival_id is None:
                return None
            load_id = await self._new_load(conn, name, settings, arrival_id, file_id, shown_name, received, cause, ByHand())
        self.tell(name, shown_name, received.size, load_id)
        return load_id

    def tell(self, name: str, file_name: str, size: int, load_id: int) -> None:
        """Tell of an arrival, once it has been committed."""
        self._bus.emit(FileArrived(name, file_name, size, load_id))

    async def take_by_hand(
        self, conn: asyncpg.Connection, name: str, settings: ImportSettings, path: Path, received: Received, by: ByHand, cause: Cause
    ) -> int:
        """Make a load of a file that a person named; one that has arrived before is loaded, or visibly skipped, again.

        Args:
            conn: in a transaction.
            path: absolute path of the original.
            received: its bytes, already in the store.
        """
        await store.lock_order(conn, settings.table)
        file_id = await remember(conn, received, self.store.id)
        shown_name = shown(path.name)
        pattern = settings.pattern
        if pattern and path.is_relative_to(pattern.base) and pattern.matches(path.relative_to(pattern.base).parts):
            # The file is one that the folder watch would find: it is the same file name, and the same arrival.
            shown_name = shown(str(path.relative_to(pattern.base)))
        where = (conn, name, self.store.id, str(path))
        arrival_id = await store.new_arrival(*where, shown_name, received.stamp, file_id, cause.triggered_by)
        if arrival_id is None:
            arrival_id = await store.find_arrival(*where, received.stamp)
        assert arrival_id is not None
        return await self._new_load(conn, name, settings, arrival_id, file_id, shown_name, received, cause, by)

    async def _new_load(
        self,
        conn: asyncpg.Connection,
        name: str,
        settings: ImportSettings,
        arrival_id: int,
        file_id: int,
        file_name: str,
        received: Received,
        cause: Cause,
        by: ByHand,
    ) -> int:
        load = store.NewLoad(
            import_name=name,
            target=settings.table,
            mode=settings.mode,
            arrival_id=arrival_id,
            file_id=file_id,
            file_name=file_name,
            size=received.size,
            priority=settings.priority if by.priority is None else by.priority,
            tags=tuple(dict.fromkeys([*settings.tags, *by.tags])),
            notes=by.notes,
            metadata=by.metadata,
            triggered_by=cause.triggered_by,
            correlation_id=cause.correlation_id or correlation_from(None),
            parent_id=cause.parent_id,
        )
        load_id = await store.new_load(conn, load)
        args = {"load": load_id, "force": True} if by.force else {"load": load_id}
        job = NewJob(
            LOAD,
            args,
            queue=QUEUE,
            priority=load.priority,
            key=table_key(settings.table),
            key_strict=settings.strict,
            store=self.store.id,
            tags=load.tags,
            notes=load.notes,
            metadata=load.metadata,
            correlation_id=load.correlation_id,
            parent_id=load.parent_id,
            triggered_by=load.triggered_by,
        )
        (job_id,) = await enqueue(conn, [job])
        await store.set_job(conn, load_id, job_id)
        return load_id


async def receive_by_hand(files: Store, path: Path) -> tuple[Path, Received]:
    """Copy a file that a person named into the store; links are followed, for that person chose the name.

    Returns:
        The absolute path of the original, and what was received.

    Raises:
        FileMissing, Refused, NotAFile, NotComplete, StorageFull: as `Store.copy_in`.
    """
    real = Path(await asyncio.to_thread(os.path.realpath, path))
    return real, await files.copy_in(real)
