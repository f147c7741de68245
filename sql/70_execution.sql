-- What the holder of a run does with it. Every function here is fenced: it acts for the
-- epoch that holds the lease and changes nothing for any other.
-- Locks are taken in one order everywhere: the run, then its lease.

-- A refusal when the caller does not hold the run, else NULL; the lease stays locked.
-- Without an epoch the named worker must be the holder; with neither, the run must be held.
CREATE FUNCTION holder_problem(p_run_id integer, p_worker_id text, p_epoch integer) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_lease record;
BEGIN
    SELECT l.epoch, l.worker_id INTO v_lease
    FROM ops_run_lease l WHERE l.run_id = p_run_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        IF NOT EXISTS (SELECT FROM ops_run r WHERE r.id = p_run_id) THEN
            RETURN refuse('not_found', missing_run(p_run_id));
        ELSIF p_epoch IS NOT NULL THEN
            RETURN refuse('stale_epoch', format('Epoch %s does not hold run %s any more.',
                                                p_epoch, p_run_id));
        END IF;
        RETURN refuse('not_holder', format('No worker holds run %s.', p_run_id));
    ELSIF p_epoch IS NOT NULL AND v_lease.epoch <> p_epoch THEN
        RETURN refuse('stale_epoch', format('Run %s is held under epoch %s, not %s.',
                                            p_run_id, v_lease.epoch, p_epoch));
    ELSIF p_worker_id IS NOT NULL AND v_lease.worker_id <> p_worker_id THEN
        RETURN refuse('not_holder', format('Another worker holds run %s.', p_run_id));
    END IF;
    RETURN NULL;
END
$$;

-- The same for what belongs to the work: nothing does before it has begun. A run that goes back
-- to the queue has left nothing behind.
CREATE FUNCTION work_problem(p_run_id integer, p_worker_id text, p_epoch integer) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_refusal constant jsonb := holder_problem(p_run_id, p_worker_id, p_epoch);
BEGIN
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    RETURN (SELECT refuse('invalid_state', format(
                'Run #%s is %s; its work begins with its start.', r.run_number, r.status))
            FROM ops_run r WHERE r.id = p_run_id AND r.status <> 'running');
END
$$;

