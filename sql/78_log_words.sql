-- What counts as a word of a log line, and how the words of stored lines are entered in the table
-- that full-text search (82_search.sql) looks into. When they are is said in 79_log_tail.sql.
--
-- A word is what stands between blanks and the signs ! " ' ( ) , . / : ; < = > ? [ \ ] ` { | } and
-- their like in other scripts; - _ # $ % & * + @ ^ ~ belong to words. Case does not count. Words of
-- more than 500 characters count by their beginning: an index entry has at most 2046 bytes. The
-- time that Odoo begins a line with is no part of its words: the line has its own, and a thousand
-- different milliseconds would be a third of the entries of a batch.

-- A line of the log may hold this many bytes of UTF-8; a batch this many lines.
CREATE FUNCTION max_message_bytes() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 65536;
CREATE FUNCTION max_metadata_bytes() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 65536;
CREATE FUNCTION max_batch_lines() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 1000;

-- Cut into words: the same function for lines, when they are stored and when they are judged, and
-- for queries. Nested calls of replace(), because translate() and regular expressions cost 3 to 8
-- times as much. Lower case by the rules of Unicode where PostgreSQL knows them by itself (from
-- 17 on), otherwise by the database's. words_version tells by which rules, for stored words.
DO $$
DECLARE
    c_signs constant text[] := string_to_array(
        E'\t \n \r \v \f ! " '' ( ) , . / : ; < = > ? [ \\ ] ` { | }', ' ');
    -- Blanks, quotation marks, dashes, dots and brackets that are more than one byte.
    c_wide_signs constant text[] := string_to_array(
        E'\u0085 \u00a0 \u1680 \u2002 \u2003 \u2009 \u200a \u2028 \u2029 \u202f \u205f \u3000 '
        '« » ‘ ’ ‚ “ ” „ ‹ › – — … ¿ ¡ 、 。 ， ． ： ； ！ ？ （ ） 「 」 『 』 【 】 《 》', ' ');
    c_lower constant text := CASE
        WHEN EXISTS (SELECT FROM pg_collation WHERE collname = 'pg_c_utf8')
        THEN 'lower(p_text COLLATE pg_catalog.pg_c_utf8)' ELSE 'lower(p_text)' END;
    v_plain text := 'lower_text(p_text)';
    v_wide text;
    v_sign text;
