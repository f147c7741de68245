-- The values a column may hold, as one domain per enumeration. The columns themselves stay text:
-- a selection of the ORM can grow without a change of types under somebody's view. Clients that
-- know enumerations only as types (Prisma casts every value it compares with) find them here,
-- and the comment says which columns they belong to. Values are the ORM's, in its order.

DO $$
DECLARE
    v_enumeration record;
    v_values text;
BEGIN
    FOR v_enumeration IN
        SELECT *
        FROM (VALUES
            ('workflow_type', 'ops.workflow', 'workflow_type',
             'workflows.workflow_type, runs.workflow_type'),
            ('run_status', 'ops.run', 'status', 'runs.status'),
            ('run_trigger', 'ops.run', 'trigger', 'runs.trigger'),
            ('event_type', 'ops.run.event', 'event_type', 'run_events.event_type'),
            ('log_level', 'ops.run.log', 'log_level', 'run_logs.log_level'),
            ('artifact_store', 'ops.run.artifact', 'store', 'run_artifacts.store'),
            ('artifact_status', 'ops.run.artifact', 'status', 'run_artifacts.status'),
            ('advisory_severity', 'ops.upgrade.advisory', 'severity',
             'upgrade_advisories.severity'),
            ('project_role', 'ops.project.membership', 'role', 'project_memberships.role'),
            -- Not a selection: the view derives it from Odoo's field "active".
            ('project_status', NULL, NULL, 'projects.status')
        ) AS e (name, model, field, columns)
    LOOP
        IF v_enumeration.model IS NULL THEN
            v_values := quote_literal('active') || ', ' || quote_literal('archived');
        ELSE
            SELECT string_agg(quote_literal(s.value), ', ' ORDER BY s.sequence, s.id)
            INTO STRICT v_values
            FROM public.ir_model_fields_selection s
            JOIN public.ir_model_fields f ON f.id = s.field_id
            WHERE f.model = v_enumeration.model AND f.name = v_enumeration.field;
        END IF;
        -- Kept where it is there already: somebody's function may name it.
        IF to_regtype(format('%I.%I', current_schema(), v_enumeration.name)) IS NULL THEN
            EXECUTE format('CREATE DOMAIN %I AS text', v_enumeration.name);
        END IF;
        EXECUTE format('ALTER DOMAIN %I DROP CONSTRAINT IF EXISTS known', v_enumeration.name);
        EXECUTE format('ALTER DOMAIN %I ADD CONSTRAINT known CHECK (VALUE IN (%s))',
                       v_enumeration.name, v_values);
        EXECUTE format('COMMENT ON DOMAIN %I IS %L', v_enumeration.name, v_enumeration.columns);
    END LOOP;
END
$$;