-- claimed → running; from here on the lease lives by heartbeats. The holder's first call, which is
-- nearly every one, is judged by the statement that
-- begins the run: a claimed run names its holder. Any
-- other call gets the lock first and then its reason, or the same reply once more.
CREATE FUNCTION start_workflow_run(
    p_run_id integer, p_worker_id text, p_epoch integer DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    v_now constant timestamp := utc_now();
    v_run record;
    v_lease record;
    v_refusal jsonb := worker_problem();
BEGIN
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    UPDATE ops_run r
    SET status = 'running', started_at = v_now, write_date = v_now,
        deadline = v_now + make_interval(
            secs => run_timeout_seconds(r.snapshot) + deadline_grace_seconds())
    -- A CASE keeps the planner from the partial indexes of a status, which seem to be empty.
    WHERE r.id = p_run_id AND CASE WHEN r.status = 'claimed'
        THEN r.claimed_by = p_worker_id AND r.epoch = coalesce(p_epoch, r.epoch) END
    RETURNING r.started_at, r.deadline INTO v_run;
    IF FOUND THEN
        UPDATE ops_run_lease l
        SET lease_until = clock_timestamp() + make_interval(secs => run_lease_seconds())
        WHERE l.run_id = p_run_id
        RETURNING l.lease_until, l.next_log_seq INTO v_lease;
    ELSE
        SELECT r.status, r.started_at, r.deadline INTO v_run
        FROM ops_run r WHERE r.id = p_run_id FOR NO KEY UPDATE;
        v_refusal := coalesce(worker_id_problem(p_worker_id),
                              holder_problem(p_run_id, p_worker_id, p_epoch));
        IF v_refusal IS NOT NULL THEN
            RETURN v_refusal;
        ELSIF v_run.status = 'claimed' THEN
            -- Claimed by this worker since the look above; now it is locked.
            RETURN start_workflow_run(p_run_id, p_worker_id, p_epoch);
        END IF;
        SELECT l.lease_until, l.next_log_seq INTO v_lease
        FROM ops_run_lease l WHERE l.run_id = p_run_id;
    END IF;
    RETURN jsonb_build_object(
        'success', true,
        'started_at', v_run.started_at AT TIME ZONE 'UTC',
        'lease_until', v_lease.lease_until,
        'lease_seconds', lease_seconds(v_run.deadline),
        'deadline', v_run.deadline AT TIME ZONE 'UTC',
        'deadline_seconds', greatest(0, floor(extract(epoch FROM v_run.deadline - utc_now()))),
        'next_seq', v_lease.next_log_seq);
END
$$;

-- claimed → queued: the worker gives back what it has not begun.
CREATE FUNCTION release_run(
    p_run_id integer, p_worker_id text DEFAULT NULL, p_epoch integer DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    v_run ops_run;
    v_refusal jsonb;
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    END IF;
    SELECT * INTO v_run FROM ops_run r WHERE r.id = p_run_id FOR NO KEY UPDATE;
    v_refusal := holder_problem(p_run_id, p_worker_id, p_epoch);
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    ELSIF v_run.status <> 'claimed' THEN
        RETURN refuse('invalid_state', format(
            'Run #%s is %s; only a claimed run can be released.', v_run.run_number, v_run.status));
    END IF;
    PERFORM requeue(p_run_id);
    RETURN jsonb_build_object('success', true, 'status', 'queued');
END
$$;

CREATE FUNCTION requeue(p_run_id integer) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    DELETE FROM ops_run_lease WHERE run_id = p_run_id;
    UPDATE ops_run SET status = 'queued', claimed_by = NULL, claimed_at = NULL,
                       write_date = utc_now()
    WHERE id = p_run_id;
    NOTIFY odooops_queue;
END
$$;

-- Into a terminal state, with the lease closed and the retry that the workflow asks for. With an
-- epoch only a running run that its worker holds under it, else NULL; without, the caller has
-- locked the run and looked.
CREATE FUNCTION finish_run(
    p_run_id integer, p_status text, p_exit_code integer, p_error_code text,
    p_error_message text, p_metadata jsonb, p_worker_id text DEFAULT NULL,
    p_epoch integer DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_now constant timestamp := utc_now();
BEGIN
    UPDATE ops_run r SET
        status = p_status, exit_code = p_exit_code, error_code = p_error_code,
        error_message = p_error_message, finished_at = v_now, write_date = v_now,
        metadata = coalesce(r.metadata, '{}') || coalesce(p_metadata, '{}')
    -- CASE for the reason given at start_workflow_run.
    WHERE r.id = p_run_id AND CASE WHEN p_epoch IS NULL THEN true WHEN r.status = 'running'
        THEN r.epoch = p_epoch AND r.claimed_by = coalesce(p_worker_id, r.claimed_by) END;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM ops_run_lease WHERE run_id = p_run_id;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'success', true,
        'status', p_status,
        'finished_at', v_now AT TIME ZONE 'UTC',
        'exit_code', p_exit_code,
        'retry_run_id', CASE WHEN p_status = 'failed' THEN retry_automatically(p_run_id) END));
END
$$;

-- Why a completion was not accepted, or the reply once more: a repeat by the epoch that ended the
-- run is a success without effect. The run stays locked.
CREATE FUNCTION completion_reply(
    p_run_id integer, p_worker_id text, p_epoch integer, p_problem jsonb, p_canceled boolean
) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_run record;
BEGIN
    SELECT r.run_number, r.status, r.epoch, r.claimed_by, r.exit_code, r.finished_at,
           r.cancel_requested_at IS NOT NULL AS is_canceling INTO v_run
    FROM ops_run r WHERE r.id = p_run_id FOR NO KEY UPDATE;
    IF is_terminal(v_run.status) AND v_run.epoch = p_epoch
       AND coalesce(p_worker_id, v_run.claimed_by) = v_run.claimed_by THEN
        RETURN jsonb_build_object(
            'success', true, 'status', v_run.status, 'exit_code', v_run.exit_code,
            'finished_at', v_run.finished_at AT TIME ZONE 'UTC', 'repeated', true);
    END IF;
    RETURN coalesce(
        holder_problem(p_run_id, p_worker_id, p_epoch),
        CASE WHEN v_run.status <> 'running' THEN refuse('invalid_state', format(
            'Run #%s is %s; only a running run can be completed.', v_run.run_number, v_run.status))
        END,
        p_problem,
        CASE WHEN p_canceled AND NOT v_run.is_canceling THEN
            refuse('invalid_state', 'Nobody asked to cancel this run.') END);
END
$$;

-- The end of the work. The exit code is the result: 0 and no error is success. The holder's own
-- call, which is nearly every one, is judged by the statement that ends the run.
CREATE FUNCTION complete_workflow_run(
    p_run_id integer,
    p_exit_code integer,
    p_error_message text DEFAULT NULL,
    p_worker_id text DEFAULT NULL,
    p_epoch integer DEFAULT NULL,
    p_error_code text DEFAULT NULL,
    p_metadata jsonb DEFAULT '{}'
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    v_error_code constant text := coalesce(
        nullif(p_error_code, ''), CASE WHEN p_exit_code <> 0 THEN 'exit_code' END);
    v_status constant text := CASE WHEN v_error_code IS NULL THEN 'succeeded'
        WHEN v_error_code = 'canceled' THEN 'canceled' ELSE 'failed' END;
    v_message constant text := CASE WHEN v_error_code IS NOT NULL THEN
        coalesce(nullif(p_error_message, ''),
                 format('The run ended with exit code %s.', p_exit_code)) END;
    v_problem constant jsonb := completion_problem(
        p_exit_code, p_error_message, v_error_code, p_metadata);
    v_reply jsonb := worker_problem();
BEGIN
    IF v_reply IS NOT NULL THEN
        RETURN v_reply;
    END IF;
    IF v_problem IS NULL AND p_epoch IS NOT NULL AND v_status <> 'canceled' THEN
        v_reply := finish_run(p_run_id, v_status, p_exit_code, v_error_code, v_message,
                              p_metadata, p_worker_id, p_epoch);
    END IF;
    RETURN coalesce(
        v_reply,
        completion_reply(p_run_id, p_worker_id, p_epoch, v_problem, v_status = 'canceled'),
        finish_run(p_run_id, v_status, p_exit_code, v_error_code, v_message, p_metadata));
END
$$;

CREATE FUNCTION completion_problem(
    p_exit_code integer, p_error_message text, p_error_code text, p_metadata jsonb
) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT CASE
        WHEN p_exit_code IS NULL AND p_error_code IS NULL THEN refuse('invalid_input',
            'exit_code or error_code must say how the run ended')
        WHEN p_error_code !~ '^[a-z][a-z_]{0,63}$' THEN refuse('invalid_input',
            'error_code must be a word of lower-case letters and underscores')
        WHEN octet_length(p_error_message) > 65536 THEN refuse('invalid_input',
            'error_message must not exceed 65536 bytes')
        WHEN jsonb_typeof(p_metadata) <> 'object' OR octet_length(p_metadata::text) > 1048576
            THEN refuse('invalid_input', 'metadata must be a JSON object of at most 1 MiB')
    END
$$;

-- Queued and claimed runs end at once: nothing has begun. A running one is asked to stop, and
-- its worker confirms by completing it.
CREATE FUNCTION cancel_run(p_run_id integer, p_reason text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    v_refusal constant jsonb := run_permission_problem(p_run_id, 'cancel_run', 'cancel_own_run');
    v_run ops_run;
    v_now constant timestamp := utc_now();
    v_running boolean;
BEGIN
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    SELECT * INTO v_run FROM ops_run r WHERE r.id = p_run_id FOR NO KEY UPDATE;
    IF is_terminal(v_run.status) THEN
        RETURN refuse('invalid_state', format(
            'Run #%s has already ended: %s.', v_run.run_number, v_run.status));
    ELSIF length(p_reason) > 1000 THEN
        RETURN refuse('invalid_input', 'reason must not exceed 1000 characters');
    END IF;
    v_running := v_run.status = 'running';
    IF v_run.cancel_requested_at IS NULL THEN
        -- A worker that has claimed it but not begun loses it: the epoch is over.
        UPDATE ops_run SET cancel_requested_at = v_now, canceled_by = acting_user_id(),
                           cancel_reason = p_reason, write_date = v_now,
                           epoch = epoch + (status = 'claimed')::integer
        WHERE id = p_run_id;
        UPDATE ops_run_lease SET cancel_requested = true WHERE run_id = p_run_id;
        IF v_running THEN
            PERFORM record_event(p_run_id, 'info', 'cancel requested', jsonb_strip_nulls(
                jsonb_build_object('user_id', acting_user_id(), 'reason', p_reason)));
            NOTIFY odooops_cancel;
        END IF;
    END IF;
    IF NOT v_running THEN
        PERFORM finish_run(p_run_id, 'canceled', NULL, 'canceled',
                           coalesce(nullif(p_reason, ''), 'Canceled before it started.'), '{}');
    END IF;
    RETURN jsonb_build_object(
        'success', true,
        'status', CASE WHEN v_running THEN 'running' ELSE 'canceled' END,
        'confirmed', NOT v_running);
END
$$;

-- running → failed without a word of the worker. The epoch ends with it: what the worker says
-- after that is stale, though it be a repeat of its own completion.
CREATE FUNCTION fail_lost_run(p_run_id integer, p_at_deadline boolean) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    UPDATE ops_run SET epoch = epoch + 1 WHERE id = p_run_id;
    IF p_at_deadline THEN
        PERFORM finish_run(p_run_id, 'failed', NULL, 'timeout', (
            SELECT format('The run had not ended %s seconds after its timeout of %s seconds: its '
                          'worker hangs.', deadline_grace_seconds(), run_timeout_seconds(r.snapshot))
            FROM ops_run r WHERE r.id = p_run_id), '{}');
    ELSE
        PERFORM finish_run(p_run_id, 'failed', NULL, 'worker_lost',
            'The worker stopped renewing its lease: it was killed, hangs, '
            'or cannot reach the control plane.', '{}');
    END IF;
END
$$;

-- Runs whose lease has ended: a claimed one goes back to the queue, for nothing had begun; a
-- running one failed, with its worker or at its deadline. No lease outlasts a deadline, so a
-- worker that hangs and goes on with its heartbeats loses the run here, too.
-- Any number of callers; one at a time does the work.
CREATE FUNCTION reap_lost_runs() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_lost record;
    v_lease_end timestamp;
    v_requeued integer := 0;
    v_failed integer := 0;
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    END IF;
    -- After PostgreSQL itself was away no worker could renew: give each of them one lease.
    IF pg_postmaster_start_time() > clock_timestamp() - make_interval(secs => run_lease_seconds())
       OR NOT pg_try_advisory_xact_lock(hashtext('odooops.reap_lost_runs'), 0) THEN
        RETURN jsonb_build_object('success', true, 'requeued', 0, 'failed', 0);
    END IF;
    FOR v_lost IN
        SELECT r.id, r.status, r.deadline
        FROM ops_run r JOIN ops_run_lease l ON l.run_id = r.id
        WHERE l.lease_until < clock_timestamp()
        ORDER BY r.id LIMIT 100
        FOR NO KEY UPDATE OF r SKIP LOCKED
    LOOP
        -- A heartbeat may have come between the look and the lock.
        SELECT l.lease_until AT TIME ZONE 'UTC' INTO v_lease_end FROM ops_run_lease l
        WHERE l.run_id = v_lost.id AND l.lease_until < clock_timestamp()
        FOR NO KEY UPDATE;
        CONTINUE WHEN NOT FOUND;
        IF v_lost.status = 'claimed' THEN
            PERFORM requeue(v_lost.id);
            v_requeued := v_requeued + 1;
        ELSE
            PERFORM fail_lost_run(v_lost.id, v_lease_end >= v_lost.deadline);
            v_failed := v_failed + 1;
        END IF;
    END LOOP;
    RETURN jsonb_build_object('success', true, 'requeued', v_requeued, 'failed', v_failed);
END
$$;
