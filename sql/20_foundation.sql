-- What every other file of the kernel uses: clock, refusals, limits, the event chain.

-- Odoo keeps naive UTC in its datetime columns. clock_timestamp, not now: several
-- transitions may happen in one transaction and must not share a time.
CREATE FUNCTION utc_now() RETURNS timestamp
LANGUAGE sql VOLATILE
RETURN clock_timestamp() AT TIME ZONE 'UTC';

-- An error that the caller made: a code for programs, a sentence for people.
CREATE FUNCTION refuse(p_code text, p_error text) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN jsonb_build_object('success', false, 'code', p_code, 'error', p_error);

-- What is said of a run that is not there, or not the caller's to see.
CREATE FUNCTION missing_run(p_run_id integer) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN coalesce('There is no run ' || p_run_id || '.', 'run_id is missing.');

-- Whether Python, which reads the columns, can hold this time. PostgreSQL also knows infinity
-- and years that datetime does not.
CREATE FUNCTION is_readable_time(p_time timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN isfinite(p_time)
       AND p_time >= '1970-01-01 00:00:00+00' AND p_time < '9000-01-01 00:00:00+00';

-- Seconds a claim is held before the work starts, and a running run between heartbeats.
CREATE FUNCTION claim_lease_seconds() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 30;
CREATE FUNCTION run_lease_seconds() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 60;

-- Seconds a run may take by its workflow's configuration, as worker/workflow.py reads it: what is
-- no valid timeout counts as none.
CREATE FUNCTION run_timeout_seconds(p_snapshot jsonb) RETURNS integer
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN p_snapshot @? 'strict $.config.timeout ? (@ >= 1 && @ <= 86400)'
            THEN (p_snapshot #>> '{config,timeout}')::numeric::integer ELSE 3600 END;

-- Seconds beyond its timeout in which the worker stops the processes, stores artifacts and the
-- log, and completes the run. Who needs longer hangs.
CREATE FUNCTION deadline_grace_seconds() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 600;

CREATE FUNCTION is_terminal(p_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN p_status IN ('succeeded', 'failed', 'canceled');

-- The state machine, as data.
CREATE FUNCTION is_transition(p_from text, p_to text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN p_from || ' to ' || p_to IN (
    'queued to claimed',
    'queued to canceled',
    'claimed to queued',
    'claimed to running',
    'claimed to canceled',
    'running to succeeded',
    'running to failed',
    'running to canceled'
);

-- SHA-256 (hex) over one line per fact, see docs/audit.md. The message comes last and as it is:
-- no fact before it can hold a line break, so none inside it can be taken for the next fact.
CREATE FUNCTION event_hash(
    p_prev_hash text, p_run_id integer, p_seq integer, p_event_type text,
    p_timestamp timestamp, p_message text, p_payload jsonb
) RETURNS text
LANGUAGE sql STABLE
RETURN encode(sha256(convert_to(concat_ws(E'\n',
    'odooops event 1',
    coalesce(p_prev_hash, ''),
    p_run_id,
    p_seq,
    p_event_type,
    to_char(p_timestamp, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    coalesce(p_payload, '{}'::jsonb)::text,
    coalesce(p_message, '')
), 'UTF8')), 'hex');

-- The one place where events are written. The caller has locked the run, and moves the head of
-- its chain to the hash that comes back.
CREATE FUNCTION append_event(
    p_run_id integer, p_queued_at timestamp, p_seq integer, p_prev_hash text, p_event_type text,
    p_message text, p_payload jsonb
) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    v_time constant timestamp := utc_now();
    v_hash constant text := event_hash(
        p_prev_hash, p_run_id, p_seq, p_event_type, v_time, p_message, p_payload);
BEGIN
    INSERT INTO ops_run_event_row (
        run_id, run_queued_at, seq, event_type, message, payload, "timestamp", prev_hash, hash)
    VALUES (
        p_run_id, p_queued_at, p_seq, p_event_type, p_message, p_payload, v_time, p_prev_hash,
        v_hash);
    INSERT INTO ops_audit_pending (run_id) VALUES (p_run_id);
    RETURN v_hash;
END
$$;

-- Append one event that is no change of status.
CREATE FUNCTION record_event(
    p_run_id integer, p_event_type text, p_message text, p_payload jsonb DEFAULT '{}'
) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    v_seq integer;
    v_hash text;
    v_queued_at timestamp;
BEGIN
    SELECT r.event_seq + 1, r.event_hash, r.create_date INTO v_seq, v_hash, v_queued_at
    FROM ops_run r WHERE r.id = p_run_id FOR NO KEY UPDATE;
    v_hash := append_event(
        p_run_id, v_queued_at, v_seq, v_hash, p_event_type, p_message, p_payload);
    UPDATE ops_run SET event_seq = v_seq, event_hash = v_hash WHERE id = p_run_id;
    RETURN v_seq;
END
$$;
