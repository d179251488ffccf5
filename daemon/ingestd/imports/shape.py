"""The shape of a table as a load sees it. No heavy import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROVENANCE = ("_ingestd_load", "_ingestd_record")
# Types without an order of their own, or whose equality is not that of their texts: compared as text in a merge.
_NO_EQUALITY = ("json", "xml", "point", "polygon", "line", "box", "path", "circle", "lseg")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: as in the catalog.
        sql_type: as Postgres writes it, with its modifier.
        base: name of the type in pg_catalog; empty for any other type.
        modifier: typmod, -1 if there is none.
        not_null: null is refused.
        default: a missing value is filled in by Postgres.
        generated: computed by Postgres, never written.
        identity: "a" always, "d" by default, "" not.
        exact: equal values have equal texts (false for case-insensitive collations).
    """

    name: str
    sql_type: str
    base: str = ""
    modifier: int = -1
    not_null: bool = False
    default: bool = False
    generated: bool = False
    identity: str = ""
    exact: bool = True

    @property
    def comparable(self) -> bool:
        """Whether `is distinct from` works on it."""
        return self.base not in _NO_EQUALITY

    @property
    def numeric_bounds(self) -> tuple[int, int] | None:
        """(precision, scale) of a numeric with a modifier."""
        if self.base != "numeric" or self.modifier < 0:
            return None
        packed = self.modifier - 4
        scale = packed & 0x7FF
        return (packed >> 16) & 0xFFFF, scale - 0x800 if scale & 0x400 else scale

    @property
    def max_length(self) -> int | None:
        """Longest text in characters, for varchar(n) and char(n)."""
        return self.modifier - 4 if self.base in ("varchar", "bpchar") and self.modifier >= 4 else None


@dataclass(frozen=True)
class Table:
    """A table that exists.

    Args:
        oid: its id in the catalog.
        partitioned: rows lie in its partitions.
        plain: an ordinary table, so that counting its tuples counts rows.
        triggers: users' row triggers fire on it; they may change or swallow rows.
        unique_keys: column sets of its usable unique indexes.
        provenance: we created it and it has our two columns.
    """

    oid: int
    target: str
    columns: tuple[Column, ...]
    partitioned: bool = False
    triggers: bool = False
    unique_keys: tuple[frozenset[str], ...] = ()
    provenance: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns a file can fill."""
        return tuple(column.name for column in self.columns if column.name not in PROVENANCE)

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)

    def unique(self, key: Sequence[str]) -> bool:
        """Whether an index guarantees that no two rows share `key`."""
        return frozenset(key) in self.unique_keys
