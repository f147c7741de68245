-- Who calls, and what they may do. PostgreSQL vouches for one thing: the role that logged in,
-- session_user. SET ROLE and settings are the client's own words and count for nothing by
-- themselves. Functions that other roles may call are SECURITY DEFINER, ask here first, and are
-- judged by the same role matrix as the models.

-- Whether Odoo's own role called, or one with all its rights: whoever row-level security would
-- not stop either. Odoo judges its users itself, by record rules and the models' checks.
CREATE FUNCTION is_owner() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
    SELECT pg_has_role(session_user, current_user, 'USAGE')
$$;

CREATE FUNCTION login_belongs_to(p_role text) RETURNS boolean
LANGUAGE sql STABLE
RETURN coalesce(pg_has_role(session_user, to_regrole(p_role)::oid, 'MEMBER'), false);

-- Whom a gateway speaks for: `user_id` of the claims it has verified. An id, not a login name: it
-- is never renamed nor given to somebody else. Claims that cannot be read name nobody.
CREATE FUNCTION claimed_user_id() RETURNS integer
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
BEGIN
    -- Cast here: PostgreSQL's own cast of a result comes after the handler.
    RETURN (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'user_id')::integer;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- The Odoo user on whose behalf the transaction runs, or NULL. Odoo names its user by a setting
-- on its own connection; any other login stands for the user it is registered for.
CREATE FUNCTION acting_user_id() RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_login ops_sql_login;
BEGIN
    IF is_owner() THEN
        RETURN nullif(current_setting('odooops.user_id', true), '')::integer;
    END IF;
    SELECT * INTO v_login FROM ops_sql_login l WHERE l.role_name = session_user::text;
    -- A gateway may be anybody: that takes the platform administrator, who registers it, and the
    -- database administrator, who grants the role.
    IF v_login.gateway THEN
        v_login.user_id := CASE WHEN login_belongs_to('ops_gateway') THEN claimed_user_id() END;
    END IF;
    RETURN (SELECT u.id FROM res_users u WHERE u.id = v_login.user_id AND u.active);
END
$$;

-- Whether the user is in the addon's group of that name, directly or by a group that implies it.
CREATE FUNCTION user_has_group(p_user_id integer, p_group text) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    WITH RECURSIVE granting (id) AS (
        SELECT d.res_id FROM ir_model_data d
        WHERE d.module = 'odooops' AND d.name = p_group AND d.model = 'res.groups'
        UNION
        SELECT i.gid FROM res_groups_implied_rel i JOIN granting g ON g.id = i.hid
    )
    SELECT EXISTS (
        SELECT FROM res_groups_users_rel r JOIN granting g ON g.id = r.gid
        WHERE r.uid = p_user_id)
$$;

-- Whether the caller is a user of OdooOps: they read what belongs to no project.
CREATE OR REPLACE FUNCTION is_ops_user() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
    SELECT user_has_group(acting_user_id(), 'group_user')
$$;

-- Projects in which the caller's role allows an operation of the role matrix. Policies ask it
-- once per statement.
CREATE OR REPLACE FUNCTION member_project_ids(p_operation text) RETURNS integer[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_user_id constant integer := acting_user_id();
BEGIN
    IF user_has_group(v_user_id, 'group_platform_admin') THEN
        RETURN ARRAY(SELECT p.id FROM ops_project p);
    ELSIF NOT user_has_group(v_user_id, 'group_user') THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(
        SELECT m.project_id
        FROM ops_project_membership m
        JOIN role_permission q ON q.role = m.role AND q.operation = p_operation
        WHERE m.user_id = v_user_id);
END
$$;

-- Why the caller may not do that in the project, or NULL. A project they do not see is answered
-- with the sentence for one that does not exist (p_project_id NULL).
CREATE FUNCTION permission_problem(p_project_id integer, p_operation text, p_missing text)
RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
BEGIN
    IF is_owner() THEN
        RETURN CASE WHEN p_project_id IS NULL THEN refuse('not_found', p_missing) END;
    ELSIF acting_user_id() IS NULL THEN
        RETURN refuse('forbidden', format(
            'The database role %s stands for no Odoo user. A platform administrator registers it '
            'under Configuration, SQL logins.', session_user));
    ELSIF p_project_id = ANY (member_project_ids(p_operation)) THEN
        RETURN NULL;
    ELSIF p_project_id = ANY (member_project_ids('read')) THEN
        RETURN refuse('forbidden',
            'Your role in this project does not allow that. Ask one of its owners.');
    END IF;
    RETURN refuse('not_found', p_missing);
END
$$;

-- The same for a run; what one may do with one's own runs can be a row of its own in the matrix.
CREATE FUNCTION run_permission_problem(p_run_id integer, p_operation text, p_own_operation text)
RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $$
DECLARE
    v_project_id integer;
    v_operation text;
BEGIN
    SELECT r.project_id,
           CASE WHEN r.requested_by = acting_user_id() THEN p_own_operation ELSE p_operation END
    INTO v_project_id, v_operation
    FROM ops_run r WHERE r.id = p_run_id;
    RETURN permission_problem(
        v_project_id, v_operation, missing_run(p_run_id));
END
$$;

-- Why the caller may not do a worker's work, or NULL. A worker is trusted with every project.
-- Asked with every claim and every batch of lines: PostgreSQL puts it into the caller's plan, and
-- is_owner, which costs more than the rest, comes last.
CREATE FUNCTION worker_problem() RETURNS jsonb
LANGUAGE sql STABLE
RETURN CASE WHEN NOT (login_belongs_to('ops_worker') OR is_owner()) THEN refuse('forbidden', format(
    'The database role %s is no worker: it is not a member of ops_worker.', session_user)) END;
