"""Generates the SQL of one rollup: capture triggers, its table, the refresh statement and its view. Pure.

Buckets are told apart by their key, never by a stretch of raw time: `ranges @> key(time)` decides what is recomputed, and a
padded condition on the time column only helps the planner to an index. So a day belongs to its bucket as a whole, whatever
clocks do around its midnights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingestd.rollups.buckets import format_bucket
from ingestd.rollups.spec import Measure, Spec

# Times outside are in no bucket, like NULL and ±infinity: neither arithmetic nor Python's datetime reaches much further.
EARLIEST = "timestamptz '0001-01-10 00:00:00+00'"
LATEST = "timestamptz '9999-12-20 00:00:00+00'"
PAD = "interval '26 hours'"  # no key lies further from its times
MAX_SCANS = 32  # where an index finds each dirty stretch; more of them, or no index: one scan over all
# In a subselect, so that its text is read once and not for every row.
RANGES, LO, HI = "(select $2::text::tstzmultirange)", "$3::timestamptz", "$4::timestamptz"
OPERATIONS = ("insert", "update", "delete", "truncate")

_WHOLE = {"int2", "int4", "int8", "numeric"}
_SUMS = {**dict.fromkeys(_WHOLE, ""), "float4": "::float8", "float8": "", "interval": ""}


def ident(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string."""
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def qualified(schema: str, name: str) -> str:
    """Quote a name with its schema."""
    return f"{ident(schema)}.{ident(name)}"


@dataclass(frozen=True, slots=True)
class Shape:
    """A spec with the types of its columns: what SQL can be generated from.

    Args:
        types: base type name of each used column of the source, as in pg_type.
    """

    spec: Spec
    types: Mapping[str, str]

    @property
    def moment(self) -> str:
        """The time of a row as timestamptz."""
        column = ident(self.spec.time)
        if self.types[self.spec.time] == "timestamptz":
            return column
        return f"({column}::timestamp at time zone {literal(self.spec.zone)})"

    @property
    def key(self) -> str:
        """The bucket of a row."""
        if self.spec.daily:
            return f"date_trunc('day', {self.moment}, {literal(self.spec.zone)})"
        return f"date_bin({self.width}, {self.moment}, timestamptz 'epoch')"

    @property
    def width(self) -> str:
        """The width of a bucket."""
        return f"interval '{format_bucket(self.spec.width)}'"

    @property
    def valid(self) -> str:
        """Whether a row is in any bucket; false for NULL."""
        return f"{self.moment} >= {EARLIEST} and {self.moment} < {LATEST}"

    @property
    def condition(self) -> str:
        """`valid` and the user's own condition."""
        return f"{self.valid} and (\n{self.spec.where}\n)" if self.spec.where else self.valid

    def within(self, lo: str, hi: str) -> str:
        """A condition that an index on the time column can serve; wider than the keys from lo to hi."""
        if self.types[self.spec.time] == "timestamptz":
            return f"{ident(self.spec.time)} >= {lo} - {PAD} and {ident(self.spec.time)} < {hi} + {PAD}"
        zone = literal(self.spec.zone)
        column = ident(self.spec.time)
        return f"{column} >= ({lo} - {PAD}) at time zone {zone} and {column} < ({hi} + {PAD}) at time zone {zone}"

    @property
    def keys(self) -> list[str]:
        """Columns that tell one stored row from another."""
        return ["bucket", *(ident(column) for column in self.spec.group_by)]

    @property
    def states(self) -> list[tuple[str, str]]:
        """Columns that hold what is known of each group, with their expression over the source."""
        return [state for measure in self.spec.measures for state in self._states(measure)]

    def _states(self, measure: Measure) -> list[tuple[str, str]]:
        if measure.column is None:
            return [(ident(measure.name), "count(*)")]
        column = ident(measure.column)
        if measure.function == "avg":
            # Never an average of averages: its sum and count are kept, and divided when read.
            cast = _SUMS[self.types[measure.column]]
            name = measure.name
            return [(ident(f"{name}__sum"), f"sum({column}{cast})"), (ident(f"{name}__count"), f"count({column})")]
        return [(ident(measure.name), f"{measure.function}({column})")]

    @property
    def projection(self) -> str:
        """The columns a user sees, over the stored ones."""
        shown = list(self.keys)
        for measure in self.spec.measures:
            name = ident(measure.name)
            if measure.function == "avg" and measure.column is not None:
                total, count = ident(f"{measure.name}__sum"), ident(f"{measure.name}__count")
                cast = "::numeric" if self.types[measure.column] in _WHOLE else ""
                name = f"{total}{cast} / nullif({count}, 0) as {name}"
            shown.append(name)
        return ", ".join(shown)

    @property
    def source(self) -> str:
        """The source table, quoted."""
        return qualified(self.spec.schema, self.spec.table)

    def aggregate(self, where: str) -> str:
        """Count the source: keys and states of the rows that fit."""
        selected = ", ".join([f"{self.key} as bucket", *self.keys[1:], *(f"{made} as {name}" for name, made in self.states)])
        grouped = ", ".join(str(position + 1) for position in range(len(self.keys)))
        return f"select {selected}\nfrom {self.source}\nwhere {where}\ngroup by {grouped}"


