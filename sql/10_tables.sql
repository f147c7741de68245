-- The kernel's private tables. The ORM owns the tables people see; these two hold facts
-- that change every few seconds or serve only as locks, so that ops_run stays quiet.

-- A lease exists only while a run is claimed or running. Heartbeats update it: no index on
-- a changing column and free space in each page keep those updates HOT. No foreign key: a claim has
-- just locked the run, a run with a lease is never deleted, and the check cost each claim a query.
CREATE TABLE IF NOT EXISTS public.ops_run_lease (
    run_id integer PRIMARY KEY,
    epoch integer NOT NULL,
    worker_id text NOT NULL,
    claim_token uuid UNIQUE,
    lease_until timestamptz NOT NULL,
    cancel_requested boolean NOT NULL DEFAULT false,
    next_log_seq integer NOT NULL DEFAULT 1
) WITH (fillfactor = 50);
-- Copied at the claim, so that a batch of log lines finds its partition without the run's row.
ALTER TABLE public.ops_run_lease ADD COLUMN IF NOT EXISTS run_queued_at timestamp;
-- The foreign key that it once had. Asked first, because it locks the table.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_constraint c WHERE c.contype = 'f'
               AND c.conrelid = 'public.ops_run_lease'::regclass) THEN
        ALTER TABLE public.ops_run_lease DROP CONSTRAINT ops_run_lease_run_id_fkey;
    END IF;
END
$$;

-- One row per project: the mutex of claiming, and the memory that makes it fair.
CREATE TABLE IF NOT EXISTS public.ops_project_gate (
    project_id integer PRIMARY KEY REFERENCES public.ops_project (id) ON DELETE CASCADE,
    last_claimed_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

-- The role matrix of models/roles.py, written here by every install and update.
CREATE TABLE IF NOT EXISTS role_permission (
    operation text NOT NULL,
    role text NOT NULL,
    PRIMARY KEY (operation, role)
);
-- Runs with events that no checkpoint holds yet: one row per event, so that no two transactions
-- ever wait for each other here, and a checkpoint looks at nothing else.
CREATE TABLE IF NOT EXISTS public.ops_audit_pending (run_id integer NOT NULL);

-- The heads of the runs' chains as each checkpoint found them. No foreign keys: a head stays
-- when an intruder deletes its run, and names what is missing.
CREATE TABLE IF NOT EXISTS public.ops_audit_head (
    project_id integer NOT NULL,
    run_id integer NOT NULL,
    checkpoint_number integer NOT NULL,
    prev_seq integer NOT NULL,
    event_seq integer NOT NULL,
    event_hash text NOT NULL,
    PRIMARY KEY (project_id, run_id, checkpoint_number)
);
CREATE INDEX IF NOT EXISTS ops_audit_head_checkpoint ON public.ops_audit_head (checkpoint_number);

-- The runs whose events retention has dropped, or is about to, with the last event each had: what
-- a record of ops_audit_expiry is about. Kept for ever, like the heads.
CREATE TABLE IF NOT EXISTS public.ops_audit_expiry_run (
    expiry_number integer NOT NULL,
    project_id integer NOT NULL,
    run_id integer NOT NULL,
    event_seq integer NOT NULL,
    event_hash text NOT NULL,
    PRIMARY KEY (run_id)
);
CREATE INDEX IF NOT EXISTS ops_audit_expiry_run_project
    ON public.ops_audit_expiry_run (project_id, run_id);

-- For rows that do not come from the models.
ALTER TABLE public.ops_project
    ALTER log_retention_days SET DEFAULT 90,
    ALTER event_retention_days SET DEFAULT 0,
    ALTER run_retention_days SET DEFAULT 0,
    ALTER repository_config SET DEFAULT 'no';

-- The sealed values of secrets, which the ORM has no field for: no read of it can hold one.
CREATE TABLE IF NOT EXISTS public.ops_secret_value (
    secret_id integer PRIMARY KEY REFERENCES public.ops_secret (id) ON DELETE CASCADE,
    key_id text NOT NULL,
    sealed bytea NOT NULL
);

-- Files that workers were let put into the store and no record names yet, see 83_uploads.sql. No
-- foreign keys: what became of the run, its file is to be removed.
CREATE TABLE IF NOT EXISTS public.ops_run_upload (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id integer NOT NULL,
    artifact_key text NOT NULL,
    -- Empty for the file itself, in its place: sent in one request, or made of its parts.
    upload_id text NOT NULL,
    -- Of the worker that holds the run; NULL when it came with a person's key.
    token_id integer,
    -- The key in the store: the run may be gone when the file is to be removed.
    place text NOT NULL,
    store text NOT NULL,
    -- What may have arrived, whether it did or not.
    size_bytes bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    UNIQUE (run_id, artifact_key, upload_id)
);
CREATE INDEX IF NOT EXISTS ops_run_upload_token ON public.ops_run_upload (token_id);
CREATE INDEX IF NOT EXISTS ops_run_upload_changed_at ON public.ops_run_upload (changed_at);

-- Functions are dropped before they are made anew: a changed signature would otherwise
-- leave the old one behind as an overload. Trigger functions stay, triggers hang on them.
-- So do the functions that policies hang on: to drop a policy locks out every reader.
DO $$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT p.oid::regprocedure
        FROM pg_proc p
        WHERE p.pronamespace = current_schema()::regnamespace
          AND p.prorettype <> 'trigger'::regtype
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.refobjid = p.oid
                          AND d.refclassid = 'pg_proc'::regclass
                          AND d.classid = 'pg_policy'::regclass)
        -- The youngest first: one may stand in the body of another.
        ORDER BY p.oid DESC
    LOOP
        EXECUTE format('DROP FUNCTION %s', v_function);
    END LOOP;
END
$$;
