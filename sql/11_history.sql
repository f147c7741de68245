-- The two tables that grow without end, cut by time. A run's rows lie in the partition of the time
-- at which the run was queued, which the server sets: a worker's clock that jumps cannot choose
-- where a line goes, a run's rows stay together, and whole runs expire at once. The models read
-- them by the views below, under the names they have always had: to Odoo a partitioned table is
-- no table.
--
-- No foreign keys to ops_run: one trigger per inserted line would cost more than the line. A run
-- cannot be deleted but by retention, which takes along what hangs on it (30_state_machine.sql).
--
-- Names the schema in full, unlike the other files: the models' init() runs it too, before the
-- kernel is there. A default partition catches what no other takes; maintain_partitions empties it.

CREATE SEQUENCE IF NOT EXISTS public.ops_run_event_row_id_seq;
CREATE TABLE IF NOT EXISTS public.ops_run_event_row (
    id bigint NOT NULL DEFAULT nextval('public.ops_run_event_row_id_seq'),
    run_queued_at timestamp NOT NULL,
    "timestamp" timestamp NOT NULL,
    run_id integer NOT NULL,
    seq integer NOT NULL,
    event_type varchar NOT NULL,
    message text,
    payload jsonb,
    prev_hash varchar,
    hash varchar NOT NULL,
    PRIMARY KEY (id, run_queued_at),
    CONSTRAINT ops_run_event_row_run_seq_uniq UNIQUE (run_id, seq, run_queued_at)
) PARTITION BY RANGE (run_queued_at);
ALTER SEQUENCE public.ops_run_event_row_id_seq OWNED BY public.ops_run_event_row.id;
CREATE TABLE IF NOT EXISTS public.ops_run_event_row_default
    PARTITION OF public.ops_run_event_row DEFAULT;

CREATE SEQUENCE IF NOT EXISTS public.ops_run_log_line_id_seq;
CREATE TABLE IF NOT EXISTS public.ops_run_log_line (
    id bigint NOT NULL DEFAULT nextval('public.ops_run_log_line_id_seq'),
    run_queued_at timestamp NOT NULL,
    "timestamp" timestamp NOT NULL,
    run_id integer NOT NULL,
    seq integer NOT NULL,
    log_level varchar NOT NULL,
    message text,
    metadata jsonb,
    PRIMARY KEY (id, run_queued_at),
    CONSTRAINT ops_run_log_line_run_seq_uniq UNIQUE (run_id, seq, run_queued_at)
) PARTITION BY RANGE (run_queued_at);
ALTER SEQUENCE public.ops_run_log_line_id_seq OWNED BY public.ops_run_log_line.id;
CREATE TABLE IF NOT EXISTS public.ops_run_log_line_default
    PARTITION OF public.ops_run_log_line DEFAULT;

-- Words of all log lines; 'simple' because logs are no natural language.
CREATE INDEX IF NOT EXISTS ops_run_log_line_message_fts
    ON public.ops_run_log_line USING gin (to_tsvector('simple', message));