def averageable(type_name: str) -> bool:
    """Whether avg() of a column of this type can be kept as sum and count."""
    return type_name in _SUMS


def probe(shape: Shape) -> str:
    """Runs the rollup's expressions over no rows, so that Postgres checks them."""
    return f"select count(*) from ({shape.aggregate(shape.condition)} limit 0) checked"


def stored_ddl(shape: Shape, table: str) -> list[str]:
    """Make the table of the buckets, in the types that Postgres derives."""
    target = qualified("rollups", table)
    return [
        f"create table {target} as {shape.aggregate(shape.condition)} with no data",
        f"alter table {target} alter bucket set not null",
        # NULL is a group like any other
        f"create unique index {ident(table + '_key')} on {target} ({', '.join(shape.keys)}) nulls not distinct",
    ]


def capture_name(source_id: int, operation: str) -> str:
    """Name of the trigger, and of its function in the schema ingestd."""
    return f"ingestd_capture_{source_id}_{operation}"


def capture_functions(source_id: int, moment: str, grain: str) -> list[str]:
    """Make the trigger functions of a source; replacing them needs no lock on its table.

    SECURITY DEFINER: who writes to the table needs no right on ours. They never NOTIFY: that takes a lock of the whole
    cluster at commit.
    """
    touched = {"insert": "new_rows", "update": "old_rows new_rows", "delete": "old_rows"}
    made = []
    for operation in OPERATIONS:
        if operation == "truncate":
            body = f"insert into ingestd.dirty (source_id, lo, hi) values ({source_id}, '-infinity', 'infinity');"
        else:
            rows = " union all ".join(f"select {moment} as moment from {rows}" for rows in touched[operation].split())
            body = f"""insert into ingestd.dirty (source_id, lo, hi)
    select {source_id}, lower(stretch), upper(stretch) from (
        select unnest(range_agg(tstzrange(start, start + {grain}))) as stretch from (
            select distinct date_bin({grain}, moment, timestamptz 'epoch') as start from ({rows}) touched
            where moment >= {EARLIEST} and moment < {LATEST}) starts) stretches;"""
        made.append(
            f"create or replace function ingestd.{capture_name(source_id, operation)}() returns trigger\n"
            "language plpgsql security definer set search_path = pg_catalog, pg_temp as $capture$\n"
            f"begin\n    {body}\n    return null;\nend $capture$"
        )
    return made


