-- Row-level security: what a role other than Odoo's sees in the tables, and through the views of
-- the schema, which run with the reader's rights. Reading only: no policy allows a write, and no
-- role is granted one. Odoo's own role owns the tables and is not concerned.
--
-- member_project_ids stands in a sub-select of its own, so that it is asked once per statement
-- and not once per row.

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'ops_project', 'ops_workflow', 'ops_run', 'ops_run_event_row', 'ops_run_artifact',
        'ops_run_log_line', 'ops_tool', 'ops_upgrade_advisory', 'ops_project_membership',
        -- No policy for these: nobody else reads them.
        'ops_worker', 'ops_worker_token', 'ops_upgrade_acknowledgement', 'ops_sql_login', 'ops_run_lease',
        'ops_project_gate', 'ops_artifact_check', 'ops_artifact_hold',
        'ops_artifact_hold_ops_run_artifact_rel', 'ops_run_log_words',
        'ops_run_log_tail', 'ops_audit_pending', 'ops_audit_head', 'ops_audit_checkpoint',
        'ops_audit_checkpoint_project', 'ops_audit_expiry', 'ops_audit_expiry_run',
        'ops_retention_line', 'ops_secret', 'ops_secret_value', 'ops_secret_change',
        'ops_run_upload'
    ]
    LOOP
        CONTINUE WHEN (SELECT c.relrowsecurity FROM pg_class c
                       WHERE c.oid = format('public.%I', v_table)::regclass);
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_table);
    END LOOP;
END
$$;

-- A policy is made anew only when its condition is another than the one it was made from, which
-- its comment tells: to make one locks out every reader.
DO $$
DECLARE
    c_by_project constant text :=
        'project_id = ANY ((SELECT member_project_ids(''read''))::integer[])';
    -- Whoever sees the run: the policy of ops_run holds in here.
    c_by_run constant text := 'EXISTS (SELECT FROM public.ops_run r WHERE r.id = run_id)';
    c_by_user constant text := '(SELECT is_ops_user())';
    v_policy record;
BEGIN
    FOR v_policy IN
        SELECT wanted.tablename, wanted.condition, 'odooops ' || md5(wanted.condition) AS mark
        FROM (VALUES
            ('ops_project', 'id = ANY ((SELECT member_project_ids(''read''))::integer[])'),
            ('ops_project_membership', c_by_project),
            ('ops_workflow', c_by_project),
            ('ops_run', c_by_project),
            ('ops_run_event_row', c_by_run),
            ('ops_run_log_line', c_by_run),
            ('ops_run_artifact', c_by_run),
            ('ops_tool', c_by_user),
            ('ops_upgrade_advisory', c_by_user)
        ) AS wanted (tablename, condition)
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_policy p
            WHERE p.polrelid = format('public.%I', v_policy.tablename)::regclass
              AND p.polname = 'odooops_read'
              AND obj_description(p.oid, 'pg_policy') = v_policy.mark);
        EXECUTE format('DROP POLICY IF EXISTS odooops_read ON public.%I', v_policy.tablename);
        EXECUTE format('CREATE POLICY odooops_read ON public.%I FOR SELECT USING (%s)',
                       v_policy.tablename, v_policy.condition);
        EXECUTE format('COMMENT ON POLICY odooops_read ON public.%I IS %L',
                       v_policy.tablename, v_policy.mark);
    END LOOP;
END
$$;
