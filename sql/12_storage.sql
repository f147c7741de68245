-- How the tables are stored and cleaned, table by table, where PostgreSQL's defaults are made for
-- other tables. Partitions have theirs from prepare_partition (22_partitions.sql): on a
-- partitioned table itself such settings are refused.

-- A run's row is rewritten by each transition, some ten times, and the index entries of its status
-- with it. Free space in each page lets events (which change no indexed column) update in place.
-- Autovacuum by 2 % of the rows, not 20 %: what is dead lies among the queued runs, in the index
-- that every claim reads.
ALTER TABLE public.ops_run SET (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_scale_factor = 0.02);

-- A handful of rows, each updated every ten seconds or with every batch of log lines: half of each
-- page is free for it, and vacuum comes by a count, as a share of so few rows says nothing.
ALTER TABLE public.ops_run_lease SET (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500);

-- As many rows as projects, updated by every claim.
ALTER TABLE public.ops_project_gate SET (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500);

-- Filled by every event and emptied by every checkpoint: its size follows the dead rows.
ALTER TABLE public.ops_audit_pending SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- A row per batch of log lines, for a second or half a minute. Vacuumed by a count, as above.
ALTER TABLE public.ops_run_log_tail SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500);

-- Only grow: frozen when they are first vacuumed, never read again for it.
ALTER TABLE public.ops_audit_head SET (
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_freeze_min_age = 0);
ALTER TABLE public.ops_audit_expiry_run SET (
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_freeze_min_age = 0);
