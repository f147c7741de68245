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
        'ops_project', 'ops_workflow', 'ops_run', 'ops_run_event', 'ops_run_artifact',
        'ops_run_log', 'ops_tool', 'ops_upgrade_advisory', 'ops_project_membership',
        -- No policy for these: nobody else reads them.
        'ops_worker', 'ops_upgrade_acknowledgement', 'ops_sql_login', 'ops_run_lease',
        'ops_project_gate'
    ]
    LOOP
        CONTINUE WHEN (SELECT c.relrowsecurity FROM pg_class c
                       WHERE c.oid = format('public.%I', v_table)::regclass);
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_table);
    END LOOP;
END
$$;

CREATE POLICY odooops_read ON public.ops_project FOR SELECT
    USING (id = ANY ((SELECT member_project_ids('read'))::integer[]));
CREATE POLICY odooops_read ON public.ops_project_membership FOR SELECT
    USING (project_id = ANY ((SELECT member_project_ids('read'))::integer[]));
CREATE POLICY odooops_read ON public.ops_workflow FOR SELECT
    USING (project_id = ANY ((SELECT member_project_ids('read'))::integer[]));
CREATE POLICY odooops_read ON public.ops_run FOR SELECT
    USING (project_id = ANY ((SELECT member_project_ids('read'))::integer[]));

-- What belongs to a run is seen by whoever sees the run: the policy of ops_run holds in here.
CREATE POLICY odooops_read ON public.ops_run_event FOR SELECT
    USING (EXISTS (SELECT FROM public.ops_run r WHERE r.id = run_id));
CREATE POLICY odooops_read ON public.ops_run_log FOR SELECT
    USING (EXISTS (SELECT FROM public.ops_run r WHERE r.id = run_id));
CREATE POLICY odooops_read ON public.ops_run_artifact FOR SELECT
    USING (EXISTS (SELECT FROM public.ops_run r WHERE r.id = run_id));

CREATE POLICY odooops_read ON public.ops_tool FOR SELECT
    USING ((SELECT is_ops_user()));
CREATE POLICY odooops_read ON public.ops_upgrade_advisory FOR SELECT
    USING ((SELECT is_ops_user()));
