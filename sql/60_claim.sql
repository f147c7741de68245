-- Out of the queue: one run at a time, fairly between projects, within every limit.
--
-- Call it under READ COMMITTED, in a transaction of its own, and commit before any work
-- begins. Each statement then sees what others have committed: the gate row of a project is
-- only a mutex, the rows counted after it was locked are the truth, so no counter can drift.

-- Projects with queued runs, the longest not served first. The recursion hops from project
-- to project in the claim index; its cost follows the projects, not their backlog.
CREATE FUNCTION queued_projects() RETURNS TABLE (project_id integer, max_running integer)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    WITH RECURSIVE queued (project_id) AS (
        (SELECT r.project_id FROM ops_run r
         WHERE r.status = 'queued' ORDER BY r.project_id LIMIT 1)
        UNION ALL
        SELECT (SELECT r.project_id FROM ops_run r
                WHERE r.status = 'queued' AND r.project_id > q.project_id
                ORDER BY r.project_id LIMIT 1)
        FROM queued q WHERE q.project_id IS NOT NULL
    )
    SELECT p.id, p.max_running
    FROM queued q
    JOIN ops_project p ON p.id = q.project_id
    JOIN ops_project_gate g ON g.project_id = p.id
    WHERE p.active AND NOT coalesce(p.paused, false)
    ORDER BY g.last_claimed_at, p.id
$$;

CREATE FUNCTION claim_reply(p_run_id integer) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT jsonb_build_object(
        'success', true,
        'run_id', r.id,
        'project_id', r.project_id,
        'workflow_id', r.workflow_id,
        'run_number', r.run_number,
        'claimed_at', r.claimed_at AT TIME ZONE 'UTC',
        'epoch', l.epoch,
        'lease_until', l.lease_until,
        'lease_seconds', claim_lease_seconds(),
        'snapshot', r.snapshot || jsonb_build_object(
            'trigger', r.trigger, 'priority', r.priority))
    FROM ops_run r JOIN ops_run_lease l ON l.run_id = r.id
    WHERE r.id = p_run_id
$$;

-- The one run of a concurrency group that may go next; NULL while one is active. In the order of
-- the queue, whoever asks: a deployment that waits for a worker with its labels is not overtaken by
-- the next one. What is scheduled for later has not joined the group's queue yet.
CREATE FUNCTION group_head(p_project_id integer, p_group text) RETURNS integer
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT r.id FROM ops_run r
    WHERE r.project_id = p_project_id
      AND r.concurrency_group = p_group
      AND r.status = 'queued'
      AND r.available_at <= utc_now()
      AND NOT EXISTS (
            SELECT FROM ops_run a
            WHERE a.project_id = p_project_id
              AND a.concurrency_group = p_group
              AND a.status IN ('claimed', 'running'))
    ORDER BY r.priority DESC, r.available_at, r.id
    LIMIT 1
$$;

-- The head of one project's queue, whose gate the caller has locked; NULL when there is none.
CREATE FUNCTION claim_head(
    p_project_id integer, p_max_running integer, p_worker_id text, p_labels text[],
    p_claim_token uuid
) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_now constant timestamp := utc_now();
    v_run record;
BEGIN
    IF p_max_running <= (SELECT count(*) FROM ops_run r
                         WHERE r.project_id = p_project_id
                           AND r.status IN ('claimed', 'running')) THEN
        RETURN NULL;
    END IF;
    SELECT r.id, r.epoch + 1 AS epoch, r.create_date INTO v_run
    FROM ops_run r
    WHERE r.project_id = p_project_id
      AND r.status = 'queued'
      AND r.available_at <= v_now
      AND (r.labels IS NULL OR r.labels <@ to_jsonb(p_labels))
      AND (r.concurrency_group IS NULL OR r.id = group_head(p_project_id, r.concurrency_group))
    ORDER BY r.priority DESC, r.available_at, r.id
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO ops_run_lease
        (run_id, epoch, worker_id, claim_token, lease_until, run_queued_at)
    VALUES (v_run.id, v_run.epoch, p_worker_id, p_claim_token,
            clock_timestamp() + make_interval(secs => claim_lease_seconds()), v_run.create_date);
    UPDATE ops_run SET status = 'claimed', epoch = v_run.epoch, claimed_by = p_worker_id,
                       claimed_at = v_now, write_date = v_now
    WHERE id = v_run.id;
    UPDATE ops_project_gate SET last_claimed_at = clock_timestamp()
    WHERE project_id = p_project_id;
    RETURN v_run.id;
