-- Partitions: which tables have them, made ahead of time, each with what its parent cannot give it.

-- One line per table that is cut by run_queued_at. `unit` is one of date_trunc; tables of one
-- `history` expire together, and must have the same unit, run_id and run_queued_at.
CREATE FUNCTION partitioned_tables() RETURNS TABLE (parent text, unit text, history text)
LANGUAGE sql IMMUTABLE
AS $$
    VALUES ('ops_run_event_row', 'month', 'events'), -- they live long: few and large
           ('ops_run_log_line', 'week', 'logs'),     -- they live for weeks: small, dropped whole
           ('ops_run_log_words', 'week', 'logs')
$$;

-- All partitions with their bounds; those of the default partition are NULL.
CREATE FUNCTION list_partitions()
RETURNS TABLE (
    parent text, history text, partition text, lower_bound timestamp, upper_bound timestamp)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT t.parent, t.history, c.relname::text, bounds[1]::timestamp, bounds[2]::timestamp
    FROM partitioned_tables() t
    JOIN pg_inherits i ON i.inhparent = to_regclass(format('public.%I', t.parent))
    JOIN pg_class c ON c.oid = i.inhrelid
    LEFT JOIN LATERAL regexp_match(
        pg_get_expr(c.relpartbound, c.oid), $re$FROM \('(.*)'\) TO \('(.*)'\)$re$) AS bounds ON true
$$;

-- Append-only but for retention, whose functions say so by a setting for that moment. Not a secret: only
-- the tables' owner may delete in them at all, and could drop this trigger too.
CREATE OR REPLACE FUNCTION keep_history() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('odooops.retention', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE OR REPLACE TRIGGER ops_run_event_row_append_only
    BEFORE UPDATE OR DELETE ON public.ops_run_event_row
    FOR EACH ROW EXECUTE FUNCTION keep_history();
CREATE OR REPLACE TRIGGER ops_run_event_row_no_truncate BEFORE TRUNCATE ON public.ops_run_event_row
    FOR EACH STATEMENT EXECUTE FUNCTION keep_history();
CREATE OR REPLACE TRIGGER ops_run_log_line_append_only
    BEFORE UPDATE OR DELETE ON public.ops_run_log_line
    FOR EACH ROW EXECUTE FUNCTION keep_history();
CREATE OR REPLACE TRIGGER ops_run_log_line_no_truncate BEFORE TRUNCATE ON public.ops_run_log_line
    FOR EACH STATEMENT EXECUTE FUNCTION keep_history();

-- What a partition does not get from its parent: triggers of statements, row-level security (a
-- reader of the parent is judged by the parent's policies; on a partition itself there is none,
-- so nobody reads it), settings of storage.
CREATE FUNCTION prepare_partition(p_partition text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    IF NOT (SELECT c.relrowsecurity FROM pg_class c
            WHERE c.oid = format('public.%I', p_partition)::regclass) THEN
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', p_partition);
    END IF;
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER odooops_no_truncate BEFORE TRUNCATE ON public.%I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION keep_history()', p_partition);
    -- Rows are inserted, never updated: full pages. Autovacuum comes by the number of inserted
    -- rows and freezes them at once, so that no page is read again years later to be frozen.
    EXECUTE format(
        'ALTER TABLE public.%I SET (fillfactor = 100, autovacuum_vacuum_insert_threshold = 20000,'
        ' autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_freeze_min_age = 0,'
        ' autovacuum_analyze_scale_factor = 0.05)', p_partition);
END
$$;

-- The partition that holds this time, made if it is not there, with the rows that lie in the
-- default partition meanwhile. Made aside and attached: that lets readers and writers of the
-- parent go on, which CREATE TABLE ... PARTITION OF does not.
CREATE FUNCTION make_partition(p_parent text, p_time timestamp) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_unit constant text := (SELECT t.unit FROM partitioned_tables() t WHERE t.parent = p_parent);
    v_lower constant timestamp := date_trunc(v_unit, p_time);
    v_upper constant timestamp := v_lower + ('1 ' || v_unit)::interval;
    v_partition constant text := p_parent || to_char(v_lower, '"_p"YYYYMMDD');
BEGIN
    IF to_regclass(format('public.%I', v_partition)) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING ALL)', v_partition, p_parent);
    PERFORM set_config('odooops.retention', 'on', true);
    EXECUTE format(
        'WITH moved AS (DELETE FROM public.%1$I WHERE run_queued_at >= %2$L'
        ' AND run_queued_at < %3$L RETURNING *) INSERT INTO public.%4$I SELECT * FROM moved',
        p_parent || '_default', v_lower, v_upper, v_partition);
    PERFORM set_config('odooops.retention', 'off', true);
    EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                   p_parent, v_partition, v_lower, v_upper);
    PERFORM prepare_partition(v_partition);
    RETURN v_partition;