def capture_triggers(source_id: int, table: str) -> list[str]:
    """Put the triggers of a source on a table or partition; a trigger on a partitioned table misses direct writes to its parts."""
    referencing = {
        "insert": "referencing new table as new_rows",
        "update": "referencing old table as old_rows new table as new_rows",
        "delete": "referencing old table as old_rows",
        "truncate": "",
    }
    return [
        f"create or replace trigger {name} after {operation} on {table} {referencing[operation]} "
        f"for each statement execute function ingestd.{name}()"
        for operation in OPERATIONS
        for name in (capture_name(source_id, operation),)
    ]


def mark_part(source_id: int, moment: str, part: str) -> str:
    """Log all that a partition holds which was found just now, or is none any more: no trigger saw its rows come or go."""
    return (
        f"insert into ingestd.dirty (source_id, lo, hi) select {source_id}, min({moment}), max({moment}) + interval '1 microsecond'\n"
        f"from {part} where {moment} >= {EARLIEST} and {moment} < {LATEST} having count(*) > 0"
    )


def release_part(source_id: int, part: str) -> list[str]:
    """Take a source's triggers from a table that is no partition of it any more."""
    return [f"drop trigger if exists {capture_name(source_id, operation)} on {part}" for operation in OPERATIONS]


def uncapture(source_id: int) -> list[str]:
    """Take a source's triggers away, from its table and all partitions."""
    return [f"drop function if exists ingestd.{capture_name(source_id, operation)}() cascade" for operation in OPERATIONS]


def bound(shape: Shape, table: str) -> str:
    """Cut the endless stretches of a rollup to what its source and its table hold. Parameter: rollup id.

    One statement, hence one snapshot: a row outside these bounds is committed later and logs its own stretch.
    """
    margin = "interval '2 days'"
    return f"""
with extent as materialized (
    select min(lo) - {margin} as lo, max(hi) + {margin} as hi from (
        select min({shape.moment}) as lo, max({shape.moment}) as hi from {shape.source} where {shape.valid}
        union all select min(bucket), max(bucket) from {qualified("rollups", table)}) held),
endless as (
    delete from ingestd.dirty where rollup_id = $1 and (lo = '-infinity' or hi = 'infinity') returning lo, hi, prio, at)
insert into ingestd.dirty (rollup_id, lo, hi, prio, at)
select $1, greatest(endless.lo, extent.lo), least(endless.hi, extent.hi), max(prio), min(at)
from endless, extent
where extent.lo is not null and greatest(endless.lo, extent.lo) < least(endless.hi, extent.hi) group by 2, 3"""


def refresh(shape: Shape, table: str) -> str:
    """Recompute the buckets of some dirty stretches and delete those, from one snapshot.

    The caller holds the rollup's lock since before this statement began. A writer that commits after its snapshot keeps its
    dirty row, because only the ids given here are deleted. Parameters: dirty ids, the ranges, their lower and upper bound.
    """
    target = qualified("rollups", table)
    keys, states = ", ".join(shape.keys), [name for name, _ in shape.states]
    columns = ", ".join([*shape.keys, *states])
    kept = ", ".join(f"t.{name}" for name in states)
    fresh = ", ".join(f"excluded.{name}" for name in states)
    sets = ", ".join(f"{name} = excluded.{name}" for name in states)
    counted = shape.aggregate(f"{shape.within(LO, HI)} and {RANGES} @> {shape.key} and {shape.condition}")
    return f"""
with claimed as (delete from ingestd.dirty where id = any ($1::bigint[]) returning id),
fresh as materialized ({counted}),
held as materialized (
    select ctid as tid, {keys} from {target} where bucket >= {LO} and bucket < {HI} and {RANGES} @> bucket),
-- GROUP BY hashes and takes NULLs as equal; a join by IS NOT DISTINCT FROM would be a nested loop over large buckets
gone_keys as (
    select min(tid) as tid from (
        select tid, {keys} from held union all select null::tid, {keys} from fresh) both_sides
    group by {keys} having count(*) = count(tid)),
gone as (delete from {target} t using gone_keys where t.ctid = gone_keys.tid returning 1),
written as (
    insert into {target} as t ({columns}) select {columns} from fresh
    on conflict ({keys}) do update set {sets} where ({kept}) is distinct from ({fresh}) returning 1)
select (select count(*) from claimed) as claimed,
       (select count(*) from written) as written,
       (select count(*) from gone) as gone,
       (select count(*) from fresh) - (select count(*) from held) as more_rows,
       (select count(distinct bucket) from fresh) - (select count(distinct bucket) from held) as more_buckets"""


