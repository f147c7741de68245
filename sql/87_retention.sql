-- What may go after its time, what goes, and why the rest stays. A project says for how many days
-- after a run's end its log lines, its events and the run itself are kept (0: for ever).
--
-- retention_plan changes nothing; expire_batch does one line of the plan, judged once more, in
-- bounded steps. The scheduled action (models/ops_retention.py) calls and commits.

-- A partition goes as a whole. Runs are taken out of the queue and end later than they were
-- queued; a day more makes sure that no transaction still adds a run to it.
CREATE FUNCTION is_past(p_upper timestamp) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT p_upper < utc_now() - interval '1 day'
$$;

-- Until when the history of a run that ended then is kept, in a partition with this end. Not
-- before the whole partition's time has passed: row by row would cost what dropping it saves.
CREATE FUNCTION kept_until(p_days integer, p_finished_at timestamp, p_upper timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN coalesce(p_days, 0) = 0 THEN 'infinity'
            ELSE greatest(p_finished_at, p_upper) + make_interval(days => p_days) END;

-- The runs queued in this time, each with the reason why its log lines must stay, or NULL.
CREATE FUNCTION judge_logs(p_lower timestamp, p_upper timestamp)
RETURNS TABLE (run_id integer, project_id integer, reason text)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT r.id, r.project_id, CASE
        WHEN NOT is_terminal(r.status) THEN 'not finished'
        WHEN p.log_retention_days = 0 THEN 'kept for ever'
        WHEN kept_until(p.log_retention_days, r.finished_at, p_upper) > utc_now()
            THEN format('kept for %s days', p.log_retention_days)
        -- The key as in worker/execution.py. An artifact that has expired was let go on purpose.
        WHEN NOT EXISTS (SELECT FROM ops_run_artifact a
                         WHERE a.run_id = r.id AND a.artifact_key = 'run.log.gz'
                           AND a.status IN ('stored', 'expired'))
             AND EXISTS (SELECT FROM ops_run_log_line l
                         WHERE l.run_id = r.id AND l.run_queued_at = r.create_date)
            THEN 'without their complete log as an artifact' END
    FROM ops_run r JOIN ops_project p ON p.id = r.project_id
    WHERE r.create_date >= p_lower AND r.create_date < p_upper
$$;

-- The same for events.
CREATE FUNCTION judge_events(p_lower timestamp, p_upper timestamp)
RETURNS TABLE (run_id integer, project_id integer, reason text)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT r.id, r.project_id, CASE
        WHEN NOT is_terminal(r.status) THEN 'not finished'
        WHEN p.event_retention_days = 0 THEN 'kept for ever'
        WHEN kept_until(p.event_retention_days, r.finished_at, p_upper) > utc_now()
            THEN format('kept for %s days', p.event_retention_days)
        -- Gone already: by a record, or by other hands, which the verification tells.
        WHEN NOT EXISTS (SELECT FROM ops_run_event_row e
                         WHERE e.run_id = r.id AND e.run_queued_at = r.create_date) THEN NULL
        WHEN NOT EXISTS (SELECT FROM ops_audit_head h
                         WHERE h.project_id = r.project_id AND h.run_id = r.id
                           AND (h.event_seq, h.event_hash) = (r.event_seq, r.event_hash))
            THEN 'with events that no checkpoint holds'
        WHEN EXISTS (SELECT FROM verify_events(r.id)) THEN 'whose event chain is broken' END
    FROM ops_run r JOIN ops_project p ON p.id = r.project_id
    WHERE r.create_date >= p_lower AND r.create_date < p_upper
$$;

-- The runs of a project, each with the reason why its row must stay, or NULL. An event is worth
-- more than its run's row: a run goes after its events. A restart names the run before it, which
-- therefore stays as long as the restart does.
CREATE FUNCTION judge_runs(p_project_id integer) RETURNS TABLE (run_id integer, reason text)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    WITH RECURSIVE judged AS MATERIALIZED (
        SELECT r.id, r.retry_of, CASE
            WHEN NOT is_terminal(r.status) THEN 'not finished'
            WHEN kept_until(p.run_retention_days, r.finished_at, r.finished_at) > utc_now()
                THEN format('kept for %s days', p.run_retention_days)
            WHEN EXISTS (SELECT FROM ops_run_event_row e WHERE e.run_id = r.id)
                THEN 'whose events are still kept'
            WHEN NOT EXISTS (
                SELECT FROM ops_audit_expiry_run x
                WHERE x.run_id = r.id AND (x.event_seq, x.event_hash) = (r.event_seq, r.event_hash)
                  AND x.expiry_number <= (SELECT max(c.expiry_number) FROM ops_audit_checkpoint c))
                THEN 'whose events are missing without a record of retention'
            WHEN run_artifact_state(r.id) <> 'gone'
                THEN 'whose artifacts are still stored' END AS reason
        FROM ops_run r JOIN ops_project p ON p.id = r.project_id
        WHERE r.project_id = p_project_id
    ), needed (id) AS (
        SELECT j.retry_of FROM judged j WHERE j.reason IS NOT NULL AND j.retry_of IS NOT NULL
        UNION
        SELECT j.retry_of FROM needed n JOIN judged j ON j.id = n.id WHERE j.retry_of IS NOT NULL
    )
    SELECT j.id, coalesce(j.reason, CASE WHEN j.id IN (SELECT n.id FROM needed n)
                                         THEN 'which a kept run is a restart of' END)
    FROM judged j
$$;

CREATE FUNCTION judge_partition(p_history text, p_lower timestamp, p_upper timestamp)
RETURNS TABLE (run_id integer, project_id integer, reason text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
BEGIN
    IF p_history = 'events' THEN
        RETURN QUERY SELECT * FROM judge_events(p_lower, p_upper);
    ELSE
        RETURN QUERY SELECT * FROM judge_logs(p_lower, p_upper);
    END IF;
END
$$;

-- Why a partition must stay, as a sentence, or NULL when it may go.
CREATE FUNCTION partition_reason(
    p_history text, p_partition text, p_lower timestamp, p_upper timestamp
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
DECLARE
    v_reason text;
    v_strangers bigint;
BEGIN
    IF NOT is_past(p_upper) THEN
        RETURN 'runs of this time are still being queued';
    END IF;
    SELECT string_agg(format('%s: %s runs %s', g.slug, g.runs, g.reason), '; '
                      ORDER BY g.slug, g.reason) INTO v_reason
    FROM (
        SELECT p.slug, j.reason, count(*) AS runs
        FROM judge_partition(p_history, p_lower, p_upper) j JOIN ops_project p ON p.id = j.project_id
        WHERE j.reason IS NOT NULL GROUP BY p.slug, j.reason
    ) g;
    IF v_reason IS NULL AND p_history = 'events' THEN
        EXECUTE format(
            'SELECT count(DISTINCT e.run_id) FROM public.%I e WHERE NOT EXISTS ('
            ' SELECT FROM ops_run r WHERE r.id = e.run_id AND r.create_date = e.run_queued_at)',
            p_partition) INTO v_strangers;
        IF v_strangers > 0 THEN
            v_reason := format('events of %s runs that are not there', v_strangers);
        END IF;
    END IF;
    RETURN v_reason;
END
$$;

-- The dry run: what would go now and what stays, each with its reason. `action` is drop (a
-- partition), delete (rows, in batches) or keep; `name` a partition, or a project's slug.
CREATE FUNCTION retention_plan()
RETURNS TABLE (
    what text, name text, project_id integer, row_count bigint, size_bytes bigint,
    action text, reason text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
DECLARE
    v_part record;
    v_reason text;
BEGIN
    FOR v_part IN
        SELECT p.history, p.partition, p.lower_bound, p.upper_bound, (
                   SELECT sum(pg_total_relation_size(format('public.%I', s.partition)::regclass))
                   FROM list_partitions() s
                   WHERE s.history = p.history AND s.lower_bound = p.lower_bound) AS bytes
        FROM list_partitions() p
        WHERE p.parent IN ('ops_run_event_row', 'ops_run_log_line') AND p.lower_bound <= utc_now()
        ORDER BY p.history DESC, p.lower_bound
    LOOP
        v_reason := partition_reason(
            v_part.history, v_part.partition, v_part.lower_bound, v_part.upper_bound);
        what := v_part.history || '_partition';
        name := v_part.partition;
        project_id := NULL;
        size_bytes := v_part.bytes;
        -- Counted where it goes; of what stays the planner's estimate will do, once there is one.
        row_count := (SELECT nullif(c.reltuples, -1) FROM pg_class c
                      WHERE c.oid = format('public.%I', v_part.partition)::regclass);
        IF v_reason IS NULL OR row_count IS NULL THEN
            EXECUTE format('SELECT count(*) FROM public.%I', v_part.partition) INTO row_count;
        END IF;
        action := CASE WHEN v_reason IS NULL THEN 'drop' ELSE 'keep' END;
        reason := coalesce(v_reason, 'the time of all its runs has passed');
        RETURN NEXT;
        IF v_part.history = 'logs' AND v_reason IS NOT NULL THEN
            RETURN QUERY EXECUTE format(
                'SELECT ''log_lines'', %1$L, j.project_id, count(*), sum(pg_column_size(l.*))::bigint,'
                ' ''delete'', format(''%%s: the time of these runs has passed, not that of the'
                ' whole partition'', p.slug)'
                ' FROM judge_logs(%2$L, %3$L) j JOIN ops_project p ON p.id = j.project_id'
                ' JOIN public.%1$I l ON l.run_id = j.run_id'
                ' WHERE j.reason IS NULL GROUP BY j.project_id, p.slug ORDER BY p.slug',
                v_part.partition, v_part.lower_bound, v_part.upper_bound);
        END IF;
    END LOOP;
    RETURN QUERY
        SELECT 'runs', p.slug::text, p.id, count(*), NULL::bigint,
               CASE WHEN j.reason IS NULL THEN 'delete' ELSE 'keep' END,
               coalesce('runs ' || j.reason, 'their time has passed, and their events are gone')
        FROM ops_project p CROSS JOIN LATERAL judge_runs(p.id) j
        WHERE p.run_retention_days > 0
        GROUP BY p.id, p.slug, j.reason
        ORDER BY p.slug, j.reason NULLS FIRST;
END
$$;

-- Drop a partition and its siblings of the same history. It takes the parent for itself, for the
-- moment of removing files: waits for it half a second and leaves it to the next time, so that
-- nobody queues up behind. DETACH ... CONCURRENTLY would not lock it, but is refused where there
-- is a default partition.
CREATE FUNCTION drop_partition(p_history text, p_lower timestamp) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '500ms'
AS $$
DECLARE
    v_partition text;
BEGIN
    FOR v_partition IN
        SELECT p.partition FROM list_partitions() p
        WHERE p.history = p_history AND p.lower_bound = p_lower ORDER BY p.parent
    LOOP
        EXECUTE format('DROP TABLE public.%I', v_partition);
    END LOOP;
END
$$;

-- Log lines of a project's runs whose time has passed, in a partition that stays.
CREATE FUNCTION delete_log_lines(
    p_project_id integer, p_lower timestamp, p_upper timestamp, p_limit integer
) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_runs constant integer[] := ARRAY(
        SELECT j.run_id FROM judge_logs(p_lower, p_upper) j
        WHERE j.project_id = p_project_id AND j.reason IS NULL);
    v_partition text;
    v_deleted bigint;
    v_total bigint := 0;
BEGIN
    PERFORM set_config('odooops.retention', 'on', true);
    FOR v_partition IN
        SELECT p.partition FROM list_partitions() p
        WHERE p.history = 'logs' AND p.lower_bound = p_lower ORDER BY p.parent
    LOOP
        EXECUTE format(
            'DELETE FROM public.%1$I WHERE ctid = ANY (ARRAY('
            ' SELECT l.ctid FROM public.%1$I l WHERE l.run_id = ANY ($1) LIMIT $2))', v_partition)
        USING v_runs, p_limit;
        GET DIAGNOSTICS v_deleted = ROW_COUNT;
        v_total := v_total + v_deleted;
    END LOOP;
    PERFORM set_config('odooops.retention', 'off', true);
    RETURN v_total;
END
$$;

-- Runs whose time has passed, with what hangs on them. Restarts have higher ids and go first.
CREATE FUNCTION delete_runs(p_project_id integer, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_runs constant integer[] := ARRAY(
        SELECT j.run_id FROM judge_runs(p_project_id) j
        WHERE j.reason IS NULL ORDER BY j.run_id DESC LIMIT p_limit);
    v_parent text;
    v_deleted bigint;
BEGIN
    PERFORM set_config('odooops.retention', 'on', true);
    FOR v_parent IN SELECT t.parent FROM partitioned_tables() t WHERE t.history = 'logs' LOOP
        EXECUTE format('DELETE FROM public.%I WHERE run_id = ANY ($1)', v_parent) USING v_runs;
    END LOOP;
    DELETE FROM ops_run_artifact a WHERE a.run_id = ANY (v_runs);
    DELETE FROM ops_run r WHERE r.id = ANY (v_runs);
    GET DIAGNOSTICS v_deleted = ROW_COUNT;
    PERFORM set_config('odooops.retention', 'off', true);
    RETURN v_deleted;
END
$$;

-- One step of one line of the plan, judged again. `rows` is how many rows went: call it until
-- there are none. Events go in two steps: `recorded` is the number of the record that a
-- checkpoint must hold first. Wants READ COMMITTED and a commit after each call.
CREATE FUNCTION expire_batch(
    p_what text, p_name text, p_project_id integer DEFAULT NULL, p_limit integer DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_part record;
    v_reason text;
    v_recorded integer;
    v_rows bigint;
BEGIN
    IF p_what = 'runs' THEN
        RETURN jsonb_build_object('success', true, 'rows',
            delete_runs(p_project_id, coalesce(p_limit, 2000)));
    END IF;
    SELECT * INTO v_part FROM list_partitions() p
    WHERE p.partition = p_name AND p.lower_bound IS NOT NULL;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('success', true, 'rows', 0);
    ELSIF p_what = 'log_lines' THEN
        RETURN jsonb_build_object('success', true, 'rows', delete_log_lines(
            p_project_id, v_part.lower_bound, v_part.upper_bound, coalesce(p_limit, 20000)));
    END IF;
    v_reason := partition_reason(v_part.history, p_name, v_part.lower_bound, v_part.upper_bound);
    IF v_reason IS NOT NULL THEN
        RETURN refuse('invalid_state', format('%s stays: %s', p_name, v_reason));
    END IF;
    EXECUTE format('SELECT count(*) FROM public.%I', p_name) INTO v_rows;
    IF v_part.history = 'events' THEN
        v_recorded := record_expiry(v_part.lower_bound, v_part.upper_bound);
        IF v_recorded IS NOT NULL THEN
            RETURN jsonb_build_object('success', true, 'rows', 0, 'recorded', v_recorded);
        ELSIF is_unsigned(v_part.lower_bound, v_part.upper_bound) THEN
            RETURN refuse('invalid_state', format(
                '%s stays: no checkpoint holds the record of its expiry yet', p_name));
        END IF;
    END IF;
    PERFORM drop_partition(v_part.history, v_part.lower_bound);
    RETURN jsonb_build_object('success', true, 'rows', v_rows);
EXCEPTION
    WHEN lock_not_available THEN
        RETURN refuse('busy', format('%s is in use; it goes the next time.', p_name));
    WHEN foreign_key_violation THEN
        RETURN refuse('conflict', format('%s stays: %s', p_name, SQLERRM));
END
$$;

-- Whether a run queued in this time has events whose expiry is not in a signed checkpoint as it is.
CREATE FUNCTION is_unsigned(p_lower timestamp, p_upper timestamp) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT EXISTS (
        SELECT FROM ops_run r
        WHERE r.create_date >= p_lower AND r.create_date < p_upper
          AND EXISTS (SELECT FROM ops_run_event_row e
                      WHERE e.run_id = r.id AND e.run_queued_at = r.create_date)
          AND NOT EXISTS (
              SELECT FROM ops_audit_expiry_run x
              WHERE x.run_id = r.id AND (x.event_seq, x.event_hash) = (r.event_seq, r.event_hash)
                AND x.expiry_number <= (SELECT max(c.expiry_number) FROM ops_audit_checkpoint c)))
$$;
