-- Out of the queue: one run at a time, fairly between projects, within every limit.
--
-- Call it under READ COMMITTED, in a transaction of its own, and commit before any work
-- begins. Each statement then sees what others have committed: the gate row of a project is
-- only a mutex, the rows counted after it was locked are the truth, so no counter can drift.

-- Projects with queued runs, the longest not served first. The recursion hops from project
-- to project in the claim index; its cost follows those projects, not their backlog, nor the
-- projects that have none.
CREATE FUNCTION queued_projects() RETURNS integer[]
LANGUAGE sql STABLE
AS $$
    SELECT ARRAY(
        WITH RECURSIVE queued (project_id) AS (
            (SELECT r.project_id FROM ops_run r
             WHERE r.status = 'queued' ORDER BY r.project_id LIMIT 1)
            UNION ALL
            SELECT (SELECT r.project_id FROM ops_run r
                    WHERE r.status = 'queued' AND r.project_id > q.project_id
                    ORDER BY r.project_id LIMIT 1)
            FROM queued q WHERE q.project_id IS NOT NULL
        )
        SELECT q.project_id
        FROM queued q
        WHERE q.project_id IS NOT NULL
        ORDER BY (SELECT g.last_claimed_at FROM ops_project_gate g
                  WHERE g.project_id = q.project_id), q.project_id)
$$;

CREATE FUNCTION claim_reply(p_run ops_run, p_lease_until timestamptz) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT jsonb_build_object(
        'success', true,
        'run_id', p_run.id,
        'project_id', p_run.project_id,
        'workflow_id', p_run.workflow_id,
        'run_number', p_run.run_number,
        'claimed_at', p_run.claimed_at AT TIME ZONE 'UTC',
        'epoch', p_run.epoch,
        'lease_until', p_lease_until,
        'lease_seconds', claim_lease_seconds(),
        'snapshot', p_run.snapshot || jsonb_build_object(
            'trigger', p_run.trigger, 'priority', p_run.priority))
$$;

-- The one run of a concurrency group that may go next; NULL while one is active. In the order of
-- the queue, whoever asks: a deployment that waits for a worker with its labels is not overtaken by
-- the next one. What is scheduled for later has not joined the group's queue yet.
CREATE FUNCTION group_head(p_project_id integer, p_group text) RETURNS integer
LANGUAGE sql STABLE
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

-- What a claim token has brought its worker already, or NULL: the reply once more.
CREATE FUNCTION claimed_before(p_worker_id text, p_claim_token uuid) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN l.worker_id = p_worker_id THEN claim_reply(r, l.lease_until)
        ELSE refuse('conflict', 'Another worker has claimed a run with this claim token.') END
    FROM ops_run_lease l JOIN ops_run r ON r.id = l.run_id
    WHERE l.claim_token = p_claim_token
$$;

-- The head of one project's queue, whose gate the caller has locked: the reply for its worker,
-- or NULL when there is none within the project's limit.
CREATE FUNCTION claim_head(
    p_project_id integer, p_worker_id text, p_labels jsonb, p_claim_token uuid
) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_now constant timestamp := utc_now();
    v_lease_until constant timestamptz :=
        clock_timestamp() + make_interval(secs => claim_lease_seconds());
    v_run record;