END
$$;

-- One pass over the projects. Gates held by another claim are skipped and reported as busy,
-- or waited for, in the order of their ids so that two waiting passes cannot deadlock.
CREATE FUNCTION claim_pass(
    p_worker_id text, p_labels text[], p_claim_token uuid, p_wait boolean,
    OUT run_id integer, OUT busy boolean
)
LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '250ms'
AS $$
DECLARE
    v_project record;
BEGIN
    busy := false;
    FOR v_project IN
        SELECT * FROM queued_projects() q ORDER BY CASE WHEN p_wait THEN q.project_id END
    LOOP
        IF p_wait THEN
            PERFORM FROM ops_project_gate g WHERE g.project_id = v_project.project_id
            FOR NO KEY UPDATE;
        ELSE
            PERFORM FROM ops_project_gate g WHERE g.project_id = v_project.project_id
            FOR NO KEY UPDATE SKIP LOCKED;
        END IF;
        IF NOT FOUND THEN
            busy := true;
            CONTINUE;
        END IF;
        run_id := claim_head(
            v_project.project_id, v_project.max_running, p_worker_id, p_labels, p_claim_token);
        EXIT WHEN run_id IS NOT NULL;
    END LOOP;
EXCEPTION
    WHEN lock_not_available THEN
        busy := true;
    -- An earlier call with the same token, whose reply was lost, was committed just now.
    WHEN unique_violation THEN
        run_id := (SELECT l.run_id FROM ops_run_lease l WHERE l.claim_token = p_claim_token);
        busy := run_id IS NULL;
END
$$;

-- The next run for this worker. The same claim token gives the same run again, so that a
-- worker whose reply was lost does not strand it.
CREATE FUNCTION claim_next_run(
    p_worker_id text, p_labels text[] DEFAULT '{}', p_claim_token uuid DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_pass record;
    v_lease ops_run_lease;
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    ELSIF worker_id_problem(p_worker_id) IS NOT NULL THEN
        RETURN worker_id_problem(p_worker_id);
    ELSIF labels_problem(p_labels) IS NOT NULL THEN
        RETURN labels_problem(p_labels);
    END IF;
    SELECT l.* INTO v_lease FROM ops_run_lease l WHERE l.claim_token = p_claim_token;
    IF v_lease.worker_id <> p_worker_id THEN
        RETURN refuse('conflict', 'Another worker has claimed a run with this claim token.');
    ELSIF FOUND THEN
        RETURN claim_reply(v_lease.run_id);
    END IF;
    -- A worker that never registered (psql, a script) is listed all the same.
    IF NOT EXISTS (SELECT FROM ops_worker w WHERE w.worker_id = p_worker_id) THEN
        PERFORM register_worker(p_worker_id, NULL, p_labels);
    END IF;
    SELECT * INTO v_pass FROM claim_pass(p_worker_id, coalesce(p_labels, '{}'), p_claim_token, false);
    IF v_pass.run_id IS NULL AND v_pass.busy THEN
        SELECT * INTO v_pass
        FROM claim_pass(p_worker_id, coalesce(p_labels, '{}'), p_claim_token, true);
    END IF;
    IF v_pass.run_id IS NOT NULL THEN
        RETURN claim_reply(v_pass.run_id);
    ELSIF v_pass.busy THEN
        RETURN jsonb_build_object('success', true, 'run_id', NULL,
                                  'message', 'The queue is busy; ask again.');
    END IF;
    RETURN jsonb_build_object('success', true, 'run_id', NULL,
                              'message', 'No queued runs available');
END
$$;
