-- What the HTTP interface keeps: answers that a repeated request gets again, and what happened lately for those who follow it live.

-- The row is written in the transaction of the effect: the answer is there if the effect is, and two at once wait for each other here.
create table ingestd.idempotency (
    principal    text not null,
    key          text not null,
    fingerprint  bytea not null,
    status       smallint,
    headers      jsonb,
    body         bytea,
    created_at   timestamptz not null default now(),
    primary key (principal, key)
);
create index idempotency_created on ingestd.idempotency (created_at);

-- Written in batches under one lock, so that ids become visible in their order: whoever has read up to one has missed none before it.
create table ingestd.event (
    id    bigint generated always as identity primary key,
    at    timestamptz not null,
    node  text not null,
    name  text not null,
    data  jsonb not null
);
create index event_at on ingestd.event (at);
