-- The life cycle of a run, enforced where nobody can go around it: in triggers.
-- Every accepted change of status appends exactly one event.

CREATE OR REPLACE FUNCTION guard_run_insert() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    IF NEW.status <> 'queued' THEN
        RAISE EXCEPTION 'A run begins as queued, not as %', NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    NEW.event_seq := 0;
    NEW.event_hash := NULL;
    -- It says in which partitions the run's events and log lines lie.
    NEW.create_date := coalesce(NEW.create_date, utc_now());
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION record_run_insert() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM record_event(NEW.id, 'state_change', 'queued', jsonb_strip_nulls(jsonb_build_object(
        'to', 'queued',
        'trigger', NEW.trigger,
        'user_id', NEW.requested_by,
        'retry_of', NEW.retry_of
    )));
    RETURN NULL;
END
$$;

-- What a run was queued with stays as it was. Fires only for an UPDATE that names one of these
-- columns: no transition does, and to compare snapshots costs more than to make one.
CREATE OR REPLACE FUNCTION guard_run_origin() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    IF (NEW.project_id, NEW.workflow_id, NEW.run_number, NEW.snapshot, NEW.retry_of,
        NEW.create_date)
        IS DISTINCT FROM
       (OLD.project_id, OLD.workflow_id, OLD.run_number, OLD.snapshot, OLD.retry_of,
        OLD.create_date)
    THEN
        RAISE EXCEPTION 'Run %: what it was queued with cannot change', OLD.id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

-- What has ended does not change; any other change of status is a transition with its event.
CREATE OR REPLACE FUNCTION guard_run_update() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    c_chain constant text[] := '{event_seq,event_hash,write_date,write_uid}';
BEGIN
    IF is_terminal(OLD.status) THEN
        IF to_jsonb(NEW) - c_chain <> to_jsonb(OLD) - c_chain THEN
            RAISE EXCEPTION 'Run % has ended as % and cannot change', OLD.id, OLD.status
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    ELSIF NEW.status = OLD.status THEN
        RETURN NEW;
    END IF;
    IF NOT is_transition(OLD.status, NEW.status) THEN
        RAISE EXCEPTION 'Run %: no way from % to %', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;

    NEW.event_seq := OLD.event_seq + 1;
    NEW.event_hash := append_event(
        NEW.id, NEW.create_date, NEW.event_seq, OLD.event_hash, 'state_change', NEW.status,
        jsonb_strip_nulls(jsonb_build_object(
            'from', OLD.status,
            'to', NEW.status,
            'worker_id', coalesce(NEW.claimed_by, OLD.claimed_by),
            'epoch', NEW.epoch,
            'exit_code', NEW.exit_code,
            'error_code', NEW.error_code,
            'error_message', NEW.error_message,
            'user_id', CASE WHEN NEW.status = 'canceled' THEN NEW.canceled_by END,
            'reason', CASE WHEN NEW.status = 'canceled' THEN NEW.cancel_reason END)));
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER ops_run_guard_insert BEFORE INSERT ON ops_run
    FOR EACH ROW EXECUTE FUNCTION guard_run_insert();
CREATE OR REPLACE TRIGGER ops_run_record_insert AFTER INSERT ON ops_run
    FOR EACH ROW EXECUTE FUNCTION record_run_insert();
CREATE OR REPLACE TRIGGER ops_run_guard_origin
    BEFORE UPDATE OF project_id, workflow_id, run_number, snapshot, retry_of, create_date
    ON ops_run
    FOR EACH ROW EXECUTE FUNCTION guard_run_origin();
CREATE OR REPLACE TRIGGER ops_run_guard_update BEFORE UPDATE ON ops_run
    FOR EACH ROW EXECUTE FUNCTION guard_run_update();

-- Append-only means append-only: for the ORM, for psql, for the owner.
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;

-- A run's deletion would leave events and log lines behind: they have no foreign key.
CREATE OR REPLACE TRIGGER ops_run_no_delete BEFORE DELETE ON ops_run
    FOR EACH ROW EXECUTE FUNCTION keep_history();
CREATE OR REPLACE TRIGGER ops_run_no_truncate BEFORE TRUNCATE ON ops_run
    FOR EACH STATEMENT EXECUTE FUNCTION keep_history();

