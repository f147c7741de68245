-- The nine tables under the names and spellings other programs rely on. security_invoker:
-- whoever reads them is judged by their own rights, not by the owner's.
-- Replaced, never dropped: a dashboard's view may stand on them. Columns are only added, last.

CREATE OR REPLACE VIEW projects WITH (security_invoker = true) AS
SELECT p.id, p.name, p.slug, p.workspace_key, p.odoo_version,
       CASE WHEN p.active THEN 'active' ELSE 'archived' END AS status,
       p.repository_url, p.default_branch, p.description,
       coalesce(p.config, '{}'::jsonb) AS config, p.max_running,
       coalesce(p.paused, false) AS paused,
       p.create_date AT TIME ZONE 'UTC' AS created_at,
       p.write_date AT TIME ZONE 'UTC' AS updated_at
FROM public.ops_project p;

CREATE OR REPLACE VIEW workflows WITH (security_invoker = true) AS
SELECT w.id, w.project_id, w.workflow_type, w.name, coalesce(w.enabled, false) AS enabled,
       w.git_ref, w.git_commit, coalesce(w.config, '{}'::jsonb) AS config, w.schedule,
       w.create_date AT TIME ZONE 'UTC' AS created_at,
       w.write_date AT TIME ZONE 'UTC' AS updated_at,
       w.schedule_tz, coalesce(w.schedule_paused, false) AS schedule_paused,
       w.schedule_next_at AT TIME ZONE 'UTC' AS schedule_next_at
FROM public.ops_workflow w;

CREATE OR REPLACE VIEW runs WITH (security_invoker = true) AS
SELECT r.id, r.project_id, r.workflow_id, r.workflow_type, r.run_number, r.status,
       r.claimed_by, r.claimed_at AT TIME ZONE 'UTC' AS claimed_at,
       r.started_at AT TIME ZONE 'UTC' AS started_at,
       r.finished_at AT TIME ZONE 'UTC' AS finished_at,
       extract(epoch FROM r.finished_at - r.started_at)::double precision AS duration,
       r.exit_code, r.error_code, r.error_message, r.idempotency_key, r.git_ref, r.git_commit,
       r.priority, r.available_at AT TIME ZONE 'UTC' AS available_at, r.trigger, r.retry_of,
       r.attempt, r.requested_by, r.cancel_requested_at AT TIME ZONE 'UTC' AS cancel_requested_at,
       r.canceled_by, r.cancel_reason, r.snapshot, coalesce(r.metadata, '{}'::jsonb) AS metadata,
       r.epoch, r.create_date AT TIME ZONE 'UTC' AS created_at,
       r.write_date AT TIME ZONE 'UTC' AS updated_at,
       r.deadline AT TIME ZONE 'UTC' AS deadline
FROM public.ops_run r;

CREATE OR REPLACE VIEW run_events WITH (security_invoker = true) AS
SELECT e.id, e.run_id, e.seq, e.event_type, e.message,
       coalesce(e.payload, '{}'::jsonb) AS payload,
       e."timestamp" AT TIME ZONE 'UTC' AS "timestamp", e.prev_hash, e.hash
FROM public.ops_run_event_row e;

CREATE OR REPLACE VIEW run_artifacts WITH (security_invoker = true) AS
SELECT a.id, a.run_id, a.artifact_key, a.artifact_url, a.checksum, a.content_type, a.size_bytes,
       a.expires_at AT TIME ZONE 'UTC' AS expires_at, a.store, a.status,
       coalesce(a.metadata, '{}'::jsonb) AS metadata,
       a.create_date AT TIME ZONE 'UTC' AS created_at,
       coalesce(a.held, false) AS held, a.hold_reason, a.held_by,
       a.held_at AT TIME ZONE 'UTC' AS held_at
FROM public.ops_run_artifact a;

CREATE OR REPLACE VIEW run_logs WITH (security_invoker = true) AS
SELECT l.id, l.run_id, l.seq, l.log_level, l.message,
       coalesce(l.metadata, '{}'::jsonb) AS metadata,
       l."timestamp" AT TIME ZONE 'UTC' AS "timestamp"
FROM public.ops_run_log_line l;

CREATE OR REPLACE VIEW tools WITH (security_invoker = true) AS
SELECT t.id, t.tool_name, t.version, t.docker_image, t.digest,
       coalesce(t.config, '{}'::jsonb) AS config, t.active,
       t.create_date AT TIME ZONE 'UTC' AS created_at,
       t.write_date AT TIME ZONE 'UTC' AS updated_at
FROM public.ops_tool t;

CREATE OR REPLACE VIEW upgrade_advisories WITH (security_invoker = true) AS
SELECT a.id, a.from_version, a.to_version, a.severity, a.title, a.description,
       a.migration_guide,
       CASE WHEN coalesce(a.affects_modules, '') = '' THEN '{}'::text[]
            ELSE regexp_split_to_array(trim(a.affects_modules), '[,\s]+') END AS affects_modules,
       a.create_date AT TIME ZONE 'UTC' AS created_at,
       a.write_date AT TIME ZONE 'UTC' AS updated_at
FROM public.ops_upgrade_advisory a;

CREATE OR REPLACE VIEW project_memberships WITH (security_invoker = true) AS
SELECT m.id, m.project_id, m.user_id, m.role,
       m.create_date AT TIME ZONE 'UTC' AS created_at
FROM public.ops_project_membership m;

-- Functions are open to everybody by PostgreSQL's default, ours to nobody. What the roles of the
-- SQL door may call is granted by name, see models/sql_roles.py.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', current_schema());
END
$$;
