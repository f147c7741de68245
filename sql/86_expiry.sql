-- Records of retention in the trail: which runs' events are gone on purpose, by whom, since when.
-- The order is: record, sign a checkpoint over the record, and only then drop. So there is no
-- moment at which events are missing without a signature that says why. The texts that are hashed
-- are described in docs/audit.md.

CREATE FUNCTION expiry_statement(p_expiry ops_audit_expiry) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT concat_ws(E'\n',
        'odooops expiry 1',
        'number ' || p_expiry.number,
        'timestamp ' || to_char(p_expiry."timestamp", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'prev_hash ' || coalesce(p_expiry.prev_hash, ''),
        'range_from ' || to_char(p_expiry.range_from, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'range_to ' || to_char(p_expiry.range_to, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'checkpoint_number ' || p_expiry.checkpoint_number,
        'run_count ' || p_expiry.run_count,
        'event_count ' || p_expiry.event_count,
        'root ' || p_expiry.root,
        'user_id ' || coalesce(p_expiry.user_id, 0),
        '')
$$;

-- Its projects as in a checkpoint: [project_id, root over the last events of their runs].
CREATE FUNCTION expired_projects(p_number integer) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_array(p.project_id, p.root) ORDER BY p.project_id), '[]')
    FROM (
        SELECT x.project_id, sha256_hex(string_agg(
                   head_line(x.run_id, x.event_seq, x.event_hash), '' ORDER BY x.run_id)) AS root
        FROM ops_audit_expiry_run x WHERE x.expiry_number = p_number GROUP BY x.project_id
    ) p
$$;

CREATE FUNCTION root_of_projects(p_projects jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
AS $$
    SELECT sha256_hex(coalesce(string_agg(
        format(E'%s %s\n', p.value ->> 0, p.value ->> 1), '' ORDER BY p.position), ''))
    FROM jsonb_array_elements(p_projects) WITH ORDINALITY AS p (value, position)
$$;

-- Record that the events of the runs queued in this time are about to go, as far as they are not
-- recorded yet. Returns the number of the record, or NULL. The caller has judged the runs.
CREATE FUNCTION record_expiry(p_from timestamp, p_to timestamp) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_last ops_audit_expiry;
    v_next ops_audit_expiry;
BEGIN
    -- The lock of the checkpoints: one of them must not be made in between.
    PERFORM pg_advisory_xact_lock(hashtext('odooops.audit_checkpoint'), 0);
    SELECT * INTO v_last FROM ops_audit_expiry x ORDER BY x.number DESC LIMIT 1;
    v_next.number := coalesce(v_last.number, 0) + 1;
    INSERT INTO ops_audit_expiry_run (expiry_number, project_id, run_id, event_seq, event_hash)
    SELECT v_next.number, r.project_id, r.id, r.event_seq, r.event_hash
    FROM ops_run r
    WHERE r.create_date >= p_from AND r.create_date < p_to
      AND EXISTS (SELECT FROM ops_run_event_row e
                  WHERE e.run_id = r.id AND e.run_queued_at = r.create_date)
      AND NOT EXISTS (SELECT FROM ops_audit_expiry_run x WHERE x.run_id = r.id);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT count(*), sum(x.event_seq) INTO v_next.run_count, v_next.event_count
    FROM ops_audit_expiry_run x WHERE x.expiry_number = v_next.number;
    v_next.projects := expired_projects(v_next.number);
    v_next.root := root_of_projects(v_next.projects);
    v_next."timestamp" := utc_now();
    v_next.prev_hash := v_last.hash;
    v_next.range_from := p_from;
    v_next.range_to := p_to;
    v_next.checkpoint_number := (SELECT max(c.number) FROM ops_audit_checkpoint c);
    v_next.user_id := acting_user_id();
    INSERT INTO ops_audit_expiry (
        number, "timestamp", prev_hash, range_from, range_to, checkpoint_number, run_count,
        event_count, projects, root, user_id, hash)
    VALUES (
        v_next.number, v_next."timestamp", v_next.prev_hash, v_next.range_from, v_next.range_to,
        v_next.checkpoint_number, v_next.run_count, v_next.event_count, v_next.projects,
        v_next.root, v_next.user_id, sha256_hex(expiry_statement(v_next)));
    RETURN v_next.number;
END
$$;

-- All records, as they are exported.
CREATE FUNCTION list_expiries()
RETURNS TABLE (
    number integer, "timestamp" text, prev_hash text, range_from text, range_to text,
    checkpoint_number integer, run_count integer, event_count integer, root text,
    user_id integer, hash text, projects jsonb)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT x.number, to_char(x."timestamp", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), x.prev_hash,
           to_char(x.range_from, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           to_char(x.range_to, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           x.checkpoint_number, x.run_count, x.event_count, x.root, coalesce(x.user_id, 0),
           x.hash, x.projects
    FROM ops_audit_expiry x
    ORDER BY x.number
$$;

-- Whether the records hold together, as verify_checkpoints does for the checkpoints.
CREATE FUNCTION verify_expiries() RETURNS TABLE (number integer, problem text)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    WITH chain AS (
        SELECT x.*, expiry_statement(x) AS statement,
               lag(x.hash) OVER w AS expected_prev,
               row_number() OVER w AS expected_number
        FROM ops_audit_expiry x
        WINDOW w AS (ORDER BY x.number)
    )
    SELECT x.number, 'missing: the record before this one'
    FROM chain x WHERE x.number <> x.expected_number
    UNION ALL
    SELECT x.number, 'broken link: prev_hash is not the hash of the record before'
    FROM chain x WHERE x.prev_hash IS DISTINCT FROM x.expected_prev
    UNION ALL
    SELECT x.number, 'altered: the content does not give the hash'
    FROM chain x WHERE x.hash IS DISTINCT FROM sha256_hex(x.statement)
    UNION ALL
    SELECT x.number, 'altered: the projects do not give the root'
    FROM chain x WHERE x.root IS DISTINCT FROM root_of_projects(x.projects)
    UNION ALL
    SELECT x.number, 'altered: its runs do not give the roots of their projects'
    FROM chain x WHERE x.projects IS DISTINCT FROM expired_projects(x.number)
    UNION ALL
    SELECT DISTINCT r.expiry_number, format('altered: no checkpoint holds the last event of run %s',
                                            r.run_id)
    FROM ops_audit_expiry_run r
    WHERE NOT EXISTS (
        SELECT FROM ops_audit_head h
        WHERE h.project_id = r.project_id AND h.run_id = r.run_id
          AND (h.event_seq, h.event_hash) = (r.event_seq, r.event_hash))
    UNION ALL
    SELECT DISTINCT r.expiry_number, 'missing: runs speak of it, but it is not there'
    FROM ops_audit_expiry_run r
    WHERE NOT EXISTS (SELECT FROM ops_audit_expiry x WHERE x.number = r.expiry_number)
    ORDER BY 1
$$;
