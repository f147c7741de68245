-- The register of workers. An identity belongs to one process: a restarted worker is a new
-- one, so that what its predecessor left behind cannot look alive.

-- Seconds without a heartbeat after which a worker counts as gone.
CREATE FUNCTION worker_timeout_seconds() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 30;

CREATE FUNCTION worker_id_problem(p_worker_id text) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN coalesce(p_worker_id !~ '^[A-Za-z0-9._:-]{1,64}$', true) THEN refuse(
    'invalid_input', 'worker_id must have 1 to 64 characters out of A-Z a-z 0-9 . _ : -') END;

CREATE FUNCTION labels_problem(p_labels text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
AS $$
    SELECT refuse('invalid_input', 'labels must be at most 100 texts of 1 to 100 characters')
    WHERE cardinality(p_labels) > 100 OR array_ndims(p_labels) > 1
       OR EXISTS (SELECT FROM unnest(p_labels) label
                  WHERE coalesce(length(label), 0) NOT BETWEEN 1 AND 100)
$$;

CREATE FUNCTION live_workers() RETURNS SETOF ops_worker
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT w.* FROM ops_worker w
    WHERE w.state <> 'stopped'
      AND w.last_heartbeat > utc_now() - make_interval(secs => worker_timeout_seconds())
$$;

-- A worker says that it is there and what it offers; to say it again renews it.
CREATE FUNCTION register_worker(
    p_worker_id text,
    p_host text DEFAULT NULL,
    p_labels text[] DEFAULT '{}',
    p_capacity integer DEFAULT 1,
    p_version text DEFAULT NULL,
    p_kind text DEFAULT 'daemon',
    p_token_id integer DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_now constant timestamp := utc_now();
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    ELSIF worker_id_problem(p_worker_id) IS NOT NULL THEN
        RETURN worker_id_problem(p_worker_id);
    ELSIF labels_problem(p_labels) IS NOT NULL THEN
        RETURN labels_problem(p_labels);
    ELSIF length(p_host) > 255 OR length(p_version) > 100 THEN
        RETURN refuse('invalid_input',
                      'host must not exceed 255 characters and version not 100');
    ELSIF coalesce(p_capacity, 0) NOT BETWEEN 1 AND 1000 THEN
        RETURN refuse('invalid_input', 'capacity must lie between 1 and 1000');
    ELSIF coalesce(p_kind, '') NOT IN ('daemon', 'scheduled') THEN
        RETURN refuse('invalid_input', 'kind must be daemon or scheduled');
    ELSIF p_token_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM ops_worker_token t WHERE t.id = p_token_id) THEN
        RETURN refuse('not_found', 'There is no such worker token.');
    END IF;
    INSERT INTO ops_worker (
        worker_id, host, labels, capacity, version, kind, token_id, state, registered_at,
        last_heartbeat)
    VALUES (
        p_worker_id, p_host, to_jsonb(coalesce(p_labels, '{}')), p_capacity, p_version, p_kind,
        p_token_id, 'active', v_now, v_now)
    ON CONFLICT (worker_id) DO UPDATE SET
        host = excluded.host, labels = excluded.labels, capacity = excluded.capacity,
        version = excluded.version, kind = excluded.kind, state = 'active',
        last_heartbeat = excluded.last_heartbeat
    -- Who came with a token takes nobody else's identity, nor does another take theirs.
    WHERE ops_worker.token_id IS NOT DISTINCT FROM excluded.token_id;
    IF NOT FOUND THEN
        RETURN refuse('forbidden', 'Another worker has registered under this id.');
    END IF;
    RETURN jsonb_build_object('success', true, 'worker_id', p_worker_id);
END
$$;

-- A short name of this control plane, for what workers of several share on a host. Not its host
-- and port: workers reach the same database by different ones.
CREATE FUNCTION control_plane_namespace() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
    RETURN coalesce(worker_problem(), jsonb_build_object('success', true, 'namespace', (
        SELECT left(sha256_hex(c.system_identifier || '/' || current_database()), 8)
        FROM pg_control_system() c)));
END
$$;

-- draining: it claims no more but still works; stopped: it has ended.
CREATE FUNCTION set_worker_state(p_worker_id text, p_state text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    ELSIF coalesce(p_state, '') NOT IN ('active', 'draining', 'stopped') THEN
        RETURN refuse('invalid_input', 'state must be active, draining or stopped');
    END IF;
    UPDATE ops_worker SET state = p_state, last_heartbeat = utc_now()
    WHERE worker_id = p_worker_id;
    IF NOT FOUND THEN
        RETURN refuse('not_found', 'No worker has registered under this id.');
    END IF;
    RETURN jsonb_build_object('success', true, 'state', p_state);
END
$$;

-- A worker says that it has ended.
CREATE FUNCTION deregister_worker(p_worker_id text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
    RETURN set_worker_state(p_worker_id, 'stopped');
END
$$;

-- Seconds that a lease renewed now lasts: none outlasts the deadline of its run.
CREATE FUNCTION lease_seconds(p_deadline timestamp) RETURNS integer
LANGUAGE sql VOLATILE
RETURN greatest(0, least(run_lease_seconds(),
                         floor(extract(epoch FROM p_deadline - utc_now())))::integer);

-- The number as an id, which an index can look up; NULL when no id is that large or broken.
CREATE FUNCTION as_integer(p_number numeric) RETURNS integer
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN p_number BETWEEN 0 AND 2147483647 AND p_number = trunc(p_number)
            THEN p_number::integer END;

-- One call per process for all its runs. What it does not own any more it must stop at once.
CREATE FUNCTION heartbeat(p_worker_id text, p_runs jsonb DEFAULT '[]') RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    v_until constant timestamptz :=
        clock_timestamp() + make_interval(secs => run_lease_seconds());
    v_item jsonb;
    v_lease record;
    v_runs jsonb := '[]';
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    ELSIF worker_id_problem(p_worker_id) IS NOT NULL THEN
        RETURN worker_id_problem(p_worker_id);
    ELSIF jsonb_typeof(p_runs) IS DISTINCT FROM 'array' OR jsonb_path_exists(p_runs, '$[1000]')
          OR jsonb_path_exists(p_runs, '$[*] ? (!(@.run_id.type() == "number"
                                                 && @.epoch.type() == "number"))') THEN
        RETURN refuse('invalid_input',
                      'runs must be a list of at most 1000 {"run_id": 1, "epoch": 1}');
    END IF;
    UPDATE ops_worker SET last_heartbeat = utc_now() WHERE worker_id = p_worker_id;
    IF NOT FOUND THEN
        RETURN refuse('not_found', 'No worker has registered under this id.');
    END IF;
    -- In the order of their ids, as every other function locks leases.
    FOR v_item IN
        SELECT item FROM jsonb_array_elements(p_runs) item ORDER BY (item ->> 'run_id')::numeric
    LOOP
        UPDATE ops_run_lease l
        SET lease_until = greatest(l.lease_until, least(v_until, r.deadline AT TIME ZONE 'UTC'))
        FROM (
            -- A worker may hang before the start, too.
            SELECT r.id, r.cancel_reason, CASE r.status WHEN 'claimed'
                THEN r.claimed_at + make_interval(secs => deadline_grace_seconds())
                ELSE r.deadline END AS deadline
            FROM ops_run r
        ) r
        WHERE r.id = l.run_id
          AND l.run_id = as_integer((v_item ->> 'run_id')::numeric)
          AND l.epoch = as_integer((v_item ->> 'epoch')::numeric)
          AND l.worker_id = p_worker_id
        RETURNING l.lease_until, l.cancel_requested, r.cancel_reason, r.deadline INTO v_lease;
        v_runs := v_runs || jsonb_strip_nulls(jsonb_build_object(
            'run_id', v_item -> 'run_id',
            'epoch', v_item -> 'epoch',
            'owned', FOUND,
            'cancel_requested', FOUND AND v_lease.cancel_requested,
            'cancel_reason', CASE WHEN v_lease.cancel_requested THEN v_lease.cancel_reason END,
            'lease_until', CASE WHEN FOUND THEN v_lease.lease_until END,
            'lease_seconds', CASE WHEN FOUND THEN lease_seconds(v_lease.deadline) END));
    END LOOP;
    RETURN jsonb_build_object('success', true, 'runs', v_runs);
END
$$;

-- All live leases, for whoever cleans up after workers that are gone.
CREATE FUNCTION list_leases()
RETURNS TABLE (run_id integer, epoch integer, worker_id text, lease_until timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
    SELECT l.run_id, l.epoch, l.worker_id, l.lease_until FROM ops_run_lease l
    WHERE (SELECT worker_problem() IS NULL)
    ORDER BY l.run_id
$$;
