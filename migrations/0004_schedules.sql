-- Schedules and their slots. What a schedule starts is kept compiled, so that any node can fire it without its configuration.
--   accounted_to  every slot up to here is a row in ingestd.slot
--   next_due_at   the first slot behind it; null where there is none (removed, disabled, over)
--   turn          grows whenever the schedule moves: whoever plans on an older turn changes nothing
--   after         what must have succeeded first: [{"type", "name", "ok_within_s", "on_failure"}]
--   skip_at       the one slot that a person wants passed over
--   triggers      when it was last started by hand
create table ingestd.schedule (
    name          text primary key check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    rule          text not null,
    timezone      text not null,
    spec          jsonb not null,
    target        jsonb not null,
    owner         text not null default 'file',
    enabled       boolean not null default true,
    overlap       text not null default 'skip' check (overlap in ('skip', 'queue', 'allow')),
    catch_up      text not null default 'latest' check (catch_up in ('none', 'latest', 'all')),
    max_catch_up  integer not null default 100 check (max_catch_up between 1 and 1000),
    start_within  interval check (start_within > '0'),
    finish_within interval check (finish_within > '0'),
    target_runtime interval check (target_runtime > '0'),
    jitter        interval not null default '0' check (jitter >= '0'),
    starts_at     timestamptz,
    ends_at       timestamptz,
    after         jsonb not null default '[]',
    kind          text not null,
    args          jsonb not null default '{}',
    queue_id      integer not null,
    rank          smallint not null default 0 check (rank between -100 and 100),
    max_attempts  smallint not null default 4 check (max_attempts >= 1),
    key           text,
    tags          text[] not null default '{}',
    since         timestamptz not null default now(),
    accounted_to  timestamptz not null default now(),
    next_due_at   timestamptz,
    turn          bigint not null default 0,
    last_job_id   bigint,
    problem       text,
    paused_at     timestamptz,
    paused_by     text,
    paused_until  timestamptz,
    pause_reason  text,
    skip_at       timestamptz,
    skip_by       text,
    skip_reason   text,
    triggers      timestamptz[] not null default '{}',
    removed_at    timestamptz,
    applied_at    timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
create index schedule_due on ingestd.schedule (next_due_at) where next_due_at is not null;
comment on column ingestd.schedule.since is 'no slot is computed at or before this moment';

-- One row a slot; missed ones of a long gap share a row (slots, first_due_at). The unique key is what fires a slot at most once.
-- What a person starts apart from the rule is a row too, with triggered_by telling the door.
--   start_by, finish_by   until when its job should have started, and ended
--   check_at              when the watch of slots looks at it next; null once its job has ended and nothing is left to tell
--   ended …               how its job ended, written here by the watch, so that statistics never look into history
--   overdue               the deadline it broke, the later one of two
--   retried_at            when its job was brought back after its end; what it did before counts no more
create table ingestd.slot (
    schedule      text not null,
    due_at        timestamptz not null,
    state         text not null check (state in ('waiting', 'fired', 'late', 'skipped', 'missed')),
    reason        text,
    job_id        bigint,
    triggered_by  text not null default 'schedule',
    fired_at      timestamptz,
    recorded_at   timestamptz not null default now(),
    first_due_at  timestamptz,
    slots         integer not null default 1,
    start_by      timestamptz,
    finish_by     timestamptz,
    target_runtime interval,
    check_at      timestamptz,
    ended         text check (ended in ('succeeded', 'partial', 'failed', 'cancelled', 'skipped')),
    started_at    timestamptz,
    ended_at      timestamptz,
    duration_ms   bigint,
    overdue       text check (overdue in ('start', 'finish')),
    overdue_at    timestamptz,
    slow_at       timestamptz,
    retried_at    timestamptz,
    unique (schedule, due_at),
    check ((job_id is null) = (state in ('waiting', 'skipped', 'missed')))
) partition by range (due_at);
create index slot_check on ingestd.slot (check_at) where check_at is not null;
create index slot_waiting on ingestd.slot (schedule, due_at) where state = 'waiting';
create index slot_job on ingestd.slot (job_id) where job_id is not null;
-- What facts count without reading the slots that went well.
create index slot_odd on ingestd.slot (due_at) where state in ('late', 'missed');
create index slot_failed on ingestd.slot (schedule, due_at) where ended = 'failed';
-- The run behind a job that started a workflow, open or not.
create index workflow_run_job on ingestd.workflow_run (job_id) where job_id is not null;

-- When slots were last looked after, by any node: a gap between two looks is downtime.
create table ingestd.schedule_pulse (
    one  boolean primary key default true check (one),
    at   timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- A time in which nothing fired slots, and what that cost.
create table ingestd.downtime (
    id         bigint generated always as identity primary key,
    began_at   timestamptz not null,
    ended_at   timestamptz not null default now(),
    schedules  integer not null default 0,
    missed     bigint not null default 0,
    late       bigint not null default 0,
    counted_at timestamptz
);
comment on column ingestd.downtime.counted_at is 'null while slots that came due in it are still being recorded';
create index downtime_ended on ingestd.downtime (ended_at);

-- Whether something has succeeded lately is asked for every slot that depends on it.
create index load_success on ingestd.load (import, finished_at) where status in ('succeeded', 'partial');
create index workflow_run_success on ingestd.workflow_run (workflow, finished_at) where state in ('succeeded', 'partial');

-- Makes the partition that a slot of the given time belongs to, if it is missing: needed when a schedule was
-- down for longer than partitions reach back. Created alone and attached, as make_partitions does.
create function ingestd.make_slot_partition(at timestamptz) returns boolean
language plpgsql set timezone = 'UTC' set search_path = pg_catalog as $$
declare
    lower_bound timestamptz := date_trunc('month', at);
    child text := 'slot_' || to_char(lower_bound, 'YYYYMM');
begin
    -- asked before the lock as well, which a configuration that is being applied keeps until its end
    if to_regclass(format('ingestd.%I', child)) is not null then
        return false;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('ingestd:partitions:ingestd.slot', 0));
    if to_regclass(format('ingestd.%I', child)) is not null then
        return false;
    end if;
    execute format('create table ingestd.%I (like ingestd.slot including defaults including constraints)
                    with (autovacuum_freeze_min_age = 0)', child);
    execute format('alter table ingestd.slot attach partition ingestd.%I for values from (%L) to (%L)',
                   child, lower_bound, lower_bound + interval '1 month');
    return true;
end $$;

revoke execute on function ingestd.make_slot_partition(timestamptz) from public;

-- A job that is retried leaves history under its own id, by whatever door, and its slot is open again. Deadlines of the past stay
-- kept or broken as they were. An ack only inserts into history and never comes here.
create function ingestd.watch_slots_again(jobs bigint[]) returns void
language sql set search_path = pg_catalog as $$
    update ingestd.slot
    set check_at = now(), retried_at = now(), ended = null, started_at = null, ended_at = null, duration_ms = null, slow_at = null,
        start_by = case when start_by > now() then start_by end, finish_by = case when finish_by > now() then finish_by end
    where job_id = any (jobs)
$$;

create function ingestd.job_left_history() returns trigger
language plpgsql set search_path = pg_catalog as $$
declare
    back bigint[] := array(select j.id from gone g join ingestd.job j on j.id = g.id);
begin
    if cardinality(back) > 0 then
        perform ingestd.watch_slots_again(back);
    end if;
    return null;
end $$;
create trigger job_left_history after delete on ingestd.history
    referencing old table as gone for each statement execute function ingestd.job_left_history();

-- So does a retried run, whose job stays in history.
create function ingestd.run_reopened() returns trigger
language plpgsql set search_path = pg_catalog as $$
begin
    perform ingestd.watch_slots_again(array[new.job_id]);
    return null;
end $$;
create trigger run_reopened after update of state on ingestd.workflow_run for each row
    when (new.job_id is not null and old.state in ('succeeded', 'partial', 'failed', 'cancelled')
          and new.state in ('waiting', 'running', 'compensating'))
    execute function ingestd.run_reopened();

revoke execute on function ingestd.watch_slots_again(bigint[]), ingestd.job_left_history(), ingestd.run_reopened() from public;

select ingestd.make_partitions('ingestd.slot', 'month', 14);
