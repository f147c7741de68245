-- Secrets of projects. The kernel keeps sealed values and cannot open them: the keys lie outside
-- the database. It decides who gets them: the holder of a running run, and only those secrets
-- that the run's snapshot names.

-- Types whose workflows developers do not write: a protected secret is given to no other.
CREATE FUNCTION is_guarded_type(p_workflow_type text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN p_workflow_type IN ('deploy', 'backup', 'upgrade');

-- A trace of what happened to a secret, never of its value.
CREATE FUNCTION record_secret_change(p_secret_id integer, p_action text) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT
AS $$
    INSERT INTO ops_secret_change (project_id, name, environment, action, user_id, changed_at)
    SELECT s.project_id, s.name, s.environment, p_action, acting_user_id(), utc_now()
    FROM ops_secret s WHERE s.id = p_secret_id
$$;

-- Keep a sealed value (base64), in the place of the one before. For Odoo's own role: no other is
-- granted it.
CREATE FUNCTION set_secret_value(p_secret_id integer, p_key_id text, p_sealed text) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_is_new boolean;
BEGIN
    PERFORM FROM ops_secret s WHERE s.id = p_secret_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN refuse('not_found', 'There is no such secret.');
    END IF;
    v_is_new := NOT EXISTS (SELECT FROM ops_secret_value v WHERE v.secret_id = p_secret_id);
    INSERT INTO ops_secret_value AS v (secret_id, key_id, sealed)
    VALUES (p_secret_id, p_key_id, decode(p_sealed, 'base64'))
    ON CONFLICT (secret_id) DO UPDATE SET key_id = EXCLUDED.key_id, sealed = EXCLUDED.sealed;
    UPDATE ops_secret SET set_by = acting_user_id(), set_at = utc_now() WHERE id = p_secret_id;
    PERFORM record_secret_change(p_secret_id, CASE WHEN v_is_new THEN 'set' ELSE 'replaced' END);
    RETURN jsonb_build_object('success', true);
END
$$;

-- The same value sealed with another key, unless it has been replaced meanwhile.
CREATE FUNCTION reseal_secret(
    p_secret_id integer, p_old_sealed text, p_key_id text, p_sealed text
) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    UPDATE ops_secret_value v SET key_id = p_key_id, sealed = decode(p_sealed, 'base64')
    WHERE v.secret_id = p_secret_id AND v.sealed = decode(p_old_sealed, 'base64');
    IF NOT FOUND THEN
        RETURN refuse('conflict', 'The secret was replaced or removed meanwhile.');
    END IF;
    PERFORM record_secret_change(p_secret_id, 'resealed');
    RETURN jsonb_build_object('success', true);
END
$$;

-- A batch of what is not sealed with that key yet, for the rotation.
CREATE FUNCTION list_secrets_to_reseal(p_key_id text, p_after integer, p_limit integer)
RETURNS TABLE (
    secret_id integer, project_id integer, name text, environment text, key_id text, sealed text
)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT s.id, s.project_id, s.name, s.environment, v.key_id, encode(v.sealed, 'base64')
    FROM ops_secret s JOIN ops_secret_value v ON v.secret_id = s.id
    WHERE v.key_id <> p_key_id AND s.id > p_after
    ORDER BY s.id LIMIT p_limit
$$;

CREATE FUNCTION list_secret_keys() RETURNS TABLE (key_id text, secrets bigint)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT v.key_id, count(*) FROM ops_secret_value v GROUP BY v.key_id ORDER BY v.key_id
$$;

-- Names of the secrets that a workflow's configuration asks for.
CREATE FUNCTION secret_names(p_config jsonb) RETURNS SETOF text
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
AS $$
    SELECT DISTINCT CASE jsonb_typeof(item) WHEN 'string' THEN item #>> '{}' ELSE item ->> 'name' END
    FROM jsonb_array_elements(
        CASE jsonb_typeof(p_config -> 'secrets') WHEN 'array' THEN p_config -> 'secrets'
             ELSE '[]' END) AS item
$$;

-- The same of the tools in a run's snapshot, those of its services included: the passwords of their
-- images' registries. Platform administrators register tools.
CREATE FUNCTION tool_secret_names(p_snapshot jsonb) RETURNS SETOF text
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
AS $$
    SELECT DISTINCT tool #>> '{config,registry_auth,password_secret}'
    FROM (SELECT p_snapshot -> 'tool'
          UNION ALL
          SELECT s.value FROM jsonb_each(coalesce(p_snapshot -> 'service_tools', '{}')) AS s
    ) AS t (tool)
    WHERE tool #>> '{config,registry_auth,password_secret}' IS NOT NULL
$$;

-- The sealed secrets a run asks for: of each name the one of the run's environment, or else the one
-- for all environments. `missing` names those that are not set, `withheld` those that are
-- protected and asked for by a workflow that developers may write. What the tool alone asks for
-- reaches the worker and no step: it may be protected.
CREATE FUNCTION secrets_of_run(p_run ops_run) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    WITH found AS (
        SELECT n.name, s.environment, v.key_id, encode(v.sealed, 'base64') AS sealed,
               v.secret_id IS NULL AS is_missing,
               s.protected AND n.is_for_steps AND NOT is_guarded_type(p_run.workflow_type)
                   AS is_withheld
        FROM (
            SELECT asked.name, bool_or(asked.is_for_steps)
            FROM (SELECT c.name, true FROM secret_names(p_run.snapshot -> 'config') AS c (name)
                  UNION ALL
                  SELECT t.name, false FROM tool_secret_names(p_run.snapshot) AS t (name)
            ) AS asked (name, is_for_steps)
            GROUP BY asked.name
        ) AS n (name, is_for_steps)
        LEFT JOIN LATERAL (
            SELECT * FROM ops_secret o
            WHERE o.project_id = p_run.project_id AND o.name = n.name
              AND (o.environment IS NULL
                   OR o.environment = p_run.snapshot #>> '{metadata,environment}')
            ORDER BY o.environment NULLS LAST LIMIT 1
        ) s ON true
        LEFT JOIN ops_secret_value v ON v.secret_id = s.id
    )
    SELECT jsonb_build_object(
        'project_id', p_run.project_id,
        'environment', p_run.snapshot #>> '{metadata,environment}',
        'secrets', coalesce(jsonb_agg(jsonb_build_object(
            'name', f.name, 'environment', f.environment, 'key_id', f.key_id,
            'sealed', f.sealed) ORDER BY f.name)
            FILTER (WHERE NOT f.is_missing AND NOT coalesce(f.is_withheld, false)), '[]'),
        'missing', coalesce(jsonb_agg(f.name ORDER BY f.name) FILTER (WHERE f.is_missing), '[]'),
        'withheld', coalesce(jsonb_agg(f.name ORDER BY f.name)
            FILTER (WHERE NOT f.is_missing AND f.is_withheld), '[]'))
    FROM found f
$$;

-- The same for Odoo, which masks them in what workers say about the run through its own door.
CREATE FUNCTION secrets_to_mask(p_run_id integer) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT jsonb_build_object('success', true, 'secrets', '[]'::jsonb) || coalesce((
        SELECT secrets_of_run(r) FROM ops_run r
        WHERE r.id = p_run_id
          AND (r.snapshot -> 'config' ? 'secrets'
               OR EXISTS (SELECT FROM tool_secret_names(r.snapshot)))), '{}')
$$;

-- For the worker that executes the run. Which run was given which secrets stands in its trail.
CREATE FUNCTION run_secrets(p_run_id integer, p_worker_id text, p_epoch integer) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_run ops_run;
    v_reply jsonb;
    v_payload jsonb;
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    END IF;
    SELECT * INTO v_run FROM ops_run r WHERE r.id = p_run_id FOR NO KEY UPDATE;
    v_reply := coalesce(
        worker_id_problem(p_worker_id),
        CASE WHEN p_epoch IS NULL THEN refuse('invalid_input', 'epoch must be given') END,
        holder_problem(p_run_id, p_worker_id, p_epoch),
        CASE WHEN v_run.status <> 'running' THEN refuse('invalid_state', format(
            'Run #%s is %s; only a running run is given secrets.', v_run.run_number, v_run.status))
        END);
    IF v_reply IS NOT NULL THEN
        RETURN v_reply;
    END IF;
    v_reply := secrets_of_run(v_run);
    v_payload := jsonb_build_object(
        'epoch', p_epoch,
        'names', coalesce(jsonb_path_query_array(v_reply, '$.secrets[*].name'), '[]'));
    -- The reply may get lost and the question be repeated; given is given.
    IF v_payload -> 'names' <> '[]' AND NOT EXISTS (
        SELECT FROM ops_run_event e
        WHERE e.run_id = p_run_id AND e.message = 'secrets given' AND e.payload = v_payload) THEN
        PERFORM record_event(p_run_id, 'info', 'secrets given', v_payload);
    END IF;
    RETURN v_reply || jsonb_build_object('success', true);
END
$$;

CREATE OR REPLACE TRIGGER ops_secret_change_append_only
    BEFORE UPDATE OR DELETE ON ops_secret_change
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER ops_secret_change_no_truncate BEFORE TRUNCATE ON ops_secret_change
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
