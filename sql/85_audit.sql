-- Checkpoints: what the trail was at a moment, in a form that is signed outside the database.
-- The texts that are hashed here are described in docs/audit.md; scripts/odooops/verify_audit.py
-- makes them again without PostgreSQL.

CREATE OR REPLACE TRIGGER ops_audit_head_append_only BEFORE UPDATE OR DELETE ON ops_audit_head
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_audit_head_no_truncate BEFORE TRUNCATE ON ops_audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_audit_checkpoint_append_only
    BEFORE UPDATE OR DELETE ON ops_audit_checkpoint
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_audit_checkpoint_no_truncate
    BEFORE TRUNCATE ON ops_audit_checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_audit_checkpoint_project_append_only
    BEFORE UPDATE OR DELETE ON ops_audit_checkpoint_project
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_audit_checkpoint_project_no_truncate
    BEFORE TRUNCATE ON ops_audit_checkpoint_project
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE TRIGGER ops_audit_expiry_append_only BEFORE UPDATE OR DELETE ON ops_audit_expiry
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_audit_expiry_no_truncate BEFORE TRUNCATE ON ops_audit_expiry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_audit_expiry_run_append_only
    BEFORE UPDATE OR DELETE ON ops_audit_expiry_run
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_audit_expiry_run_no_truncate BEFORE TRUNCATE ON ops_audit_expiry_run
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A transaction may write an event and commit it only so much later; no checkpoint in between
-- can hold the event. Odoo ends requests after two minutes.
CREATE FUNCTION audit_tolerance() RETURNS interval LANGUAGE sql IMMUTABLE RETURN interval '15 minutes';

