-- Into the queue: check what was asked, freeze what will run, number it.

-- Why a git ref cannot be used, or NULL. It reaches git as an argument on the worker.
CREATE FUNCTION git_ref_problem(p_git_ref text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN p_git_ref = '' OR length(p_git_ref) > 255 THEN 'must have 1 to 255 characters'
    WHEN p_git_ref ~ '^-' THEN 'must not begin with a dash'
    WHEN p_git_ref ~ '[[:space:][:cntrl:]~^:?*\[\\]' OR p_git_ref ~ '\.\.|@\{|\.lock$|/$'
        THEN 'is not a name git accepts'
END;

-- The registry's row for a workflow's `tool`, "name" or "name:version"; the newest row of
-- a name stands for the name alone.
CREATE FUNCTION find_tool(p_tool text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT jsonb_build_object(
        'tool_name', t.tool_name,
        'version', t.version,
        'docker_image', t.docker_image,
        'digest', t.digest,
        'config', coalesce(t.config, '{}'::jsonb))
    FROM ops_tool t
    WHERE t.active
      AND (p_tool = t.tool_name || ':' || t.version OR p_tool = t.tool_name)
    ORDER BY t.id DESC
    LIMIT 1
$$;

-- The tools that a workflow's services name: as it names them → the registry's row, null when
-- there is none.
CREATE FUNCTION find_service_tools(p_config jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT coalesce(jsonb_object_agg(name, find_tool(name)), '{}')
    FROM (SELECT DISTINCT s #>> '{}' FROM jsonb_path_query(p_config, '$.services[*].tool') AS s)
        AS named (name)
    WHERE name IS NOT NULL
$$;

-- Everything a worker needs to execute a run, frozen when it is queued.
CREATE FUNCTION build_snapshot(p_workflow_id integer, p_git_ref text, p_git_commit text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT jsonb_build_object(
        'project', jsonb_build_object(
            'id', p.id,
            'slug', p.slug,
            'name', p.name,
            'repository_url', p.repository_url,
            'default_branch', p.default_branch,
            'odoo_version', p.odoo_version,
            'repository_config', p.repository_config,
            'config', coalesce(p.config, '{}'::jsonb)),
        'workflow', jsonb_build_object(
            'id', w.id, 'workflow_type', w.workflow_type, 'name', w.name),
        'git_ref', p_git_ref,
        'git_commit', p_git_commit,
        'config', coalesce(w.config, '{}'::jsonb),
        'tool', find_tool(w.config ->> 'tool'),
        'service_tools', CASE WHEN w.config ? 'services' THEN find_service_tools(w.config)
                              ELSE '{}' END)
    FROM ops_workflow w
    JOIN ops_project p ON p.id = w.project_id
    WHERE w.id = p_workflow_id
$$;

-- Why these arguments cannot be queued: a refusal, or NULL.
CREATE FUNCTION queue_problem(
    p_git_ref text, p_git_commit text, p_idempotency_key text, p_priority integer,
    p_available_at timestamptz, p_metadata jsonb, p_trigger text
) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT refuse('invalid_input', problem) FROM (VALUES
        (1, 'git_ref ' || git_ref_problem(p_git_ref)),
        (2, CASE WHEN p_git_commit !~ '^([0-9a-f]{40}|[0-9a-f]{64})$'
            THEN 'git_commit must be a full commit id: 40 (or 64) lower-case hex digits' END),
        (3, CASE WHEN length(p_idempotency_key) NOT BETWEEN 1 AND 200
            THEN 'idempotency_key must have 1 to 200 characters' END),
        (4, CASE WHEN p_priority NOT BETWEEN -1000 AND 1000
            THEN 'priority must lie between -1000 and 1000' END),
        (5, CASE WHEN jsonb_typeof(p_metadata) <> 'object' THEN 'metadata must be a JSON object'
                 WHEN octet_length(p_metadata::text) > 65536
            THEN 'metadata must not exceed 65536 bytes' END),
        (6, CASE WHEN p_trigger NOT IN ('manual', 'api', 'webhook', 'schedule', 'retry')
            THEN 'trigger must be manual, api, webhook, schedule or retry' END),
        (7, CASE WHEN NOT is_readable_time(p_available_at)
            THEN 'available_at must be a time in the years 1970 to 8999' END)
    ) AS checks (rank, problem)
    WHERE problem IS NOT NULL ORDER BY rank LIMIT 1
$$;

-- The row itself; NULL when the idempotency key is taken. Idle workers of the database hear
-- of it at commit (one constant payload, so PostgreSQL folds many into one).
CREATE FUNCTION insert_run(
    p_workflow_id integer, p_snapshot jsonb, p_git_ref text, p_git_commit text,
    p_idempotency_key text, p_priority integer, p_available_at timestamp,
    p_metadata jsonb, p_trigger text, p_retry_of integer, p_attempt integer
) RETURNS ops_run
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_project_id constant integer := (p_snapshot #>> '{project,id}')::integer;
    v_config constant jsonb := p_snapshot -> 'config';
    v_now constant timestamp := utc_now();
    v_user integer := acting_user_id();
    v_run ops_run;
BEGIN
    INSERT INTO ops_run (
        project_id, workflow_id, workflow_type, run_number, status, snapshot, labels,
        concurrency_group, git_ref, git_commit, idempotency_key, priority, available_at,
        metadata, trigger, retry_of, attempt, requested_by, epoch,
        create_date, create_uid, write_date, write_uid)
    VALUES (
        v_project_id, p_workflow_id, p_snapshot #>> '{workflow,workflow_type}',
        nextval(format('%I', 'run_number_' || v_project_id)), 'queued',
        p_snapshot || jsonb_build_object('metadata', p_metadata),
        nullif(v_config -> 'labels', '[]'), v_config ->> 'concurrency_group',
        p_git_ref, p_git_commit, p_idempotency_key, p_priority, coalesce(p_available_at, v_now),
        p_metadata, p_trigger, p_retry_of, p_attempt, v_user, 0,
        v_now, v_user, v_now, v_user)
    ON CONFLICT (project_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING * INTO v_run;
    IF FOUND THEN
        NOTIFY odooops_queue;
    END IF;
    RETURN v_run;
END
$$;

-- Runs of a schedule never overlap: without a group of their own they share one per workflow.
CREATE FUNCTION with_schedule_group(p_snapshot jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN p_snapshot #>> '{config,concurrency_group}' IS NULL
    THEN jsonb_set(p_snapshot, '{config,concurrency_group}',
                   to_jsonb('schedule-' || (p_snapshot #>> '{workflow,id}')))
    ELSE p_snapshot END;

CREATE FUNCTION queued_reply(p_run ops_run, p_created boolean) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT jsonb_build_object(
        'success', true, 'run_id', p_run.id, 'run_number', p_run.run_number,
        'status', p_run.status, 'created', p_created)
$$;

-- Put a run of a workflow into the queue. The same idempotency key gives the same run.
CREATE FUNCTION queue_run(
    p_workflow_id integer,
    p_git_ref text DEFAULT NULL,
    p_git_commit text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_priority integer DEFAULT 0,
    p_available_at timestamptz DEFAULT NULL,
    p_metadata jsonb DEFAULT '{}',
    p_trigger text DEFAULT 'manual'
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    v_workflow record;
    v_refusal jsonb;
    v_run ops_run;
    v_git_ref text;
    v_git_commit text;
    v_missing text;
    v_snapshot jsonb;
BEGIN
    SELECT w.*, p.slug, p.default_branch, p.active AS project_active INTO v_workflow
    FROM ops_workflow w JOIN ops_project p ON p.id = w.project_id
    WHERE w.id = p_workflow_id;
    v_refusal := permission_problem(v_workflow.project_id, 'queue_run',
                                    coalesce('There is no workflow ' || p_workflow_id || '.',
                                             'workflow_id is missing.'));
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    ELSIF NOT is_owner() AND coalesce(p_trigger, 'manual') NOT IN ('manual', 'api') THEN
        RETURN refuse('invalid_input', 'trigger must be manual or api');
    END IF;
    IF p_idempotency_key IS NOT NULL THEN
        SELECT * INTO v_run FROM ops_run r
        WHERE r.project_id = v_workflow.project_id AND r.idempotency_key = p_idempotency_key;
    END IF;
    IF v_run.id IS NULL THEN
        IF NOT v_workflow.project_active THEN
            RETURN refuse('disabled', format('Project %s is archived.', v_workflow.slug));
        ELSIF NOT coalesce(v_workflow.enabled, false) THEN
            RETURN refuse('disabled', format('Workflow %s is disabled.', v_workflow.name));
        ELSIF v_workflow.config ->> 'tool' IS NOT NULL
              AND find_tool(v_workflow.config ->> 'tool') IS NULL THEN
            RETURN refuse('invalid_input', format(
                'Workflow %s names the tool %s, which is not registered.',
                v_workflow.name, v_workflow.config ->> 'tool'));
        ELSIF v_workflow.config ? 'services' THEN
            SELECT t.key INTO v_missing FROM jsonb_each(find_service_tools(v_workflow.config)) AS t
            WHERE t.value = 'null' ORDER BY t.key LIMIT 1;
            IF FOUND THEN
                RETURN refuse('invalid_input', format(
                    'A service of workflow %s names the tool %s, which is not registered.',
                    v_workflow.name, v_missing));
            END IF;
        END IF;
        v_git_ref := coalesce(p_git_ref, v_workflow.git_ref, v_workflow.default_branch);
        v_git_commit := coalesce(
            p_git_commit, CASE WHEN p_git_ref IS NULL THEN v_workflow.git_commit END);
        v_refusal := queue_problem(v_git_ref, v_git_commit, p_idempotency_key,
            coalesce(p_priority, 0), p_available_at, coalesce(p_metadata, '{}'),
            coalesce(p_trigger, 'manual'));
        IF v_refusal IS NOT NULL THEN
            RETURN v_refusal;
        END IF;
        v_snapshot := build_snapshot(p_workflow_id, v_git_ref, v_git_commit);
        IF p_trigger = 'schedule' THEN
            v_snapshot := with_schedule_group(v_snapshot);
        END IF;
        v_run := insert_run(
            p_workflow_id, v_snapshot, v_git_ref, v_git_commit, p_idempotency_key,
            coalesce(p_priority, 0),
            p_available_at AT TIME ZONE 'UTC', coalesce(p_metadata, '{}'),
            coalesce(p_trigger, 'manual'), NULL, 1);
        IF v_run.id IS NOT NULL THEN
            RETURN queued_reply(v_run, true);
        END IF;
        -- Somebody else inserted the key between our look and our insert.
        SELECT * INTO v_run FROM ops_run r
        WHERE r.project_id = v_workflow.project_id AND r.idempotency_key = p_idempotency_key;
    END IF;
    IF v_run.workflow_id <> p_workflow_id THEN
        RETURN refuse('conflict', format(
            'The idempotency key belongs to run #%s of another workflow.', v_run.run_number));
    END IF;
    RETURN queued_reply(v_run, false);
END
$$;

-- The same work once more: a new run with the old one's snapshot.
CREATE FUNCTION retry_run(p_run_id integer) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    v_refusal constant jsonb := run_permission_problem(p_run_id, 'cancel_run', 'cancel_own_run');
    v_old ops_run;
    v_workflow record;
BEGIN
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    SELECT * INTO v_old FROM ops_run r WHERE r.id = p_run_id;
    IF NOT is_terminal(v_old.status) THEN
        RETURN refuse('invalid_state', format(
            'Run #%s is %s; only a run that has ended can be restarted.',
            v_old.run_number, v_old.status));
    END IF;
    SELECT w.enabled, p.active INTO v_workflow
    FROM ops_workflow w JOIN ops_project p ON p.id = w.project_id
    WHERE w.id = v_old.workflow_id;
    IF NOT (v_workflow.active AND coalesce(v_workflow.enabled, false)) THEN
        RETURN refuse('disabled', 'The workflow is disabled or its project is archived.');
    END IF;
    RETURN queued_reply(insert_run(
        v_old.workflow_id, v_old.snapshot, v_old.git_ref, v_old.git_commit, NULL,
        v_old.priority, NULL, v_old.snapshot -> 'metadata', 'retry', v_old.id, 1), true);
END
$$;

-- How long the retry of a failed attempt waits: the policy's `backoff` in seconds, twice as long
-- after each further attempt, a day at most.
CREATE FUNCTION retry_pause(p_policy jsonb, p_attempt integer) RETURNS interval
LANGUAGE sql IMMUTABLE
RETURN make_interval(secs => least(
    86400, coalesce((p_policy ->> 'backoff')::double precision, 0) * 2 ^ (p_attempt - 1)));

-- Restart a failed run by itself, for the causes the workflow names and as often as it allows.
CREATE FUNCTION retry_automatically(p_run_id integer) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    v_run ops_run;
    v_retry ops_run;
BEGIN
    SELECT * INTO v_run FROM ops_run r
    WHERE r.id = p_run_id
      AND r.status = 'failed'
      AND r.cancel_requested_at IS NULL
      AND coalesce(r.snapshot #> '{config,retry,on}', '["worker_lost"]') ? r.error_code
      AND r.attempt <= coalesce((r.snapshot #>> '{config,retry,max}')::integer, 0);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    v_retry := insert_run(
        v_run.workflow_id, v_run.snapshot, v_run.git_ref, v_run.git_commit, NULL,
        v_run.priority,
        utc_now() + retry_pause(v_run.snapshot #> '{config,retry}', v_run.attempt),
        v_run.snapshot -> 'metadata', 'retry', v_run.id, v_run.attempt + 1);
    RETURN v_retry.id;
END
$$;

-- Why a run still waits: the first reason that holds.
CREATE FUNCTION wait_reason(p_run_id integer) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
DECLARE
    v_run record;
    v_code text;
    v_message text;
BEGIN
    SELECT r.*, p.active AS project_active, p.paused, p.max_running,
           (SELECT count(*) FROM ops_run a WHERE a.project_id = r.project_id
              AND a.status IN ('claimed', 'running')) AS active_count,
           EXISTS (SELECT FROM ops_run a WHERE a.project_id = r.project_id
              AND a.concurrency_group = r.concurrency_group
              AND a.status IN ('claimed', 'running')) AS group_busy,
           (SELECT h.run_number FROM ops_run h
            WHERE h.id = group_head(r.project_id, r.concurrency_group)) AS group_head,
           (SELECT count(*) FROM live_workers() l WHERE l.state = 'active') AS worker_count,
           (SELECT count(*) FROM live_workers() l
              WHERE coalesce(r.labels, '[]') <@ coalesce(l.labels, '[]')
                AND l.state = 'active') AS fitting_count,
           (SELECT count(*) FROM live_workers() l
              WHERE coalesce(r.labels, '[]') <@ coalesce(l.labels, '[]')
                AND l.state = 'active'
                AND l.capacity > (SELECT count(*) FROM ops_run_lease e
                                  WHERE e.worker_id = l.worker_id)) AS free_count
    INTO v_run
    FROM ops_run r JOIN ops_project p ON p.id = r.project_id
    WHERE r.id = p_run_id;
    SELECT reason.code, reason.message INTO v_code, v_message FROM (VALUES
        (1, v_run.status <> 'queued', 'not_waiting', format('The run is %s.', v_run.status)),
        (2, NOT v_run.project_active, 'project_archived', 'The project is archived.'),
        (3, coalesce(v_run.paused, false), 'project_paused', 'The project is paused.'),
        (4, v_run.available_at > utc_now(), 'scheduled_later',
            format('Not before %s UTC.', to_char(v_run.available_at, 'YYYY-MM-DD HH24:MI:SS'))),
        (5, v_run.worker_count = 0, 'no_worker',
            'No worker takes runs. Start one with "odoo ops_worker", or let this server '
            'execute runs in the settings.'),
        (6, v_run.fitting_count = 0, 'no_matching_label', format(
            'No worker that is alive offers the labels %s.',
            (SELECT string_agg(label, ', ') FROM jsonb_array_elements_text(v_run.labels) label))),
        (7, v_run.active_count >= v_run.max_running, 'limit_reached', format(
            'The limit of the project is reached: %s active, %s allowed.',
            v_run.active_count, v_run.max_running)),
        (8, v_run.group_busy, 'concurrency_group', format(
            'Another run of the group %s is active.', v_run.concurrency_group)),
        (9, v_run.group_head <> v_run.run_number, 'concurrency_group', format(
            'Run #%s of the group %s goes first.', v_run.group_head, v_run.concurrency_group)),
        (10, v_run.free_count = 0, 'waiting_for_slot',
            'All workers are busy; the next free slot takes it in turn.'),
        (11, true, 'ready', 'A worker is about to take it.')
    ) AS reason (rank, holds, code, message)
    WHERE reason.holds ORDER BY reason.rank LIMIT 1;
    RETURN jsonb_build_object('success', true, 'code', v_code, 'message', v_message);
END
$$;

-- The same for a person who may see the run.
CREATE FUNCTION explain_wait(p_run_id integer) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
    RETURN coalesce(run_permission_problem(p_run_id, 'read', 'read'), wait_reason(p_run_id));
END
$$;

CREATE FUNCTION list_queued_runs()
RETURNS TABLE (
    run_id integer, project_id integer, workflow_id integer, run_number integer, status text,
    created_at timestamptz, claimed_by text, claimed_at timestamptz, waiting_for text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
    SELECT r.id, r.project_id, r.workflow_id, r.run_number, r.status,
           r.create_date AT TIME ZONE 'UTC', r.claimed_by, r.claimed_at AT TIME ZONE 'UTC',
           wait_reason(r.id) ->> 'message'
    FROM ops_run r
    WHERE r.status = 'queued'
      AND ((SELECT is_owner()) OR r.project_id = ANY ((SELECT member_project_ids('read'))::integer[]))
    ORDER BY r.priority DESC, r.available_at, r.id
$$;
