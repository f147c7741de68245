-- The tail of the logs: batches of lines that are stored, and found by every search, but whose words
-- are not in the index yet. To cut words and to enter them costs as much as storing the lines; so
-- whoever stores a batch leaves a row in ops_run_log_tail, workers call index_run_logs all the time, and
-- a search reads the lines of what is left (matching_batches, 82_search.sql). What can be read can be
-- found at any moment, for the row is written with the lines and leaves with the entry of the words.
--
-- It also makes one row of words out of many small batches, of a run that says a line per second.

-- A run has no more lines in the tail, nor for longer, than this: then storing a batch enters words too.
CREATE FUNCTION max_tail_lines() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 20000;
CREATE FUNCTION max_tail_age() RETURNS interval LANGUAGE sql IMMUTABLE RETURN interval '5 minutes';

-- Enter the words of lines in the tail, some 10,000 of them at most, of one run or of those for which
-- it is time: a whole row of words, or half a minute. Returns how many; 0 too when another
-- transaction is at it. One at a time, so what a run has in the tail always lies side by side.
CREATE FUNCTION enter_tail(p_run_id integer DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
    c_lines constant integer := 10000;
    v_run record;
    v_part record;
    v_lines integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('odooops.enter_tail'), 0) THEN
        RETURN 0;
    END IF;
    FOR v_run IN
        SELECT t.run_id, min(t.first_seq) AS first_seq
        FROM ops_run_log_tail t WHERE p_run_id IS NULL OR t.run_id = p_run_id
        GROUP BY t.run_id
        HAVING p_run_id IS NOT NULL
            OR sum(t.last_seq - t.first_seq + 1) >= max_batch_lines()
            OR min(t.stored_at) < clock_timestamp() - interval '30 seconds'
        ORDER BY min(t.stored_at)
    LOOP
        WITH entered AS (
            DELETE FROM ops_run_log_tail t
            WHERE t.run_id = v_run.run_id AND t.first_seq < v_run.first_seq + c_lines
            RETURNING t.run_queued_at, t.last_seq
        )
        SELECT min(e.run_queued_at) AS run_queued_at, max(e.last_seq) AS last_seq INTO v_part
        FROM entered e;
        PERFORM enter_words(v_run.run_id, v_part.run_queued_at, v_run.first_seq, v_part.last_seq);
        v_lines := v_lines + v_part.last_seq - v_run.first_seq + 1;
        EXIT WHEN v_lines >= c_lines;
    END LOOP;
    RETURN v_lines;
END
$$;

-- Enter words of log lines, which are stored and found already, in the index of the search. To be called
-- again until `lines` is 0. Any number of callers; one at a time does the work.
CREATE FUNCTION index_run_logs() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
    RETURN coalesce(worker_problem(), jsonb_build_object('success', true, 'lines', enter_tail()));
END
$$;