CREATE FUNCTION sha256_hex(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN encode(sha256(convert_to(p_text, 'UTF8')), 'hex');

-- What a head adds to the root of its project.
CREATE FUNCTION head_line(p_run_id integer, p_event_seq integer, p_event_hash text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN p_run_id || ' ' || p_event_seq || ' ' || p_event_hash || E'\n';

-- One row per project of a checkpoint: the hash over the heads of its runs.
CREATE FUNCTION project_roots(p_number integer)
RETURNS TABLE (project_id integer, run_count bigint, event_count bigint, root text)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT h.project_id, count(*), sum(h.event_seq - h.prev_seq),
           sha256_hex(string_agg(
               head_line(h.run_id, h.event_seq, h.event_hash), '' ORDER BY h.run_id))
    FROM ops_audit_head h
    WHERE h.checkpoint_number = p_number
    GROUP BY h.project_id
$$;

-- The text that is hashed and signed. Checkpoints of the first version knew no retention.
CREATE FUNCTION checkpoint_statement(p_checkpoint ops_audit_checkpoint) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT concat_ws(E'\n',
        'odooops checkpoint ' || coalesce(p_checkpoint.statement_version, 1),
        'database_uuid ' || p_checkpoint.database_uuid,
        'number ' || p_checkpoint.number,
        'timestamp ' || to_char(p_checkpoint."timestamp", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'prev_hash ' || coalesce(p_checkpoint.prev_hash, ''),
        'run_count ' || p_checkpoint.run_count,
        'event_count ' || p_checkpoint.event_count,
        'root ' || p_checkpoint.root,
        'key_id ' || p_checkpoint.key_id,
        CASE WHEN p_checkpoint.statement_version > 1
            THEN 'expiry_number ' || p_checkpoint.expiry_number END,
        CASE WHEN p_checkpoint.statement_version > 1
            THEN 'expiry_hash ' || coalesce(p_checkpoint.expiry_hash, '') END,
        '')
$$;

-- First half of a checkpoint: take the heads of all chains that have grown since the last one,
-- and the last record of retention, and say what is to be signed. The caller signs, calls add_checkpoint and commits; wants READ
-- COMMITTED, so that what follows the lock sees what its last holder did.
CREATE FUNCTION prepare_checkpoint(p_database_uuid text, p_key_id text) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
-- One plan, whatever the statistics say: by index from each grown run. The pending rows come and
-- go, and the heads are read while the same statement adds to them, so counts of rows are stale.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    v_last ops_audit_checkpoint;
    v_next ops_audit_checkpoint;
    v_projects jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('odooops.audit_checkpoint'), 0);
    SELECT * INTO v_last FROM ops_audit_checkpoint c ORDER BY c.number DESC LIMIT 1;
    v_next.number := coalesce(v_last.number, 0) + 1;
    v_next.prev_hash := v_last.hash;
    v_next.database_uuid := p_database_uuid;
    v_next.key_id := p_key_id;
    v_next."timestamp" := utc_now();
    v_next.statement_version := 2;
    SELECT x.number, x.hash INTO v_next.expiry_number, v_next.expiry_hash
    FROM ops_audit_expiry x ORDER BY x.number DESC LIMIT 1;
    v_next.expiry_number := coalesce(v_next.expiry_number, 0);
    -- One statement, one snapshot: a pending row is seen together with the head it stands for.
    WITH drained AS (
        DELETE FROM ops_audit_pending RETURNING run_id
    ), grown AS (
        SELECT r.project_id, r.id, r.event_seq, r.event_hash, coalesce((
            SELECT h.event_seq FROM ops_audit_head h
            WHERE h.project_id = r.project_id AND h.run_id = r.id
            ORDER BY h.checkpoint_number DESC LIMIT 1), 0) AS prev_seq
        FROM ops_run r
        WHERE r.id IN (SELECT d.run_id FROM drained d)
    )
    INSERT INTO ops_audit_head
        (project_id, run_id, checkpoint_number, prev_seq, event_seq, event_hash)
    SELECT g.project_id, g.id, v_next.number, g.prev_seq, g.event_seq, g.event_hash
    FROM grown g WHERE g.event_seq > g.prev_seq;
    IF NOT FOUND AND v_next.expiry_number = coalesce(v_last.expiry_number, 0) THEN
        RETURN jsonb_build_object('success', true, 'number', NULL);
    END IF;
    SELECT coalesce(sum(p.run_count), 0), coalesce(sum(p.event_count), 0),
           sha256_hex(coalesce(string_agg(p.project_id || ' ' || p.root || E'\n', ''
                                          ORDER BY p.project_id), '')),
           coalesce(jsonb_agg(to_jsonb(p)), '[]')
    INTO v_next.run_count, v_next.event_count, v_next.root, v_projects
    FROM project_roots(v_next.number) p;
    RETURN jsonb_build_object(
        'success', true, 'number', v_next.number, 'checkpoint', to_jsonb(v_next),
        'projects', v_projects,
        'statement', checkpoint_statement(v_next));
END
$$;

-- Second half: what prepare_checkpoint returned, with its signature (base64) and the public key
-- (PEM) that proves it.
CREATE FUNCTION add_checkpoint(p_prepared jsonb, p_public_key text, p_signature text) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_id integer;
BEGIN
    INSERT INTO ops_audit_checkpoint (
        number, database_uuid, "timestamp", prev_hash, run_count, event_count, root, key_id,
        statement_version, expiry_number, expiry_hash, hash, public_key, signature)
    SELECT c.number, c.database_uuid, c."timestamp", c.prev_hash, c.run_count, c.event_count,
           c.root, c.key_id, c.statement_version, c.expiry_number, c.expiry_hash,
           sha256_hex(p_prepared ->> 'statement'), p_public_key, p_signature
    FROM jsonb_populate_record(NULL::ops_audit_checkpoint, p_prepared -> 'checkpoint') c
    RETURNING id INTO v_id;
    INSERT INTO ops_audit_checkpoint_project
        (checkpoint_id, project_id, run_count, event_count, root)
    SELECT v_id, p.project_id, p.run_count, p.event_count, p.root
    FROM jsonb_populate_recordset(
        NULL::ops_audit_checkpoint_project, p_prepared -> 'projects') p;
    RETURN jsonb_build_object(
        'success', true, 'checkpoint_id', v_id, 'number', p_prepared -> 'number');
END
$$;

-- All checkpoints with their statements, for those who check signatures.
CREATE FUNCTION list_checkpoints()
RETURNS TABLE (
    version integer, number integer, database_uuid text, "timestamp" text, prev_hash text,
    run_count integer, event_count integer, root text, key_id text, expiry_number integer,
    expiry_hash text, hash text, public_key text, signature text, statement text, projects jsonb)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT coalesce(c.statement_version, 1), c.number, c.database_uuid,
           to_char(c."timestamp", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), c.prev_hash,
           c.run_count, c.event_count, c.root, c.key_id, c.expiry_number, c.expiry_hash, c.hash,
           c.public_key, c.signature, checkpoint_statement(c),
           (SELECT coalesce(jsonb_agg(jsonb_build_array(p.project_id, p.root)
                                      ORDER BY p.project_id), '[]')
            FROM ops_audit_checkpoint_project p WHERE p.checkpoint_id = c.id)
    FROM ops_audit_checkpoint c
    ORDER BY c.number
$$;

-- Whether the checkpoints hold together; signatures are the caller's part, PostgreSQL has no
-- Ed25519. With a project, its heads only.
CREATE FUNCTION verify_checkpoints(p_project_id integer DEFAULT NULL)
RETURNS TABLE (number integer, problem text)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    WITH chain AS (
        SELECT c.*, checkpoint_statement(c) AS statement,
               lag(c.hash) OVER w AS expected_prev,
               row_number() OVER w AS expected_number
        FROM ops_audit_checkpoint c
        WINDOW w AS (ORDER BY c.number)
    )
    SELECT c.number, 'missing: the checkpoint before this one'
    FROM chain c WHERE c.number <> c.expected_number
    UNION ALL
    SELECT c.number, 'broken link: prev_hash is not the hash of the checkpoint before'
    FROM chain c WHERE c.prev_hash IS DISTINCT FROM c.expected_prev
    UNION ALL
    SELECT c.number, 'altered: the content does not give the hash'
    FROM chain c
    WHERE c.hash IS DISTINCT FROM sha256_hex(c.statement)
    UNION ALL
    SELECT c.number, 'altered: the projects do not give the root'
    FROM chain c
    WHERE c.root IS DISTINCT FROM (
        SELECT sha256_hex(coalesce(string_agg(p.project_id || ' ' || p.root || E'\n', ''
                                              ORDER BY p.project_id), ''))
        FROM ops_audit_checkpoint_project p WHERE p.checkpoint_id = c.id)
    UNION ALL
    SELECT coalesce(p.number, r.checkpoint_number),
           format('altered: the heads of project %s do not give its root',
                  coalesce(p.project_id, r.project_id))
    FROM (
        SELECT c.number, k.project_id, k.root
        FROM ops_audit_checkpoint c JOIN ops_audit_checkpoint_project k ON k.checkpoint_id = c.id
        WHERE p_project_id IS NULL OR k.project_id = p_project_id
    ) p
    FULL JOIN (
        SELECT h.checkpoint_number, h.project_id, sha256_hex(string_agg(
                   head_line(h.run_id, h.event_seq, h.event_hash), '' ORDER BY h.run_id)) AS root
        FROM ops_audit_head h
        WHERE p_project_id IS NULL OR h.project_id = p_project_id
        GROUP BY h.checkpoint_number, h.project_id
    ) r ON r.checkpoint_number = p.number AND r.project_id = p.project_id
    WHERE p.root IS DISTINCT FROM r.root
    UNION ALL
    SELECT c.number, format('missing: the record of expiry %s as it was signed', c.expiry_number)
    FROM chain c
    WHERE c.expiry_number > 0 AND NOT EXISTS (
        SELECT FROM ops_audit_expiry x WHERE (x.number, x.hash) = (c.expiry_number, c.expiry_hash))
    UNION ALL
    SELECT DISTINCT h.checkpoint_number, 'missing: the trail speaks of it, but it is not there'
    FROM ops_audit_head h
    WHERE NOT EXISTS (
        SELECT FROM ops_audit_checkpoint c WHERE c.number = h.checkpoint_number)
    ORDER BY 1
$$;

-- Every run of a project, or of all: its chain, and its chain against the checkpoints. No row
-- means that the history holds. What a signed record of retention names may be gone, as a whole.
CREATE FUNCTION verify_trail(p_project_id integer DEFAULT NULL)
RETURNS TABLE (project_id integer, run_id integer, seq integer, problem text)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    WITH expired AS MATERIALIZED (
        SELECT x.* FROM ops_audit_expiry_run x
        WHERE (p_project_id IS NULL OR x.project_id = p_project_id)
          AND x.expiry_number <= (SELECT max(c.expiry_number) FROM ops_audit_checkpoint c)
          AND NOT EXISTS (SELECT FROM ops_run_event_row e WHERE e.run_id = x.run_id)
    )
    SELECT r.project_id, v.run_id, v.seq, v.problem
    FROM ops_run r CROSS JOIN LATERAL chain_problems(r.id) v
    WHERE p_project_id IS NULL OR r.project_id = p_project_id
    UNION ALL
    SELECT r.project_id, e.run_id, e.seq, 'moved: it lies under another time of queueing than its run'
    FROM ops_run_event_row e JOIN ops_run r ON r.id = e.run_id
    WHERE (p_project_id IS NULL OR r.project_id = p_project_id)
      AND e.run_queued_at <> r.create_date
    UNION ALL
    SELECT h.project_id, h.run_id, h.event_seq, CASE
        WHEN e.run_id IS NULL THEN 'missing: checkpoint ' || h.checkpoint_number || ' holds it'
        ELSE 'altered: checkpoint ' || h.checkpoint_number || ' holds another event' END
    FROM ops_audit_head h
    LEFT JOIN expired x ON x.run_id = h.run_id AND x.project_id = h.project_id
    LEFT JOIN ops_run_event_row e ON e.run_id = h.run_id AND e.seq = h.event_seq
    WHERE (p_project_id IS NULL OR h.project_id = p_project_id)
      AND e.hash IS DISTINCT FROM h.event_hash
      AND NOT coalesce(h.event_seq < x.event_seq
                       OR (h.event_seq, h.event_hash) = (x.event_seq, x.event_hash), false)
    UNION ALL
    SELECT h.project_id, h.run_id, NULL, 'moved: checkpoints hold the run under another project'
    FROM ops_audit_head h JOIN ops_run r ON r.id = h.run_id
    WHERE (p_project_id IS NULL OR h.project_id = p_project_id)
      AND r.project_id <> h.project_id
    UNION ALL
    SELECT r.project_id, e.run_id, e.seq, 'backdated: checkpoint ' || c.number
        || ' is newer and does not hold it'
    FROM (SELECT k.number, k."timestamp" FROM ops_audit_checkpoint k
          ORDER BY k.number DESC LIMIT 1) c
    CROSS JOIN ops_run r
    CROSS JOIN LATERAL (
        SELECT coalesce(max(h.event_seq), 0) AS event_seq FROM ops_audit_head h
        WHERE h.project_id = r.project_id AND h.run_id = r.id
    ) covered
    JOIN ops_run_event_row e
        ON e.run_id = r.id AND e.run_queued_at = r.create_date AND e.seq > covered.event_seq
    WHERE (p_project_id IS NULL OR r.project_id = p_project_id)
      AND e."timestamp" < c."timestamp" - audit_tolerance()
    ORDER BY 1, 2, 3
$$;
