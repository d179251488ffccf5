-- Who may come in over HTTP, and more about who has done what.

-- Keys that all nodes share and nobody is shown. A uuid holds 122 random bits: three of them are more than the hash keeps.
create table ingestd.secret (
    name   text primary key,
    value  bytea not null
);
insert into ingestd.secret
select name, sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
from unnest(array['token', 'cursor']) name;

-- Of a token's text only a keyed hash is kept: whoever reads this table cannot come in with what it holds.
create table ingestd.token (
    id              bigint generated always as identity primary key,
    name            text not null check (name ~ '^[A-Za-z][A-Za-z0-9._@-]{0,62}$'),
    prefix          text not null,
    hash            bytea not null unique,
    role            text not null check (role in ('viewer', 'operator', 'admin')),
    scopes          text[] not null default '{}',
    created_at      timestamptz not null default now(),
    created_by      text not null,
    expires_at      timestamptz,
    last_used_at    timestamptz,
    last_used_from  text,
    revoked_at      timestamptz,
    revoked_by      text
) with (fillfactor = 70);
-- A revoked one keeps its name for the audit log's readers, and leaves it free for its successor.
create unique index token_name on ingestd.token (name) where revoked_at is null;

-- Nodes hold the tokens in memory: whatever changes who may come in is told to all of them at once, whoever changed it.
create function ingestd.tell_access() returns trigger language plpgsql as $$
begin
    perform pg_notify('ingestd_access', '');
    return null;
end $$;
revoke execute on function ingestd.tell_access() from public;
create trigger tell_access after insert or delete or update of hash, role, scopes, expires_at, revoked_at on ingestd.token
for each statement execute function ingestd.tell_access();

-- By what and from where, and what was asked for in vain. A name may be given to another token later: the id tells them apart.
alter table ingestd.audit
    add column token_id bigint,
    add column address text,
    add column outcome text not null default 'done' check (outcome in ('done', 'denied'));
create index audit_at on ingestd.audit (at);
