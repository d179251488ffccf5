-- Rollups and their dirty log.
--
-- Every change of a captured table writes, in its own transaction, which stretch of time it touched. There is no watermark, so
-- nothing can commit late below one: a refresh deletes the dirty rows that it sees and rewrites those buckets from the same
-- snapshot, and a live view computes from the source exactly what is dirty at its snapshot.

-- A captured table: triggers on it (and on each of its partitions) write the dirty log.
create table ingestd.source (
    id            integer generated always as identity primary key,
    schema_name   text not null,
    table_name    text not null,
    time_column   text not null,
    zone          text not null default '',
    grain         interval not null,
    relid         oid not null,
    parts         oid[] not null default '{}',
    created_at    timestamptz not null default now(),
    unique (schema_name, table_name, time_column, zone)
);
comment on column ingestd.source.zone is 'how a time column without zone is read; empty for timestamptz';
comment on column ingestd.source.parts is
    'the table and its partitions, sorted, as the triggers were put on them: one that is missing now took its rows away unseen';
comment on column ingestd.source.grain is 'how coarsely the triggers log; only a matter of cost, never of correctness';

create table ingestd.rollup (
    id               integer generated always as identity primary key,
    name             text not null,
    version          text not null,
    -- a changed spec is a successor, built beside the serving version, until it takes its place
    stage            text not null default 'serving' check (stage in ('serving', 'successor', 'retired')),
    spec             jsonb not null,
    flag             text not null check (flag in ('on', 'off', 'shadow', 'frozen')),
    max_staleness    interval not null,
    floor            timestamptz not null default '-infinity',
    width            interval not null,
    zone             text not null,
    source_id        integer references ingestd.source,
    columns          jsonb,
    reads            jsonb,
    stored           oid,
    "view"           oid,
    exposed          text not null default 'none' check (exposed in ('none', 'live', 'stored')),
    state            text not null default 'waiting' check (state in ('waiting', 'ready')),
    reason           text,
    since            timestamptz not null default now(),
    retry_at         timestamptz not null default '-infinity',
    built_at         timestamptz,
    last_refresh_at  timestamptz,
    last_refresh_ms  bigint,
    "rows"           bigint not null default 0,
    buckets          bigint not null default 0,
    created_at       timestamptz not null default now()
);
create unique index rollup_stage on ingestd.rollup (name, stage);
create index rollup_source on ingestd.rollup (source_id);
comment on column ingestd.rollup.version is 'hash of the normalised spec';
comment on column ingestd.rollup.floor is 'buckets below it are sealed: never recomputed, whatever happens to their raw rows';
comment on column ingestd.rollup.reads is 'columns of the source that it reads: name -> number, by which one that was renamed is found';
comment on column ingestd.rollup.stored is 'the table that holds the buckets; null until it is made';

-- LOGGED on purpose: an UNLOGGED log is emptied by a crash, and every invalidation in it lost.
create table ingestd.dirty (
    id         bigint generated always as identity primary key,
    source_id  integer,
    rollup_id  integer,
    lo         timestamptz not null,
    hi         timestamptz not null,
    prio       smallint not null default 0,
    at         timestamptz not null default clock_timestamp(),
    check (lo < hi),
    check ((source_id is null) <> (rollup_id is null))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index dirty_source on ingestd.dirty (source_id) where source_id is not null;
create index dirty_rollup on ingestd.dirty (rollup_id, prio, hi desc) where rollup_id is not null;
comment on table ingestd.dirty is
    'half-open stretches of time: with source_id as a trigger wrote them, with rollup_id as one rollup has to recompute them';
comment on column ingestd.dirty.prio is '0 changes, 10 the first build';

-- The bucket a moment belongs to. Below a day a fixed grid in UTC, so that both hours of a night when clocks go back stay
-- apart; a day as its zone has it, 23 or 25 hours long.
create function ingestd.bucket_start(moment timestamptz, width interval, zone text) returns timestamptz
language sql stable parallel safe
return case when width >= interval '1 day' then date_trunc('day', moment, zone)
            else date_bin(width, moment, timestamptz 'epoch') end;

-- All buckets that a stretch of time touches, from the first one's start to the start of the one after the last.
create function ingestd.bucket_range(lo timestamptz, hi timestamptz, width interval, zone text) returns tstzrange
language sql stable parallel safe
return tstzrange(
    ingestd.bucket_start(lo, width, zone),
    -- 36 hours after a midnight is the middle of the next day, however long the days there are
    case when width >= interval '1 day'
         then date_trunc('day', date_trunc('day', hi - interval '1 microsecond', zone) + interval '36 hours', zone)
         else ingestd.bucket_start(hi - interval '1 microsecond', width, zone) + width end);