BEGIN
    UPDATE ops_run c SET status = 'claimed', epoch = c.epoch + 1, claimed_by = p_worker_id,
                         claimed_at = v_now, write_date = v_now
    WHERE c.id = (
        SELECT r.id FROM ops_run r
        WHERE r.project_id = p_project_id
          AND r.status = 'queued'
          AND (SELECT p.max_running FROM ops_project p
               WHERE p.id = p_project_id AND p.active AND NOT coalesce(p.paused, false)) > (
                SELECT count(*) FROM ops_run a
                WHERE a.project_id = p_project_id AND a.status IN ('claimed', 'running'))
          AND r.available_at <= v_now
          AND (r.labels IS NULL OR r.labels <@ p_labels)
          AND (r.concurrency_group IS NULL OR (
                -- Asked first, once for all: a long backlog of a busy group costs no search each.
                r.concurrency_group <> ALL (ARRAY(
                    SELECT a.concurrency_group FROM ops_run a
                    WHERE a.project_id = p_project_id
                      AND a.status IN ('claimed', 'running')
                      AND a.concurrency_group IS NOT NULL))
                AND r.id = group_head(p_project_id, r.concurrency_group)))
        ORDER BY r.priority DESC, r.available_at, r.id
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING c.id, c.epoch, c.create_date, claim_reply(c, v_lease_until) AS reply INTO v_run;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO ops_run_lease
        (run_id, epoch, worker_id, claim_token, lease_until, run_queued_at)
    VALUES (v_run.id, v_run.epoch, p_worker_id, p_claim_token, v_lease_until, v_run.create_date);
    UPDATE ops_project_gate SET last_claimed_at = clock_timestamp()
    WHERE project_id = p_project_id;
    RETURN v_run.reply;
END
$$;

-- One pass over the projects. Gates held by another claim are skipped and reported as busy.
CREATE FUNCTION claim_pass(
    p_projects integer[], p_worker_id text, p_labels jsonb, p_claim_token uuid,
    OUT reply jsonb, OUT busy boolean
)
LANGUAGE plpgsql
AS $$
DECLARE
    v_project_id integer;
BEGIN
    busy := false;
    FOREACH v_project_id IN ARRAY p_projects LOOP
        PERFORM FROM ops_project_gate g WHERE g.project_id = v_project_id
        FOR NO KEY UPDATE SKIP LOCKED;
        IF FOUND THEN
            reply := claim_head(v_project_id, p_worker_id, p_labels, p_claim_token);
            EXIT WHEN reply IS NOT NULL;
        ELSE
            busy := true;
        END IF;
    END LOOP;
END
$$;

-- The same for a worker that found every gate busy: it waits for them, in the order of their
-- ids so that two waiting passes cannot deadlock. A handler makes a subtransaction, which the
-- pass above does without.
CREATE FUNCTION claim_patiently(
    p_projects integer[], p_worker_id text, p_labels jsonb, p_claim_token uuid,
    OUT reply jsonb, OUT busy boolean
)
LANGUAGE plpgsql SET lock_timeout = '250ms'
AS $$
DECLARE
    v_project_id integer;
BEGIN
    busy := false;
    FOR v_project_id IN SELECT id FROM unnest(p_projects) id ORDER BY id LOOP
        PERFORM FROM ops_project_gate g WHERE g.project_id = v_project_id FOR NO KEY UPDATE;
        reply := claim_head(v_project_id, p_worker_id, p_labels, p_claim_token);
        EXIT WHEN reply IS NOT NULL;
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    busy := true;
END
$$;

-- The head of the project that has not been served for longest, among the first few: found without
-- a list of all projects. They are asked one by one whether they have queued runs, and only so
-- many, as where most have none the list is faster. NULL when that gave nothing; then the list is
-- asked.
CREATE FUNCTION claim_first(p_worker_id text, p_labels jsonb, p_claim_token uuid) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_project_id integer;
BEGIN
    SELECT g.project_id INTO v_project_id
    -- All gates, but by the index: it leads to the living rows alone. A long transaction leaves
    -- pages of dead ones behind, as each claim makes one, and a scan of the table reads them.
    FROM (SELECT project_id FROM ops_project_gate WHERE project_id > 0
          ORDER BY last_claimed_at, project_id LIMIT 30) f
    -- Per project, so that the first gate that is free ends the search.
    CROSS JOIN LATERAL (
        SELECT l.project_id FROM ops_project_gate l WHERE l.project_id = f.project_id
        FOR NO KEY UPDATE SKIP LOCKED) g
    -- No EXISTS: as a join it would read the whole queue.
    WHERE (SELECT r.id FROM ops_run r
           WHERE r.status = 'queued' AND r.project_id = f.project_id
             AND (SELECT p.active AND NOT coalesce(p.paused, false)
                  FROM ops_project p WHERE p.id = f.project_id)
           LIMIT 1) IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RETURN claim_head(v_project_id, p_worker_id, p_labels, p_claim_token);
    END IF;
    RETURN NULL;
END
$$;

-- The next run for this worker. The same claim token gives the same run again, so that a
-- worker whose reply was lost does not strand it.
CREATE FUNCTION claim_next_run(
    p_worker_id text, p_labels text[] DEFAULT '{}', p_claim_token uuid DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    v_refusal constant jsonb := coalesce(
        worker_problem(), CASE WHEN p_labels <> '{}' THEN labels_problem(p_labels) END);
    v_labels constant jsonb := to_jsonb(coalesce(p_labels, '{}'));
    v_projects integer[];
    v_pass record;
    v_reply jsonb;
BEGIN
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    IF p_claim_token IS NOT NULL THEN
        -- A repeat waits here for the call that it repeats, and then finds what that brought.
        PERFORM pg_advisory_xact_lock(hashtext('odooops.claim'), hashtext(p_claim_token::text));
        v_reply := claimed_before(p_worker_id, p_claim_token);
        IF v_reply IS NOT NULL THEN
            RETURN v_reply;
        END IF;
    END IF;
    -- A worker that never registered (psql, a script) is listed all the same.
    IF NOT EXISTS (SELECT FROM ops_worker w WHERE w.worker_id = p_worker_id) THEN
        v_reply := register_worker(p_worker_id, NULL, p_labels);
        IF v_reply ->> 'success' = 'false' THEN
            RETURN v_reply;
        END IF;
    END IF;
    v_reply := claim_first(p_worker_id, v_labels, p_claim_token);
    IF v_reply IS NULL THEN
        v_projects := queued_projects();
        v_pass := claim_pass(v_projects, p_worker_id, v_labels, p_claim_token);
        IF v_pass.reply IS NULL AND v_pass.busy THEN
            v_pass := claim_patiently(v_projects, p_worker_id, v_labels, p_claim_token);
        END IF;
        v_reply := v_pass.reply;
    END IF;
    IF v_reply IS NOT NULL THEN
        -- Nobody waits for the disk under a project's gate. A claim that a crash takes back has
        -- begun nothing: its worker is refused at the start, which does wait, and with it for
        -- everything before it.
        PERFORM set_config('synchronous_commit', 'off', true);
        RETURN v_reply;
    END IF;
    RETURN jsonb_build_object(
        'success', true, 'run_id', NULL,
        'message', CASE WHEN v_pass.busy THEN 'The queue is busy; ask again.'
                        ELSE 'No queued runs available' END);
END
$$;
