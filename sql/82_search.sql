-- Full-text search over log lines. The table ops_run_log_words says which batches of lines can
-- hold a match, by a GIN index; any batch in ops_run_log_tail can. The lines of those batches are then
-- judged one by one. So phrases and exclusions, which no index of words can decide, are decided line by line.

-- A text as a part of a LIKE pattern.
CREATE FUNCTION like_pattern(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN replace(replace(replace(p_text, '\', '\\'), '%', '\%'), '_', '\_');

CREATE FUNCTION text_array(p_texts jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY(SELECT t.value FROM jsonb_array_elements_text(p_texts) WITH ORDINALITY
             AS t (value, position) ORDER BY t.position);

-- A query: words, all of which a line must have; "words in this order, side by side"; a beginning*;
-- -word, -"words" and -beginning*, which it must not have; OR between two of such lists. A term
-- that signs cut into several words (odoo.sql_db:) is taken for a phrase.
--
-- Returns a refusal, or {success, words, alternatives: [{all, none, hint}]}: `words` is a tsquery
-- that holds for every batch with a match; a line matches when for one of the alternatives log_text
-- is LIKE all of `all` and none of `none`, before which `hint` may be asked of the lower-cased line.
CREATE FUNCTION read_log_query(p_query text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT
AS $$
DECLARE
    c_problem constant text := 'query: words, "phrases", beginnings*, -exclusions and OR';
    v_term text[];
    v_words text[];
    v_count integer := 0;
    v_all text[] := '{}';
    v_none text[] := '{}';
    v_lexemes text[] := '{}';
    v_hint text := '';
    v_pattern text;
    v_queries text[] := '{}';
    v_alternatives jsonb := '[]';
BEGIN
    IF length(p_query) > 1000 THEN
        RETURN refuse('invalid_input', c_problem || '; it must not exceed 1000 characters');
    ELSIF (length(p_query) - length(replace(p_query, '"', ''))) % 2 = 1 THEN
        RETURN refuse('invalid_input', c_problem || '; a phrase lacks its closing quotation mark');
    END IF;
    -- The OR behind the last term closes the last alternative. 1: -, 2: phrase, 3: term, 4: *
    FOR v_term IN
        SELECT m FROM regexp_matches(coalesce(p_query, '') || ' OR ',
                                     '(-?)(?:"([^"]*)"|([^\s"]*[^\s"*]))(\**)', 'g') AS m
    LOOP
        IF v_term[1] = '' AND v_term[3] = 'OR' AND v_term[4] = '' THEN
            IF v_all = '{}' THEN
                RETURN refuse('invalid_input', c_problem ||
                    '; a word that must be there is missing, in all or beside an OR');
            END IF;
            v_queries := v_queries || array_to_string(v_lexemes, ' & ');
            v_alternatives := v_alternatives || jsonb_build_object(
                'all', v_all, 'none', v_none, 'hint', v_hint);
            v_all := '{}';
            v_none := '{}';
            v_lexemes := '{}';
            v_hint := '';
            CONTINUE;
        END IF;
        v_words := log_words(coalesce(v_term[2], v_term[3]));
        -- Nothing but signs: a line has no such word, and is not asked for it.
        CONTINUE WHEN v_words = '{}';
        v_count := v_count + cardinality(v_words);
        IF v_count > 50 THEN
            RETURN refuse('invalid_input', c_problem || '; it must not exceed 50 words');
        END IF;
        v_pattern := '% ' || like_pattern(array_to_string(v_words, ' '))
                     || CASE WHEN v_term[4] = '' THEN ' %' ELSE '%' END;
        IF v_term[1] = '-' THEN
            v_none := v_none || v_pattern;
            CONTINUE;
        END IF;
        v_all := v_all || v_pattern;
        -- Signs that mean something in a tsquery cut words and are in none.
        v_lexemes := v_lexemes || ARRAY(
            SELECT '''' || w.word || '''' || CASE WHEN v_term[4] <> '' AND w.position = cardinality(v_words)
                                                  THEN ':*' ELSE '' END
            FROM unnest(v_words) WITH ORDINALITY AS w (word, position));
        v_hint := (SELECT w.pattern FROM (
            SELECT v_hint AS pattern
            UNION ALL SELECT '%' || like_pattern(u.word) || '%' FROM unnest(v_words) AS u (word)
        ) w ORDER BY length(w.pattern) DESC, w.pattern LIMIT 1);
    END LOOP;
    RETURN jsonb_build_object(
        'success', true, 'words', array_to_string(v_queries, ' | '), 'alternatives', v_alternatives);
END
$$;

-- A condition of SQL over a line's message: constants only, quoted by PostgreSQL. Written out,
-- because a function called for each line costs more than what it decides.
CREATE FUNCTION log_condition(p_alternatives jsonb, p_message text) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT string_agg(format('(lower_text(%1$s) LIKE %2$L AND log_text(%1$s) LIKE ALL (%3$L)%4$s)',
        p_message, a.value ->> 'hint', text_array(a.value -> 'all'),
        CASE WHEN a.value -> 'none' <> '[]'
             THEN format(' AND log_text(%s) NOT LIKE ALL (%L)',
                         p_message, text_array(a.value -> 'none')) END), ' OR ')
    FROM jsonb_array_elements(p_alternatives) AS a
$$;

-- The batches that have the words of a query, by the index, and those whose words are not in it yet.
-- Without the setting PostgreSQL would read the whole table for a common word, words and all, and
-- not know what that costs.
CREATE FUNCTION matching_batches(p_words tsquery) RETURNS SETOF ops_run_log_words
LANGUAGE sql STABLE ROWS 100 SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
    SELECT w.run_id, w.run_queued_at, w.first_seq, w.last_seq, w.first_time, w.last_time,
           w.debug_lines, w.info_lines, w.warn_lines, w.error_lines, NULL::tsvector
    FROM ops_run_log_words w WHERE w.words @@ p_words
    UNION ALL
    SELECT t.run_id, t.run_queued_at, t.first_seq, t.last_seq, t.first_time, t.last_time,
           t.debug_lines, t.info_lines, t.warn_lines, t.error_lines, NULL
    FROM ops_run_log_tail t
$$;

-- A search looks at so many lines and then says where it stopped: a phrase of common words that
-- never stand together must not keep the server for minutes.
CREATE FUNCTION max_searched_lines() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 200000;

-- Why a search cannot be done, or NULL.
CREATE FUNCTION search_problem(
    p_levels text[], p_since timestamptz, p_until timestamptz, p_limit integer
) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT refuse('invalid_input', problem) FROM (VALUES
        (1, CASE WHEN NOT p_levels <@ '{debug,info,warn,error}'
            THEN 'levels must be among debug, info, warn, error' END),
        (2, CASE WHEN NOT (is_readable_time(p_since) AND is_readable_time(p_until))
            THEN 'since and until must be times between 1970 and the year 9000' END),
        (3, CASE WHEN coalesce(p_limit, 0) NOT BETWEEN 1 AND 1000
            THEN 'limit must lie between 1 and 1000' END)
    ) AS checks (rank, problem)
    WHERE problem IS NOT NULL ORDER BY rank LIMIT 1
$$;

-- Lines that match a query (see read_log_query) and every filter that is given, of runs whose
-- project the caller may read: the newest run first, the lines of a run in their order.
-- p_until is exclusive. To go on behind a line give its run_id and seq as p_after_run_id, p_after.
-- A last row with a `problem` instead of a message tells why there are no (further) lines: a
-- refusal; or, with run_id and seq to go on behind, that the search has looked at enough for once.
CREATE FUNCTION search_run_logs(
    p_query text, p_run_id integer DEFAULT NULL, p_project_id integer DEFAULT NULL,
    p_levels text[] DEFAULT NULL, p_step text DEFAULT NULL,
    p_since timestamptz DEFAULT NULL, p_until timestamptz DEFAULT NULL,
    p_after_run_id integer DEFAULT NULL, p_after integer DEFAULT NULL,
    p_limit integer DEFAULT 100
) RETURNS TABLE (
    project_id integer, run_id integer, run_number integer, seq integer, "timestamp" timestamptz,
    log_level text, step text, message text, problem text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    c_after_run_id constant integer := coalesce(p_after_run_id, p_run_id);
    c_since constant timestamp := p_since AT TIME ZONE 'UTC';
    c_until constant timestamp := p_until AT TIME ZONE 'UTC';
    -- Odoo names its user where a user's rights are to be applied; without one it sees all.
    c_projects constant integer[] := CASE WHEN NOT is_owner() OR acting_user_id() IS NOT NULL
                                          THEN member_project_ids('read') END;
    v_query jsonb := coalesce(search_problem(p_levels, p_since, p_until, p_limit),
                              read_log_query(p_query));
    v_lines text;
    v_batch record;
    v_looked integer := 0;
    v_left integer := p_limit;
    v_found integer;
BEGIN
    IF NOT (v_query -> 'success')::boolean THEN
        problem := v_query ->> 'error';
        RETURN NEXT;
        RETURN;
    END IF;
    v_lines := format(
        'SELECT $1, l.run_id, $2, l.seq, l."timestamp" AT TIME ZONE ''UTC'', l.log_level::text,'
        ' l.metadata ->> ''step'', l.message, NULL::text'
        ' FROM ops_run_log_line l WHERE l.run_id = $3 AND l.run_queued_at = $7'
        ' AND l.seq BETWEEN $4 AND $5%s%s%s%s AND (%s)'
        ' ORDER BY l.seq LIMIT $6',
        CASE WHEN p_levels IS NOT NULL THEN format(' AND l.log_level = ANY (%L)', p_levels) END,
        CASE WHEN p_step IS NOT NULL THEN format(' AND l.metadata ->> ''step'' = %L', p_step) END,
        CASE WHEN c_since IS NOT NULL THEN format(' AND l."timestamp" >= %L', c_since) END,
        CASE WHEN c_until IS NOT NULL THEN format(' AND l."timestamp" < %L', c_until) END,
        log_condition(v_query -> 'alternatives', 'l.message'));
    -- Planned anew each time: which conditions are there decides which index serves.
    FOR v_batch IN EXECUTE
        'SELECT r.project_id, r.id AS run_id, r.run_number, w.run_queued_at, w.last_seq,'
        '       CASE WHEN w.run_id = $3 THEN greatest(w.first_seq, $4::bigint + 1) ELSE w.first_seq END'
        '       AS first_seq'
        ' FROM matching_batches($1) w JOIN ops_run r ON r.id = w.run_id WHERE true'
        || CASE WHEN c_projects IS NOT NULL THEN ' AND r.project_id = ANY ($2)' ELSE '' END
        || CASE WHEN p_project_id IS NOT NULL THEN ' AND r.project_id = $5' ELSE '' END
        || CASE WHEN p_run_id IS NOT NULL THEN ' AND w.run_id = $6' ELSE '' END
        || CASE WHEN c_after_run_id IS NOT NULL
                THEN ' AND w.run_id <= $3 AND (w.run_id < $3 OR w.last_seq > $4)' ELSE '' END
        || CASE WHEN c_since IS NOT NULL THEN ' AND w.last_time >= $7' ELSE '' END
        || CASE WHEN c_until IS NOT NULL THEN ' AND w.first_time < $8' ELSE '' END
        || CASE WHEN p_levels IS NOT NULL THEN
            ' AND ((w.debug_lines > 0 AND ''debug'' = ANY ($9)) OR (w.info_lines > 0 AND ''info'' = ANY ($9))'
            ' OR (w.warn_lines > 0 AND ''warn'' = ANY ($9)) OR (w.error_lines > 0 AND ''error'' = ANY ($9)))'
           ELSE '' END
        || ' ORDER BY w.run_id DESC, w.first_seq'
        USING (v_query ->> 'words')::tsquery, c_projects, c_after_run_id, coalesce(p_after, 0),
              p_project_id, p_run_id, c_since, c_until, p_levels
    LOOP
        IF v_looked >= max_searched_lines() THEN
            run_id := v_batch.run_id;
            seq := v_batch.first_seq - 1;
            problem := 'The search has looked at enough lines for once: go on behind this one.';
            RETURN NEXT;
            RETURN;
        END IF;
        -- To look into a batch costs as much as some lines.
        v_looked := v_looked + greatest(v_batch.last_seq - v_batch.first_seq + 1, 50);
        RETURN QUERY EXECUTE v_lines
        USING v_batch.project_id, v_batch.run_number, v_batch.run_id,
              v_batch.first_seq, v_batch.last_seq, v_left, v_batch.run_queued_at;
        GET DIAGNOSTICS v_found = ROW_COUNT;
        v_left := v_left - v_found;
        EXIT WHEN v_left = 0;
    END LOOP;
END
$$;
