-- What the models read. Not while the tables of these names are there still, whose rows
-- 22_partitions.sql moves. The models' init() runs this file too; it names the schema in full.
DO $$
BEGIN
    IF coalesce((SELECT c.relkind FROM pg_class c
                 WHERE c.oid = to_regclass('public.ops_run_event')), 'v') = 'v' THEN
        CREATE OR REPLACE VIEW public.ops_run_event WITH (security_invoker = true) AS
        SELECT e.id, e.run_id, e.seq, e.event_type, e.message, e.payload, e."timestamp",
               e.prev_hash, e.hash, e.run_queued_at
        FROM public.ops_run_event_row e;
    END IF;
    IF coalesce((SELECT c.relkind FROM pg_class c
                 WHERE c.oid = to_regclass('public.ops_run_log')), 'v') = 'v' THEN
        CREATE OR REPLACE VIEW public.ops_run_log WITH (security_invoker = true) AS
        SELECT l.id, l.run_id, l.seq, l.log_level, l.message, l.metadata, l."timestamp",
               l.run_queued_at
        FROM public.ops_run_log_line l;
    END IF;
END
$$;
