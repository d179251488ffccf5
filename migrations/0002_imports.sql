-- Files, arrivals, loads and their rejects.

-- Received bytes, known by what they are. The bytes lie in a store: the local folder of one node.
create table ingestd.file (
    id           bigint generated always as identity primary key,
    sha256       bytea not null check (length(sha256) = 32),
    size         bigint not null check (size >= 0),
    store        uuid not null,
    path         text not null,
    received_at  timestamptz not null default now(),
    gone_at      timestamptz
);
create unique index file_identity on ingestd.file (sha256, size, store);
comment on column ingestd.file.path is 'relative to the folder of the store';

-- What is new in a source: seen once, never looked at again.
create table ingestd.arrival (
    id            bigint generated always as identity primary key,
    import        text not null,
    store         uuid not null,
    path          text not null,
    name          text not null,
    size          bigint not null,
    mtime_ns      bigint not null,
    file_id       bigint not null references ingestd.file,
    triggered_by  text not null default 'folder',
    arrived_at    timestamptz not null default now()
);
create unique index arrival_once on ingestd.arrival (import, store, path, size, mtime_ns);
create index arrival_latest on ingestd.arrival (import, id);
comment on column ingestd.arrival.path is 'absolute, with what is not UTF-8, control characters and \ escaped; name is relative to the source';

-- One arrival going through into its table.
create table ingestd.load (
    id            bigint generated always as identity primary key,
    import        text not null,
    target        text not null,
    mode          text not null check (mode in ('append', 'upsert', 'replace')),
    arrival_id    bigint not null references ingestd.arrival,
    file_id       bigint not null references ingestd.file,
    file_name     text not null,
    job_id        bigint,
    job_parent    bigint,
    status        text not null default 'pending'
                  check (status in ('pending', 'succeeded', 'partial', 'failed', 'skipped')),
    reason        text,
    duplicate_of  bigint references ingestd.load,
    read          bigint,
    inserted      bigint,
    updated       bigint,
    unchanged     bigint,
    rejected      bigint,
    superseded    bigint,
    deleted       bigint not null default 0,
    bytes         bigint not null,
    created_table boolean not null default false,
    priority      smallint not null default 0,
    tags          text[] not null default '{}',
    notes         text,
    metadata      jsonb,
    error         jsonb,
    triggered_by  text not null,
    correlation_id text,
    created_at    timestamptz not null default now(),
    started_at    timestamptz,
    finished_at   timestamptz,
    duration_ms   bigint,
    -- every record of the file is somewhere, or the load did not happen
    check (status not in ('succeeded', 'partial') or read = inserted + updated + unchanged + rejected + superseded)
);
create index load_latest on ingestd.load (import, file_name, id) where status in ('succeeded', 'partial');
create index load_content on ingestd.load (target, file_id) where status in ('succeeded', 'partial');
create index load_import on ingestd.load (import, id);
create index load_arrival on ingestd.load (arrival_id, id);
create index load_job on ingestd.load (job_id);
create index load_parent on ingestd.load (job_parent) where job_parent is not null;
create index load_open on ingestd.load (import, id) where status = 'pending';

-- An input row that did not load, as it came, and why.
create table ingestd.reject (
    load_id  bigint not null references ingestd.load on delete cascade,
    record   bigint not null,
    "column" text,
    code     text not null,
    reason   text not null,
    raw      text not null
);
create index reject_load on ingestd.reject (load_id, record);
comment on column ingestd.reject.record is 'number of the record in the file, the header not counted, from 1';
comment on column ingestd.reject.code is 'missing_cell extra_cell blank_row end_marker bad_quoting bad_encoding too_long bad_value missing_value constraint';

-- Tables that a load created: only these carry provenance columns.
create table ingestd.created_table (
    name        text primary key,
    import      text not null,
    columns     jsonb not null,
    created_at  timestamptz not null default now()
);
