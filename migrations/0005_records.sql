-- What the records of imports, workflows and kinds are read by: a window of one of them must not cost all there is of it.

create index load_finished on ingestd.load (import, finished_at) where finished_at is not null;
create index workflow_run_finished on ingestd.workflow_run (workflow, finished_at) where finished_at is not null;
create index job_stat_kind on ingestd.job_stat (kind, minute);
