"""The roles of the SQL door, as data: what each may read and call.

Grants, the statements for a database administrator, the documentation and the tests are made
from this table. A role belongs to the whole PostgreSQL cluster and is shared by all its
databases with OdooOps; what it may do is granted in each of them.
"""

from typing import NamedTuple

# Views of the kernel's schema and the tables beneath, whose policies choose the rows.
VIEWS = {
    "projects": "ops_project",
    "workflows": "ops_workflow",
    "runs": "ops_run",
    "run_events": "ops_run_event_row",
    "run_artifacts": "ops_run_artifact",
    "run_logs": "ops_run_log_line",
    "tools": "ops_tool",
    "upgrade_advisories": "ops_upgrade_advisory",
    "project_memberships": "ops_project_membership",
}

# Of these the first two are called by the policies, in the reader's name.
READING = (
    *("member_project_ids", "is_ops_user", "acting_user_id"),
    *("explain_wait", "list_queued_runs", "verify_events", "search_run_logs"),
)
ACTING = ("queue_run", "cancel_run", "retry_run")
WORKING = (
    *("register_worker", "set_worker_state", "deregister_worker", "heartbeat"),
    *("claim_next_run", "start_workflow_run", "release_run", "complete_workflow_run"),
    *("append_run_log", "append_run_logs", "add_run_event", "add_run_artifact"),
    "run_secrets",
    *("reap_lost_runs", "index_run_logs", "list_leases", "control_plane_namespace"),
)


class SqlRole(NamedTuple):
    """A group role: ``reads`` whether it selects from the views, ``functions`` it may execute."""

    name: str
    reads: bool
    functions: tuple[str, ...]
    purpose: str


SQL_ROLES = [
    SqlRole("ops_reader", True, READING, "reads the projects of its user"),
    SqlRole("ops_operator", True, READING + ACTING, "also queues, cancels and restarts runs"),
    SqlRole("ops_gateway", True, READING + ACTING, "the same for the user each request names"),
    SqlRole("ops_worker", False, WORKING, "claims and executes the runs of every project"),
]

# A role without this beginning of its comment is somebody else's, and is given nothing.
MARK = "OdooOps: "


def create_statements(role):
    """SQL that makes the group role; any role with CREATEROLE may run it."""
    return [
        f"CREATE ROLE {role.name} NOLOGIN",
        mark_statement(role),
    ]


def mark_statement(role):
    """SQL that says the role is ours."""
    return f"COMMENT ON ROLE {role.name} IS '{MARK}{role.purpose}'"


def connect_statement(role, database):
    """SQL that lets the role's members in where CONNECT was taken from PUBLIC, as it should be on
    a server that runs make databases and roles on.

    :param database: the name as an SQL identifier
    """
    return f"GRANT CONNECT ON DATABASE {database} TO {role.name}"


def close_statement(database):
    """SQL that lets only those logins in that were granted it: not the roles of runs.

    :param database: the name as an SQL identifier
    """
    return f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC"


def revoke_statements(role, schema, database=None):
    """SQL that takes from the role all that it has been granted in this database."""
    connect = [f"REVOKE CONNECT ON DATABASE {database} FROM {role.name}"] if database else []
    return [
        *connect,
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role.name}",
        f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM {role.name}",
        f"REVOKE ALL ON SCHEMA {schema} FROM {role.name}",
        f"REVOKE ALL ON public.{', public.'.join(VIEWS.values())} FROM {role.name}",
    ]


def grant_statements(role, schema, columns):
    """SQL that grants the role its rights in this database.

    :param columns: per table, the columns that its view shows. Only these are granted, so that
        a column nobody has put into a view stays unread.
    """
    functions = ", ".join(f"{schema}.{name}" for name in role.functions)
    statements = [
        f"GRANT USAGE ON SCHEMA {schema} TO {role.name}",
        f"GRANT EXECUTE ON FUNCTION {functions} TO {role.name}",
    ]
    if role.reads:
        views = ", ".join(f"{schema}.{view}" for view in VIEWS)
        statements.append(f"GRANT SELECT ON {views} TO {role.name}")
        for table in VIEWS.values():
            names = ", ".join(f'"{column}"' for column in columns[table])
            statements.append(f"GRANT SELECT ({names}) ON public.{table} TO {role.name}")
    return statements