BEGIN
    EXECUTE format('CREATE FUNCTION lower_text(p_text text) RETURNS text LANGUAGE sql IMMUTABLE'
                   ' RETURN %s', c_lower);
    FOREACH v_sign IN ARRAY c_signs LOOP
        v_plain := format('replace(%s, %L, '' '')', v_plain, v_sign);
    END LOOP;
    v_wide := v_plain;
    FOREACH v_sign IN ARRAY c_wide_signs LOOP
        v_wide := format('replace(%s, %L, '' '')', v_wide, v_sign);
    END LOOP;
    EXECUTE format(
        'CREATE FUNCTION split_words(p_text text) RETURNS text[] LANGUAGE sql IMMUTABLE RETURN
         array_remove(string_to_array(CASE WHEN octet_length(p_text) = length(p_text)
                                      THEN %s ELSE %s END, '' ''), '''')', v_plain, v_wide);
    EXECUTE format('CREATE FUNCTION words_version() RETURNS text LANGUAGE sql IMMUTABLE RETURN %L',
                   'odooops words 1 ' || md5(c_lower || v_wide));
END
$$;

-- The line without the time that Odoo begins it with. right() with a negative number looks at what
-- it leaves out, substr() at the whole line.
CREATE FUNCTION without_log_time(p_message text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN p_message LIKE '____-__-__ __:__:__,___ %' THEN right(p_message, -24)
            ELSE p_message END;

CREATE FUNCTION cut_words(p_words text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY(SELECT left(w.word, 500) FROM unnest(p_words) WITH ORDINALITY AS w (word, position)
             ORDER BY w.position);

-- The words of a line, in order.
CREATE FUNCTION log_words(p_message text) RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN octet_length(p_message) <= 500 THEN split_words(without_log_time(p_message))
            ELSE cut_words(split_words(without_log_time(p_message))) END;

-- The same as one text with a blank around each word: what patterns of a query are held against.
CREATE FUNCTION log_text(p_message text) RETURNS text
LANGUAGE sql STABLE
RETURN ' ' || array_to_string(log_words(p_message), ' ') || ' ';

-- The line as batch_words wants it: no word in it is longer than 500 characters.
CREATE FUNCTION bounded_line(p_message text) RETURNS text
LANGUAGE sql STABLE
RETURN CASE WHEN octet_length(p_message) <= 500 THEN without_log_time(p_message)
            ELSE log_text(p_message) END;

-- The words of a batch: of its bounded lines, joined by blanks. Lines repeat themselves, so what
-- stands between blanks is made distinct first, and cut at signs afterwards: a fifth less time. A
-- variable holds it, because split_words is put in place of its call and would compute it thrice.
CREATE FUNCTION batch_words(p_text text) RETURNS tsvector
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
DECLARE
    c_distinct constant text := array_to_string(tsvector_to_array(array_to_tsvector(
        array_remove(string_to_array(p_text, ' '), ''))), ' ');
BEGIN
    RETURN array_to_tsvector(split_words(c_distinct));
END
$$;

-- A batch's words must not exceed 1 MiB. Lower case may take half as much again as the text.
CREATE FUNCTION max_words_bytes() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 500000;

-- Enter the words of stored lines of a run that are not entered yet, in rows of at most
-- max_batch_lines() lines and max_words_bytes() (and a line) of text.
CREATE FUNCTION enter_words(
    p_run_id integer, p_run_queued_at timestamp, p_first_seq integer, p_last_seq integer
) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT
AS $$
    WITH line AS (
        SELECT l.seq, l."timestamp", l.log_level, bounded_line(l.message) AS text,
               (l.seq - p_first_seq) / max_batch_lines() AS part,
               (sum(octet_length(l.message)) OVER (ORDER BY l.seq)) / max_words_bytes() AS slice
        FROM ops_run_log_line l
        WHERE l.run_id = p_run_id AND l.run_queued_at = p_run_queued_at
          AND l.seq BETWEEN p_first_seq AND p_last_seq
    )
    INSERT INTO ops_run_log_words (
        run_id, run_queued_at, first_seq, last_seq, first_time, last_time,
        debug_lines, info_lines, warn_lines, error_lines, words)
    SELECT p_run_id, p_run_queued_at, min(l.seq), max(l.seq), min(l."timestamp"), max(l."timestamp"),
           count(*) FILTER (WHERE l.log_level = 'debug'), count(*) FILTER (WHERE l.log_level = 'info'),
           count(*) FILTER (WHERE l.log_level = 'warn'), count(*) FILTER (WHERE l.log_level = 'error'),
           batch_words(string_agg(l.text, ' '))
    FROM line l GROUP BY l.part, l.slice
$$;

-- Lines stored before there was this table, or whose words were cut by other rules. Once: the
-- table's comment says by which rules its words were cut.
DO $$
DECLARE
    v_run record;
BEGIN
    IF obj_description('public.ops_run_log_words'::regclass, 'pg_class') = words_version() THEN
        RETURN;
    END IF;
    DELETE FROM public.ops_run_log_words;
    DELETE FROM public.ops_run_log_tail;
    FOR v_run IN
        SELECT r.id, r.create_date, last.seq AS last_seq
        FROM ops_run r
        CROSS JOIN LATERAL (SELECT l.seq FROM ops_run_log_line l
                            WHERE l.run_id = r.id AND l.run_queued_at = r.create_date
                            ORDER BY l.seq DESC LIMIT 1) last
        ORDER BY r.id
    LOOP
        FOR v_first IN 1 .. v_run.last_seq BY 10 * max_batch_lines() LOOP
            PERFORM enter_words(v_run.id, v_run.create_date, v_first,
                                least(v_first + 10 * max_batch_lines() - 1, v_run.last_seq));
        END LOOP;
    END LOOP;
    EXECUTE format('COMMENT ON TABLE public.ops_run_log_words IS %L', words_version());
END
$$;