END
$$;

-- The partitions from now to three months ahead, and those for what lies in the default
-- partitions. Daily, and at every install and update.
CREATE FUNCTION maintain_partitions() RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
-- Attaching waits for whoever reads or writes the default partition, and others behind it.
SET lock_timeout = '2s'
AS $$
DECLARE
    v_table record;
    v_time timestamp;
    v_made jsonb := '[]';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('odooops.maintain_partitions'), 0);
    FOR v_table IN SELECT * FROM partitioned_tables() LOOP
        PERFORM prepare_partition(v_table.parent || '_default');
        FOR v_time IN EXECUTE format(
            'SELECT DISTINCT date_trunc(%L, run_queued_at) FROM public.%I WHERE isfinite(run_queued_at)'
            ' UNION SELECT generate_series(%L::timestamp, %L::timestamp, %L::interval)',
            v_table.unit, v_table.parent || '_default', date_trunc(v_table.unit, utc_now()),
            utc_now() + interval '3 months', '1 ' || v_table.unit)
        LOOP
            v_made := v_made || coalesce(to_jsonb(make_partition(v_table.parent, v_time)), '[]');
        END LOOP;
    END LOOP;
    RETURN jsonb_build_object('success', true, 'made', v_made);
EXCEPTION WHEN lock_not_available THEN
    RETURN refuse('busy', 'The tables are in use; the partitions are made the next time.');
END
$$;

-- From the shape before: the models' own tables, uncut. Their rows keep ids, times and hashes.
CREATE FUNCTION move_into_partitions(
    p_old text, p_parent text, p_columns text
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_time timestamp;
    v_rows bigint;
    v_moved bigint;
BEGIN
    FOR v_time IN EXECUTE format(
        'SELECT DISTINCT date_trunc(%L, r.create_date) FROM public.ops_run r'
        ' WHERE r.id IN (SELECT o.run_id FROM public.%I o)',
        (SELECT t.unit FROM partitioned_tables() t WHERE t.parent = p_parent), p_old)
    LOOP
        PERFORM make_partition(p_parent, v_time);
    END LOOP;
    EXECUTE format(
        'INSERT INTO public.%I (id, run_queued_at, %s) SELECT o.id, r.create_date, %s'
        ' FROM public.%I o JOIN public.ops_run r ON r.id = o.run_id ORDER BY o.id',
        p_parent, p_columns, 'o.' || replace(p_columns, ', ', ', o.'), p_old);
    GET DIAGNOSTICS v_moved = ROW_COUNT;
    EXECUTE format('SELECT count(*) FROM public.%I', p_old) INTO v_rows;
    IF v_rows <> v_moved THEN
        RAISE EXCEPTION '% holds % rows, of which % belong to runs', p_old, v_rows, v_moved;
    END IF;
    EXECUTE format('SELECT setval(%L, coalesce(max(id), 0) + 1, false) FROM public.%I',
                   'public.' || p_parent || '_id_seq', p_old);
    EXECUTE format('DROP TABLE public.%I', p_old);
END
$$;

DO $$
BEGIN
    IF (SELECT c.relkind FROM pg_class c WHERE c.oid = to_regclass('public.ops_run_event')) = 'r' THEN
        -- Every run has its time from now on; the trigger is made anew by 30_state_machine.sql.
        IF EXISTS (SELECT FROM public.ops_run r WHERE r.create_date IS NULL) THEN
            DROP TRIGGER IF EXISTS ops_run_guard_update ON public.ops_run;
            UPDATE public.ops_run r SET create_date = coalesce(
                (SELECT min(e."timestamp") FROM public.ops_run_event e WHERE e.run_id = r.id),
                utc_now())
            WHERE r.create_date IS NULL;
        END IF;
        -- They show ids that are bigint now, and no view can change the type of a column. Where
        -- somebody's view stands on them PostgreSQL names it and stops here.
        DROP VIEW IF EXISTS run_events, run_logs;
        PERFORM move_into_partitions('ops_run_event', 'ops_run_event_row',
            'run_id, seq, event_type, message, payload, "timestamp", prev_hash, hash');
        PERFORM move_into_partitions('ops_run_log', 'ops_run_log_line',
            'run_id, seq, log_level, message, metadata, "timestamp"');
    END IF;
    UPDATE ops_run_lease l SET run_queued_at = r.create_date
    FROM ops_run r WHERE r.id = l.run_id AND l.run_queued_at IS NULL;
    ALTER TABLE ops_run_lease ALTER run_queued_at SET NOT NULL;
    PERFORM maintain_partitions();
END
$$;
