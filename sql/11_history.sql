-- The tables that grow without end, cut by time. A run's rows lie in the partition of the time
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

-- The words of the log lines, one row per thousand of them: a word costs its index entry once per
-- row, not once per line; how many lines of each level there are is counted by the way.
-- What words are is said in 78_log_words.sql. Made from the lines and at any time anew, so nothing
-- guards it against changes but that nobody else has a right to it.
CREATE TABLE IF NOT EXISTS public.ops_run_log_words (
    run_id integer NOT NULL,
    run_queued_at timestamp NOT NULL,
    first_seq integer NOT NULL,
    last_seq integer NOT NULL,
    first_time timestamp NOT NULL,
    last_time timestamp NOT NULL,
    debug_lines integer NOT NULL,
    info_lines integer NOT NULL,
    warn_lines integer NOT NULL,
    error_lines integer NOT NULL,
    words tsvector NOT NULL,
    PRIMARY KEY (run_id, first_seq, run_queued_at)
) PARTITION BY RANGE (run_queued_at);
-- To compress the words costs more than to write them. Asked first, because it locks the table.
DO $$
BEGIN
    IF (SELECT a.attstorage FROM pg_attribute a
        WHERE a.attrelid = 'public.ops_run_log_words'::regclass AND a.attname = 'words') <> 'e' THEN
        ALTER TABLE public.ops_run_log_words ALTER words SET STORAGE EXTERNAL;
    END IF;
END
$$;
-- New entries wait in a list, of 4 MiB by default, that every search reads: some milliseconds.
-- A longer one is written to the index no less often per entry, and then at once, for a second.
CREATE INDEX IF NOT EXISTS ops_run_log_words_index
    ON public.ops_run_log_words USING gin (words);
CREATE TABLE IF NOT EXISTS public.ops_run_log_words_default
    PARTITION OF public.ops_run_log_words DEFAULT;
-- The batches of lines whose words are not in there yet: 79_log_tail.sql. Few rows, which come and go.
CREATE TABLE IF NOT EXISTS public.ops_run_log_tail (
    run_id integer NOT NULL,
    run_queued_at timestamp NOT NULL,
    first_seq integer NOT NULL,
    last_seq integer NOT NULL,
    first_time timestamp NOT NULL,
    last_time timestamp NOT NULL,
    debug_lines integer NOT NULL,
    info_lines integer NOT NULL,
    warn_lines integer NOT NULL,
    error_lines integer NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, first_seq)
);
-- Before there was the table of words.
DROP INDEX IF EXISTS public.ops_run_log_line_message_fts;