def live_view(shape: Shape, name: str, table: str, rollup_id: int, source_id: int, *, indexed: bool) -> str:
    """The view that is exact at every snapshot: clean buckets from the table, dirty ones counted now.

    Its reader needs no right on our tables: the dirty log is read in the view itself, with its owner's rights.
    """
    scans = MAX_SCANS if indexed else 1
    aligned = f"ingestd.bucket_range(lo, hi, {shape.width}, {literal(shape.spec.zone)})"
    columns = ", ".join([*shape.keys, *(state for state, _ in shape.states)])
    counted = shape.aggregate(
        f"{shape.within('lower(ingestd_scan.scan)', 'upper(ingestd_scan.scan)')} and ingestd_scan.scan @> {shape.key}\n"
        f"and ingestd_scan.ranges @> {shape.key} and {shape.condition}"
    )
    return f"""create or replace view {qualified("rollups", name)} as
with dirty as materialized (
    select range_agg({aligned}) * tstzmultirange(tstzrange(
        (select floor from ingestd.rollup where id = {rollup_id}), null)) as ranges
    from (select lo, hi from ingestd.dirty where source_id = {source_id}
          union all select lo, hi from ingestd.dirty where rollup_id = {rollup_id}) logged)
select {shape.projection} from (
    select {columns} from {qualified("rollups", table)}
    where ((select ranges from dirty) @> bucket) is not true
    union all
    select counted.* from (
        select ranges, unnest(case when (select count(*) from unnest(ranges)) <= {scans} then ranges
                                   else tstzmultirange(range_merge(ranges)) end) as scan
        from dirty) ingestd_scan
    cross join lateral ({counted}) counted) live"""


def stored_view(shape: Shape, name: str, table: str) -> str:
    """The view of a frozen rollup: its table as it stands."""
    return f"create or replace view {qualified('rollups', name)} as select {shape.projection} from {qualified('rollups', table)}"


def drop_view(name: str) -> str:
    """Take a view away, unless something else depends on it."""
    return f"drop view if exists {qualified('rollups', name)}"


def drop_table(table: str) -> str:
    """Take a rollup's table away."""
    return f"drop table if exists {qualified('rollups', table)}"


def rename_table(old: str, new: str) -> list[str]:
    """Give a rollup's table, and its index, another name."""
    return [
        f"alter table {qualified('rollups', old)} rename to {ident(new)}",
        f"alter index {qualified('rollups', old + '_key')} rename to {ident(new + '_key')}",
    ]


def series(view: str, table: str, measure: str, groups: list[str], filters: list[str]) -> str:
    """The newest buckets of one measure. Parameters: number of buckets, then a text for each filtered group column."""
    group = ", ".join(f"{literal(column)}, {ident(column)}" for column in groups)
    chosen = "".join(f" and {ident(column)}::text is not distinct from ${place}" for place, column in enumerate(filters, 2))
    order = ", ".join(["bucket", *(ident(column) for column in groups)])
    return f"""
select bucket, to_jsonb({ident(measure)}) as value, jsonb_build_object({group}) as "group"
from {qualified("rollups", view)}
where bucket >= coalesce((select min(bucket) from (
    select distinct bucket from {qualified("rollups", table)} order by bucket desc limit $1) newest), '-infinity'){chosen}
order by {order}"""
