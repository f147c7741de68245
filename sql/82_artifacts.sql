-- What becomes of artifacts after they were recorded: held, expired, lost, found again. Each change
-- is an event of the run. Odoo alone calls these functions, no role of the SQL door is granted
-- them: the bytes are removed by Odoo, and a record must not run ahead of its bytes.
--
-- Locks: the artifact, then its run (record_event). Several artifacts in the order of run and id.

-- Where a file that the holder of a running run wants to keep belongs in the store, for workers that
-- upload through Odoo: the run names the place, not the worker. `recorded` tells whether it has an
-- artifact of that name, `recorded_bytes` is what its others have. Odoo alone calls it.
CREATE FUNCTION artifact_place(p_run_id integer, p_epoch integer, p_artifact_key text)
RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
DECLARE
    v_refusal constant jsonb := coalesce(
        CASE WHEN p_epoch IS NULL THEN refuse('invalid_input', 'epoch must be given') END,
        work_problem(p_run_id, NULL, p_epoch),
        artifact_problem(p_artifact_key, 's3://-', NULL, 0, repeat('0', 64), NULL, '{}'));
BEGIN
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    RETURN (
        SELECT jsonb_build_object(
            'success', true,
            'key', concat_ws('/', r.snapshot #>> '{project,slug}', r.id, p_artifact_key),
            'recorded', EXISTS (
                SELECT FROM ops_run_artifact a
                WHERE a.run_id = r.id AND a.artifact_key = p_artifact_key),
            'recorded_bytes', (
                SELECT coalesce(sum(a.size_bytes), 0) FROM ops_run_artifact a
                WHERE a.run_id = r.id AND a.artifact_key <> p_artifact_key))
        FROM ops_run r WHERE r.id = p_run_id);
END
$$;

-- Why the artifact may not go, or NULL. To be asked of a locked row.
CREATE FUNCTION expiry_problem(p_artifact ops_run_artifact) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT CASE
    WHEN (p_artifact).id IS NULL THEN refuse('not_found', 'There is no such artifact.')
    WHEN (p_artifact).status = 'expired' THEN refuse('conflict', 'The artifact has expired already.')
    WHEN coalesce((p_artifact).held, false) THEN refuse('conflict', 'The artifact is on hold.')
    WHEN coalesce((p_artifact).expires_at > utc_now(), true)
        THEN refuse('conflict', 'The artifact has not reached its time.')
    END
$$;

-- Lock the next artifacts whose time is over, so that nobody puts them on hold while their bytes
-- are being removed. The caller removes the bytes, calls expire_artifact for each, and commits;
-- when it crashes in between the rows stay as they were and it comes round again.
CREATE FUNCTION next_expired_artifacts(p_after_id integer, p_limit integer)
RETURNS TABLE (id integer, run_id integer, artifact_key text, artifact_url text, store text)
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $$
    SELECT locked.id, locked.run_id, locked.artifact_key, locked.artifact_url, locked.store
    FROM (
        SELECT a.id, a.run_id, a.artifact_key, a.artifact_url, a.store
        FROM ops_run_artifact a
        WHERE a.status <> 'expired' AND NOT coalesce(a.held, false)
          AND a.expires_at <= utc_now() AND a.id > p_after_id
        ORDER BY a.id
        LIMIT p_limit
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked
    ORDER BY locked.run_id, locked.id
$$;

-- The bytes are gone: say so.
CREATE FUNCTION expire_artifact(p_artifact_id integer) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_artifact ops_run_artifact;
BEGIN
    SELECT * INTO v_artifact FROM ops_run_artifact a WHERE a.id = p_artifact_id FOR NO KEY UPDATE;
    IF expiry_problem(v_artifact) IS NOT NULL THEN
        RETURN expiry_problem(v_artifact);
    END IF;
    UPDATE ops_run_artifact SET status = 'expired', write_date = utc_now() WHERE id = p_artifact_id;
    PERFORM record_event(
        v_artifact.run_id, 'info', format('Artifact %s has expired', v_artifact.artifact_key),
        jsonb_build_object('artifact_key', v_artifact.artifact_key,
                           'checksum', v_artifact.checksum, 'size_bytes', v_artifact.size_bytes));
    RETURN jsonb_build_object('success', true);
END
$$;

-- Say whether the bytes are there. An expired artifact stays expired; repeated it changes nothing.
CREATE FUNCTION report_artifact(p_artifact_id integer, p_present boolean) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_artifact ops_run_artifact;
    v_status constant text := CASE WHEN p_present THEN 'stored' ELSE 'missing' END;
BEGIN
    SELECT * INTO v_artifact FROM ops_run_artifact a WHERE a.id = p_artifact_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN refuse('not_found', 'There is no such artifact.');
    ELSIF v_artifact.status IN ('expired', v_status) THEN
        RETURN jsonb_build_object('success', true, 'status', v_artifact.status, 'changed', false);
    END IF;
    UPDATE ops_run_artifact SET status = v_status, write_date = utc_now() WHERE id = p_artifact_id;
    PERFORM record_event(
        v_artifact.run_id, CASE WHEN p_present THEN 'info' ELSE 'warning' END,
        format(CASE WHEN p_present THEN 'Artifact %s is in the store again'
                    ELSE 'Artifact %s is missing in the store' END, v_artifact.artifact_key),
        jsonb_build_object('artifact_key', v_artifact.artifact_key,
                           'checksum', v_artifact.checksum));
    RETURN jsonb_build_object('success', true, 'status', v_status, 'changed', true);
END
$$;

-- Keep an artifact beyond its time, or no longer. Waits for an expiry under way, and then says so.
CREATE FUNCTION hold_artifact(p_artifact_id integer, p_held boolean, p_reason text DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_artifact ops_run_artifact;
    v_reason constant text := nullif(trim(p_reason), '');
BEGIN
    SELECT * INTO v_artifact FROM ops_run_artifact a WHERE a.id = p_artifact_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN refuse('not_found', 'There is no such artifact.');
    ELSIF v_artifact.status = 'expired' THEN
        RETURN refuse('conflict', format('Artifact %s has expired and was removed.',
                                         v_artifact.artifact_key));
    ELSIF p_held AND v_reason IS NULL THEN
        RETURN refuse('invalid_input', 'Say why the artifact shall be kept.');
    ELSIF coalesce(v_artifact.held, false) = p_held THEN
        RETURN jsonb_build_object('success', true, 'changed', false);
    END IF;
    UPDATE ops_run_artifact
    SET held = p_held, hold_reason = CASE WHEN p_held THEN v_reason END,
        held_by = CASE WHEN p_held THEN acting_user_id() END,
        held_at = CASE WHEN p_held THEN utc_now() END, write_date = utc_now()
    WHERE id = p_artifact_id;
    PERFORM record_event(
        v_artifact.run_id, 'info',
        format(CASE WHEN p_held THEN 'Artifact %s is on hold' ELSE 'Artifact %s is off hold' END,
               v_artifact.artifact_key),
        jsonb_strip_nulls(jsonb_build_object(
            'artifact_key', v_artifact.artifact_key, 'reason', v_reason,
            'user_id', acting_user_id())));
    RETURN jsonb_build_object('success', true, 'changed', true);
END
$$;

-- Let a run's artifacts go before their time; those on hold stay. Their number.
CREATE FUNCTION expire_run_artifacts(p_run_id integer) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_count integer;
BEGIN
    UPDATE ops_run_artifact SET expires_at = utc_now(), write_date = utc_now()
    WHERE run_id = p_run_id AND status <> 'expired' AND NOT coalesce(held, false)
      AND coalesce(expires_at > utc_now(), true);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- What a run still has in the store: retention removes a run only when the answer is 'gone'.
-- 'held' and 'stored' speak for themselves; a missing artifact may come back, but holds up nothing.
CREATE FUNCTION run_artifact_state(p_run_id integer) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT CASE WHEN bool_or(coalesce(a.held, false)) THEN 'held'
                WHEN bool_or(a.status = 'stored') THEN 'stored'
                ELSE 'gone' END
    FROM ops_run_artifact a
    WHERE a.run_id = p_run_id
$$;