-- A project brings its gate and the sequence of its run numbers. A sequence, because a
-- counter row would make everybody who queues wait for the slowest open transaction.
CREATE OR REPLACE FUNCTION prepare_project() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        EXECUTE format('DROP SEQUENCE IF EXISTS %I', 'run_number_' || OLD.id);
        RETURN NULL;
    END IF;
    INSERT INTO ops_project_gate (project_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %I', 'run_number_' || NEW.id);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER ops_project_prepare AFTER INSERT OR DELETE ON ops_project
    FOR EACH ROW EXECUTE FUNCTION prepare_project();

-- Projects that were there before the kernel.
DO $$
DECLARE
    v_project record;
BEGIN
    FOR v_project IN
        SELECT p.id, coalesce(max(r.run_number), 0) AS last_number
        FROM ops_project p
        LEFT JOIN ops_run r ON r.project_id = p.id
        WHERE to_regclass(format('%I', 'run_number_' || p.id)) IS NULL
        GROUP BY p.id
    LOOP
        EXECUTE format('CREATE SEQUENCE %I START %s',
                       'run_number_' || v_project.id, v_project.last_number + 1);
    END LOOP;
    INSERT INTO ops_project_gate (project_id) SELECT id FROM ops_project ON CONFLICT DO NOTHING;
END
$$;

-- Every link of a run's chain, computed again. Within the partition of the run; what may lie in
-- others is the callers' part, for which to look there run by run would take long.
CREATE FUNCTION chain_problems(p_run_id integer)
RETURNS TABLE (run_id integer, seq integer, problem text)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    WITH chain AS (
        SELECT e.*,
               lag(e.hash) OVER w AS expected_prev,
               row_number() OVER w AS expected_seq
        FROM ops_run_event_row e
        WHERE e.run_id = p_run_id
          AND e.run_queued_at = (SELECT r.create_date FROM ops_run r WHERE r.id = p_run_id)
        WINDOW w AS (ORDER BY e.seq)
    ), head AS (
        SELECT r.id, r.event_seq, r.event_hash, c.seq AS last_seq, c.hash AS last_hash
        FROM ops_run r
        LEFT JOIN LATERAL (SELECT k.seq, k.hash FROM chain k ORDER BY k.seq DESC LIMIT 1) c ON true
        WHERE r.id = p_run_id
    )
    SELECT c.run_id, c.seq, 'missing: the events before this one'
    FROM chain c WHERE c.seq <> c.expected_seq
    UNION ALL
    SELECT c.run_id, c.seq, 'broken link: prev_hash is not the hash of the event before'
    FROM chain c WHERE c.prev_hash IS DISTINCT FROM c.expected_prev
    UNION ALL
    SELECT c.run_id, c.seq, 'altered: the content does not give the hash'
    FROM chain c
    WHERE c.hash IS DISTINCT FROM event_hash(
        c.prev_hash, c.run_id, c.seq, c.event_type, c."timestamp", c.message, c.payload)
    UNION ALL
    SELECT h.id, h.event_seq, 'missing: the events after ' || coalesce(h.last_seq, 0)
    FROM head h
    WHERE (h.event_seq, h.event_hash) IS DISTINCT FROM (h.last_seq, h.last_hash)
      -- Gone by a signed record of retention, all of them.
      AND NOT (h.last_seq IS NULL AND EXISTS (
            SELECT FROM ops_audit_expiry_run x
            WHERE x.run_id = h.id
              AND x.expiry_number <= (SELECT max(c.expiry_number) FROM ops_audit_checkpoint c)
              AND (x.event_seq, x.event_hash) = (h.event_seq, h.event_hash)))
$$;

-- The same for whom may see the run, and what lies elsewhere; no row means that the history holds.
-- A run that the caller does not see is a problem too: silence would read as proof.
CREATE FUNCTION verify_events(p_run_id integer)
RETURNS TABLE (run_id integer, seq integer, problem text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
    WITH visible AS (
        SELECT r.id, r.create_date FROM ops_run r
        WHERE r.id = p_run_id
          AND permission_problem(r.project_id, 'read', '') IS NULL
    )
    SELECT p_run_id, NULL::integer, missing_run(p_run_id)
    WHERE NOT EXISTS (SELECT FROM visible)
    UNION ALL
    SELECT c.* FROM visible v CROSS JOIN LATERAL chain_problems(v.id) c
    UNION ALL
    SELECT e.run_id, e.seq, 'moved: it lies under another time of queueing than its run'
    FROM visible v JOIN ops_run_event_row e ON e.run_id = v.id
    WHERE e.run_queued_at <> v.create_date
    ORDER BY 2
$$;
