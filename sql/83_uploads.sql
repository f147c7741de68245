-- What the control plane has let workers put into the store and no record names yet: uploads that
-- have begun, and files that have arrived. Bounded per run and per worker token, so that a token
-- cannot fill the store with what no limit of recorded artifacts sees; and the list by which the
-- rest is removed when the run has ended. Odoo alone calls these functions.

-- How many there may be at the same time. A worker keeps one file after the other.
CREATE FUNCTION max_run_uploads() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 100;
CREATE FUNCTION max_token_uploads() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 1000;

-- Let so many bytes of a file come, counted from its begin. `p_is_new` begins an upload; otherwise
-- it must have begun. The caller has judged who holds the run. One caller per token at a time.
CREATE FUNCTION admit_upload(
    p_run_id integer, p_artifact_key text, p_upload_id text, p_is_new boolean, p_place text,
    p_store text, p_size_bytes bigint, p_run_limit bigint, p_token_limit bigint
) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_token_id constant integer := (
        SELECT w.token_id FROM ops_run_lease l JOIN ops_worker w USING (worker_id)
        WHERE l.run_id = p_run_id);
    v_known bigint;
    v_sums record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('odooops.admit_upload'), coalesce(v_token_id, 0));
    SELECT u.size_bytes INTO v_known FROM ops_run_upload u
    WHERE (u.run_id, u.artifact_key, u.upload_id) = (p_run_id, p_artifact_key, p_upload_id);
    IF NOT p_is_new AND v_known IS NULL THEN
        RETURN refuse('upload_gone', format('There is no such upload of %s.', p_artifact_key));
    ELSIF v_known >= p_size_bytes THEN
        -- Its parts are signed anew: those addresses are good from now on.
        UPDATE ops_run_upload u SET changed_at = clock_timestamp()
        WHERE (u.run_id, u.artifact_key, u.upload_id) = (p_run_id, p_artifact_key, p_upload_id)
          AND u.changed_at < clock_timestamp() - interval '1 minute';
        RETURN jsonb_build_object('success', true);
    END IF;
    -- The limits of recorded artifacts count these from now on.
    DELETE FROM ops_run_upload u USING ops_run_artifact a
    WHERE u.token_id IS NOT DISTINCT FROM v_token_id AND u.upload_id = ''
      AND (a.run_id, a.artifact_key) = (u.run_id, u.artifact_key);
    SELECT coalesce(sum(u.size_bytes), 0) AS token_bytes, count(*) AS token_count,
           -- The complete log has a limit of its own.
           coalesce(sum(u.size_bytes) FILTER (
               WHERE u.run_id = p_run_id
                 AND (u.artifact_key = 'run.log.gz') = (p_artifact_key = 'run.log.gz')), 0)
               AS run_bytes,
           count(*) FILTER (WHERE u.run_id = p_run_id) AS run_count
    INTO v_sums FROM ops_run_upload u WHERE u.token_id IS NOT DISTINCT FROM v_token_id;
    IF v_known IS NULL AND v_sums.run_count >= max_run_uploads() THEN
        RETURN refuse('upload_limit', format(
            'The run has %s uploads that are not recorded; no more begin.', v_sums.run_count));
    ELSIF v_known IS NULL AND v_sums.token_count >= max_token_uploads() THEN
        RETURN refuse('upload_limit', format(
            'The worker has %s uploads that are not recorded; no more begin.', v_sums.token_count));
    ELSIF v_sums.run_bytes - coalesce(v_known, 0) + p_size_bytes > p_run_limit THEN
        RETURN refuse('upload_limit', format(
            'With %s the unrecorded uploads of the run exceed %s MiB.',
            p_artifact_key, p_run_limit >> 20));
    ELSIF v_sums.token_bytes - coalesce(v_known, 0) + p_size_bytes > p_token_limit THEN
        RETURN refuse('upload_limit', format(
            'With %s the unrecorded uploads of the worker exceed %s MiB.',
            p_artifact_key, p_token_limit >> 20));
    END IF;
    INSERT INTO ops_run_upload AS u (
        run_id, artifact_key, upload_id, token_id, place, store, size_bytes, changed_at)
    VALUES (p_run_id, p_artifact_key, p_upload_id, v_token_id, p_place, p_store, p_size_bytes,
            clock_timestamp())
    ON CONFLICT (run_id, artifact_key, upload_id) DO UPDATE
    SET size_bytes = excluded.size_bytes, changed_at = excluded.changed_at;
    RETURN jsonb_build_object('success', true);
END
$$;

-- The upload has ended: its parts are the file now, or they are gone.
CREATE FUNCTION end_upload(
    p_run_id integer, p_artifact_key text, p_upload_id text, p_is_complete boolean
) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_upload ops_run_upload;
BEGIN
    DELETE FROM ops_run_upload u
    WHERE (u.run_id, u.artifact_key, u.upload_id) = (p_run_id, p_artifact_key, p_upload_id)
    RETURNING * INTO v_upload;
    IF p_is_complete AND FOUND THEN
        INSERT INTO ops_run_upload AS u (
            run_id, artifact_key, upload_id, token_id, place, store, size_bytes, changed_at)
        VALUES (p_run_id, p_artifact_key, '', v_upload.token_id, v_upload.place, v_upload.store,
                v_upload.size_bytes, clock_timestamp())
        ON CONFLICT (run_id, artifact_key, upload_id) DO UPDATE
        SET size_bytes = greatest(u.size_bytes, excluded.size_bytes),
            changed_at = excluded.changed_at;
    END IF;
    RETURN jsonb_build_object('success', true);
END
$$;

-- Lock the next uploads that nobody can record any more: their run has ended, and an hour later no
-- address that was signed for them is good, nor is anything still on its way. `recorded` tells
-- that the file in the place belongs to a record, which is to keep it. The caller removes the rest
-- from the store and calls forget_upload; when it crashes in between it comes round again.
CREATE FUNCTION next_lapsed_uploads(p_after_id integer, p_limit integer)
RETURNS TABLE (
    id integer, run_id integer, artifact_key text, upload_id text, place text, store text,
    recorded boolean)
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $$
    SELECT u.id, u.run_id, u.artifact_key, u.upload_id, u.place, u.store,
           EXISTS (SELECT FROM ops_run_artifact a
                   WHERE (a.run_id, a.artifact_key) = (u.run_id, u.artifact_key))
    FROM ops_run_upload u
    WHERE u.changed_at < clock_timestamp() - interval '1 hour' AND u.id > p_after_id
      AND NOT EXISTS (SELECT FROM ops_run r WHERE r.id = u.run_id AND NOT is_terminal(r.status))
    ORDER BY u.id
    LIMIT p_limit
    FOR UPDATE OF u SKIP LOCKED
$$;

CREATE FUNCTION forget_upload(p_upload_row_id integer) RETURNS jsonb
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $$
    DELETE FROM ops_run_upload u WHERE u.id = p_upload_row_id;
    SELECT jsonb_build_object('success', true)
$$;
