"""What a load is asked to do, what became of it, and the ways it can go wrong. No heavy import: both processes read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from ingestd.errors import IngestdError

Mode = Literal["append", "upsert", "replace"]
LoadStatus = Literal["succeeded", "partial", "failed", "skipped"]
T = TypeVar("T", bound="_Wire")


class FileProblem(IngestdError):
    """The file as a whole cannot be loaded: the load fails at once, without retries."""

    http_status, slug, title = 422, "file-problem", "The file cannot be loaded"


class TooManyRejects(FileProblem):
    """More records were rejected than the import allows; nothing was loaded."""


class LoadTrouble(IngestdError):
    """The load did not happen, through no fault of its file: nothing was written, trying again is right."""

    http_status, slug, title = 503, "load-trouble", "The load was interrupted"


class LoaderDied(LoadTrouble):
    """The loader process ended in the middle of a load; Postgres rolled the load back."""


@dataclass(frozen=True)
class _Wire:
    """A dataclass that travels as a JSON object."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
        """The inverse of `to_json`; lists become tuples again, unknown keys are ignored."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key in known})


@dataclass(frozen=True)
class LoadRequest(_Wire):
    """One load, with everything the loader process needs to know.

    Args:
        claim: the job's claim (UUID as text); the load commits only while it is held.
        path: where the received bytes lie.
        file_name: the name people know the file by.
        file_id: row of `ingestd.file`.
        size: length of the file in bytes.
        target: "schema.table".
        key: columns that identify a row; empty for append.
        null: cell texts read as null.
        columns: declared SQL types by column name; they rule when the load creates the table.
        rename: column name by header text.
        max_reject_ratio: share of rejected records (0..1) above which nothing is loaded.
        max_rejects: number of rejected records above which nothing is loaded.
        max_record_bytes: a longer record is rejected.
        delimiter: one of `,` `;` tab `|`; None: the one that the header uses most.
        force: load even if the same content was loaded before.
        attempt: which try of the job this is, from 1.
        max_attempts: tries the job has.
    """

    load_id: int
    job_id: int
    claim: str
    import_name: str
    path: str
    file_name: str
    file_id: int
    size: int
    target: str
    mode: Mode
    key: tuple[str, ...] = ()
    null: tuple[str, ...] = ("",)
    columns: dict[str, str] = field(default_factory=dict)
    rename: dict[str, str] = field(default_factory=dict)
    max_reject_ratio: float = 0.05
    max_rejects: int = 100_000
    max_record_bytes: int = 1 << 20
    delimiter: str | None = None
    force: bool = False
    attempt: int = 1
    max_attempts: int = 4

    @property
    def last_attempt(self) -> bool:
        """Whether nobody tries again after this one."""
        return self.attempt >= self.max_attempts


@dataclass(frozen=True)
class LoadOutcome(_Wire):
    """What became of a load; already committed, together with the completion of its job.

    Args:
        read: records in the file = inserted + updated + unchanged + rejected + superseded, unless it failed.
        superseded: records that a later record of the same file with the same key replaced.
        reason: why it failed or was skipped, or a remark.
        duplicate_of: the load that brought the same content before.
        created_table: this load made its table.
        error: `{"type", "message"}` of a failure.
        deleted: rows removed by a `replace` load because the file no longer has them.
    """

    status: LoadStatus
    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    superseded: int = 0
    reason: str | None = None
    duplicate_of: int | None = None
    created_table: bool = False
    duration_ms: int = 0
    error: dict[str, Any] | None = None
    deleted: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The six counts that add up."""
        names = ("read", "inserted", "updated", "unchanged", "rejected", "superseded")
        return {name: getattr(self, name) for name in names}

    @property
    def adds_up(self) -> bool:
        """Whether every record of the file is accounted for."""
        return self.read == self.inserted + self.updated + self.unchanged + self.rejected + self.superseded
