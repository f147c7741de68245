-- What a run leaves behind: log lines, events of its worker, artifacts.

-- Why a batch cannot be stored, without a look at its lines: a refusal, or NULL.
CREATE FUNCTION batch_problem(p_first_seq integer, p_lines jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
BEGIN
    IF coalesce(p_first_seq, 0) < 1 THEN
        RETURN refuse('invalid_input', 'first_seq counts from 1');
    ELSIF jsonb_typeof(p_lines) IS DISTINCT FROM 'array' THEN
        RETURN refuse('invalid_input', 'lines must be a list');
    ELSIF jsonb_array_length(p_lines) > max_batch_lines() THEN
        RETURN refuse('invalid_input',
                      format('lines must not number more than %s', max_batch_lines()));
    END IF;
    RETURN NULL;
END
$$;

-- Which of the lines cannot be stored, and why: a refusal, or NULL. Asked only when storing them
-- has failed.
CREATE FUNCTION lines_problem(p_lines jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
DECLARE
    v_position bigint;
BEGIN
    SELECT line.position INTO v_position
    FROM jsonb_array_elements(p_lines) WITH ORDINALITY AS line (value, position)
    WHERE jsonb_typeof(line.value) <> 'object'
       OR coalesce(jsonb_typeof(line.value -> 'message'), '') <> 'string'
       OR octet_length(line.value ->> 'message') > max_message_bytes()
       OR coalesce(line.value ->> 'level', 'info') NOT IN ('debug', 'info', 'warn', 'error')
       OR coalesce(jsonb_typeof(line.value -> 'metadata'), 'object') <> 'object'
       OR octet_length((line.value -> 'metadata')::text) > max_metadata_bytes()
       OR NOT coalesce(is_readable_time((line.value ->> 'timestamp')::timestamptz), true)
    ORDER BY line.position LIMIT 1;
    IF FOUND THEN
        RETURN refuse('invalid_input', format(
            'line %s: wants a message of at most %s bytes, a level out of debug, info, warn, '
            'error, metadata that is an object of at most %s bytes, and a timestamp like '
            '2026-01-31T12:00:00.000001Z',
            v_position, max_message_bytes(), max_metadata_bytes()));
    END IF;
    RETURN NULL;
EXCEPTION WHEN data_exception THEN
    RETURN refuse('invalid_input', 'timestamp must be an ISO 8601 time with its offset');
END
$$;

-- A batch of lines, the first of them number p_first_seq. What is stored already is skipped,
-- so a batch may be repeated; after a gap the reply says where to resume.
CREATE FUNCTION append_run_logs(
    p_run_id integer, p_epoch integer, p_first_seq integer, p_lines jsonb
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    c_now constant timestamp := utc_now();
    v_lease ops_run_lease;
    v_refusal jsonb;
    v_new ops_run_log_tail;
    v_lines integer;
    v_is_bad boolean;
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    END IF;
    v_refusal := coalesce(work_problem(p_run_id, NULL, p_epoch), batch_problem(p_first_seq, p_lines));
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    SELECT * INTO v_lease FROM ops_run_lease l WHERE l.run_id = p_run_id;
    IF p_first_seq > v_lease.next_log_seq THEN
        RETURN refuse('log_gap', format('Lines from %s on are missing.', v_lease.next_log_seq))
               || jsonb_build_object('next_seq', v_lease.next_log_seq);
    END IF;
    -- The lines are read from JSON once and judged by what was stored: all of it is undone when
    -- one of them is bad.
    WITH stored AS (
        INSERT INTO ops_run_log_line
            (run_id, run_queued_at, seq, log_level, message, metadata, "timestamp")
        SELECT p_run_id, v_lease.run_queued_at, p_first_seq + line.position - 1,
               coalesce(line.value ->> 'level', 'info'),
               CASE WHEN jsonb_typeof(line.value -> 'message') = 'string'
                    THEN line.value ->> 'message' END,
               line.value -> 'metadata',
               coalesce((line.value ->> 'timestamp')::timestamptz AT TIME ZONE 'UTC', c_now)
        FROM jsonb_array_elements(p_lines) WITH ORDINALITY AS line (value, position)
        WHERE p_first_seq + line.position - 1 >= v_lease.next_log_seq
        RETURNING log_level, message, metadata, "timestamp"
    )
    SELECT count(*), min(s."timestamp"), max(s."timestamp"),
           count(*) FILTER (WHERE s.log_level = 'debug'), count(*) FILTER (WHERE s.log_level = 'info'),
           count(*) FILTER (WHERE s.log_level = 'warn'), count(*) FILTER (WHERE s.log_level = 'error'),
           bool_or(s.message IS NULL OR octet_length(s.message) > max_message_bytes())
            -- Lines of a step share their metadata: to write each out would cost as much as storing it.
            OR (SELECT bool_or(jsonb_typeof(d.metadata) <> 'object'
                               OR octet_length(d.metadata::text) > max_metadata_bytes())
                FROM (SELECT DISTINCT m.metadata FROM stored m) d)
    INTO v_lines, v_new.first_time, v_new.last_time,
         v_new.debug_lines, v_new.info_lines, v_new.warn_lines, v_new.error_lines,
         v_is_bad
    FROM stored s;
    IF v_lines > 0 THEN
        IF v_is_bad
           OR v_new.debug_lines + v_new.info_lines + v_new.warn_lines + v_new.error_lines <> v_lines
           OR NOT is_readable_time(v_new.first_time AT TIME ZONE 'UTC')
           OR NOT is_readable_time(v_new.last_time AT TIME ZONE 'UTC') THEN
            RAISE data_exception;
        END IF;
        v_new.first_seq := v_lease.next_log_seq;
        v_new.last_seq := v_lease.next_log_seq + v_lines - 1;
        INSERT INTO ops_run_log_tail (
            run_id, run_queued_at, first_seq, last_seq, first_time, last_time,
            debug_lines, info_lines, warn_lines, error_lines)
        VALUES (p_run_id, v_lease.run_queued_at, v_new.first_seq, v_new.last_seq,
                v_new.first_time, v_new.last_time, v_new.debug_lines, v_new.info_lines,
                v_new.warn_lines, v_new.error_lines);
        UPDATE ops_run_lease SET next_log_seq = v_new.last_seq + 1 WHERE run_id = p_run_id;
        -- Once per hundred lines: does nobody enter words, or not fast enough?
        IF v_new.last_seq % 100 < v_lines AND (
            SELECT v_new.last_seq - t.first_seq >= max_tail_lines()
                   OR t.stored_at < clock_timestamp() - max_tail_age()
            FROM ops_run_log_tail t WHERE t.run_id = p_run_id ORDER BY t.first_seq LIMIT 1)
        THEN
            PERFORM enter_tail(p_run_id);
        END IF;
    END IF;
    RETURN jsonb_build_object('success', true, 'next_seq', v_lease.next_log_seq + v_lines);
EXCEPTION WHEN data_exception THEN
    v_refusal := lines_problem(p_lines);
    IF v_refusal IS NULL THEN
        RAISE;
    END IF;
    RETURN v_refusal;
END
$$;

-- One line, for scripts and psql.
CREATE FUNCTION append_run_log(
    p_run_id integer, p_level text, p_message text, p_metadata jsonb DEFAULT '{}',
    p_worker_id text DEFAULT NULL, p_epoch integer DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_refusal jsonb;
    v_lease ops_run_lease;
    v_now constant timestamptz := clock_timestamp();
    v_reply jsonb;
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    END IF;
    v_refusal := work_problem(p_run_id, p_worker_id, p_epoch);
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    SELECT * INTO v_lease FROM ops_run_lease l WHERE l.run_id = p_run_id;
    v_reply := append_run_logs(p_run_id, v_lease.epoch, v_lease.next_log_seq, jsonb_build_array(
        jsonb_build_object('level', coalesce(p_level, 'info'), 'message', p_message,
                           'metadata', coalesce(p_metadata, '{}'), 'timestamp', v_now)));
    IF NOT (v_reply -> 'success')::boolean THEN
        RETURN v_reply;
    END IF;
    RETURN jsonb_build_object('success', true, 'timestamp', v_now, 'seq', v_lease.next_log_seq);
END
$$;

-- Something worth keeping that is no change of state.
CREATE FUNCTION add_run_event(
    p_run_id integer, p_epoch integer, p_event_type text, p_message text,
    p_payload jsonb DEFAULT '{}'
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_refusal jsonb;
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    END IF;
    PERFORM FROM ops_run r WHERE r.id = p_run_id FOR NO KEY UPDATE;
    v_refusal := work_problem(p_run_id, NULL, p_epoch);
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    ELSIF coalesce(p_event_type, '') NOT IN ('error', 'warning', 'info') THEN
        RETURN refuse('invalid_input', 'event_type must be error, warning or info');
    ELSIF coalesce(octet_length(p_message), 0) NOT BETWEEN 1 AND 4096 THEN
        RETURN refuse('invalid_input', 'message must have 1 to 4096 bytes');
    ELSIF jsonb_typeof(coalesce(p_payload, '{}')) <> 'object'
          OR octet_length(p_payload::text) > 65536 THEN
        RETURN refuse('invalid_input', 'payload must be a JSON object of at most 65536 bytes');
    END IF;
    RETURN jsonb_build_object('success', true, 'seq', record_event(
        p_run_id, p_event_type, p_message, coalesce(p_payload, '{}')));
END
$$;

-- Why an artifact cannot be recorded: a refusal, or NULL.
CREATE FUNCTION artifact_problem(
    p_artifact_key text, p_artifact_url text, p_content_type text, p_size_bytes bigint,
    p_checksum text, p_expires_at timestamptz, p_metadata jsonb
) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT refuse('invalid_input', problem) FROM (VALUES
        (1, CASE WHEN p_artifact_key IS NULL OR length(p_artifact_key) > 512
                   OR p_artifact_key !~ '^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$'
                   OR p_artifact_key ~ '(^|/)\.{1,2}(/|$)'
            THEN 'artifact_key must be a relative path of letters, digits, ".", "_" and "-", '
                 'without "." and ".." parts, of at most 512 characters' END),
        (2, CASE WHEN coalesce(p_artifact_url, '') !~ '^(filesystem:|s3://).+'
                   OR length(p_artifact_url) > 2000
            THEN 'artifact_url must begin with "filesystem:" or "s3://" and have at most 2000 '
                 'characters' END),
        (3, CASE WHEN coalesce(p_size_bytes, -1) < 0 THEN 'size_bytes must not be negative' END),
        (4, CASE WHEN coalesce(p_checksum !~ '^[0-9a-f]{64}$', true)
            THEN 'checksum must be a SHA-256 in lower-case hex' END),
        (5, CASE WHEN jsonb_typeof(p_metadata) <> 'object'
                   OR octet_length(p_metadata::text) > max_metadata_bytes()
            THEN format('metadata must be a JSON object of at most %s bytes',
                        max_metadata_bytes()) END),
        (6, CASE WHEN NOT is_readable_time(p_expires_at)
            THEN 'expires_at must be a time in the years 1970 to 8999' END),
        (7, CASE WHEN length(p_content_type) > 255
            THEN 'content_type must not exceed 255 characters' END)
    ) AS checks (rank, problem)
    WHERE problem IS NOT NULL ORDER BY rank LIMIT 1
$$;

-- Record an artifact whose bytes are in the store already. Recording the same bytes under the
-- same key again changes nothing.
CREATE FUNCTION add_run_artifact(
    p_run_id integer, p_artifact_key text, p_artifact_url text, p_content_type text,
    p_size_bytes bigint, p_checksum text, p_expires_at timestamptz DEFAULT NULL,
    p_metadata jsonb DEFAULT '{}', p_epoch integer DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_refusal jsonb;
    v_artifact ops_run_artifact;
    v_now constant timestamp := utc_now();
BEGIN
    IF worker_problem() IS NOT NULL THEN
        RETURN worker_problem();
    END IF;
    v_refusal := coalesce(
        work_problem(p_run_id, NULL, p_epoch),
        artifact_problem(p_artifact_key, p_artifact_url, p_content_type, p_size_bytes,
                         p_checksum, p_expires_at, coalesce(p_metadata, '{}')));
    IF v_refusal IS NOT NULL THEN
        RETURN v_refusal;
    END IF;
    INSERT INTO ops_run_artifact (
        run_id, artifact_key, artifact_url, content_type, size_bytes, checksum, expires_at,
        metadata, store, status, create_date, write_date)
    VALUES (
        p_run_id, p_artifact_key, p_artifact_url,
        coalesce(p_content_type, 'application/octet-stream'), p_size_bytes, p_checksum,
        p_expires_at AT TIME ZONE 'UTC', coalesce(p_metadata, '{}'),
        CASE WHEN p_artifact_url LIKE 's3://%' THEN 's3' ELSE 'filesystem' END, 'stored',
        v_now, v_now)
    ON CONFLICT (run_id, artifact_key) DO NOTHING
    RETURNING * INTO v_artifact;
    IF NOT FOUND THEN
        SELECT * INTO v_artifact FROM ops_run_artifact a
        WHERE a.run_id = p_run_id AND a.artifact_key = p_artifact_key;
        IF v_artifact.checksum <> p_checksum THEN
            RETURN refuse('conflict', format(
                'Artifact %s of this run is recorded with another checksum.', p_artifact_key));
        END IF;
    END IF;
    RETURN jsonb_build_object('success', true, 'artifact_id', v_artifact.id);
END
$$;
