"""Everything a database holds, as text: what must be the same before and after.

``snapshot`` reads the catalogs of PostgreSQL and the rows of all tables in the schema public, by
what they are and not by what this addon would leave: so it finds what nobody thought of.
"""

from psycopg2 import sql

_OURS = "NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
_GRANTEE = "CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END"
# What came with an extension is told by its name alone: Odoo makes some where the server has them.
_EXTENSIONS = (
    "NOT EXISTS (SELECT FROM pg_depend x WHERE x.deptype = 'e'"
    " AND x.classid = '{0}'::regclass AND x.objid IN ({1}))"
)
# Of each kind what makes an object the one it is, and where it stands (with conditions).
CATALOGS = {
    "schemas": (
        "nspname, obj_description(oid, 'pg_namespace')",
        f"pg_namespace WHERE nspname {_OURS} AND nspname NOT LIKE 'pg_t%'",
    ),
    "rights on schemas": (
        f"n.nspname, a.privilege_type, {_GRANTEE}",
        "pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname NOT LIKE 'pg_t%'",
    ),
    "relations": (
        "oid::regclass, relkind, relrowsecurity, relforcerowsecurity, relacl, reloptions",
        f"pg_class WHERE relnamespace::regnamespace::text {_OURS}",
    ),
    "columns": (
        "a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
        " a.attacl, pg_get_expr(d.adbin, d.adrelid)",
        "pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " WHERE a.attnum > 0 AND NOT a.attisdropped"
        f" AND c.relnamespace::regnamespace::text {_OURS}",
    ),
    "functions": (
        "oid::regprocedure, md5(prosrc), proacl",
        f"pg_proc WHERE pronamespace::regnamespace::text {_OURS}"
        f" AND {_EXTENSIONS.format('pg_proc', 'pg_proc.oid')}",
    ),
    "types": (
        "oid::regtype, typtype",
        f"pg_type WHERE typnamespace::regnamespace::text {_OURS}"
        # An array of it, too.
        f" AND {_EXTENSIONS.format('pg_type', 'pg_type.oid, pg_type.typelem')}",
    ),
    "constraints": (
        "conrelid::regclass, conname, pg_get_constraintdef(oid)",
        f"pg_constraint WHERE connamespace::regnamespace::text {_OURS}",
    ),
    "triggers": ("tgrelid::regclass, tgname, tgenabled", "pg_trigger WHERE NOT tgisinternal"),
    "policies": ("polrelid::regclass, polname", "pg_policy"),
    "rules": (
        "r.ev_class::regclass, r.rulename",
        "pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class"
        f" WHERE c.relnamespace::regnamespace::text {_OURS}",
    ),
    "statistics": ("stxname, stxrelid::regclass", "pg_statistic_ext"),
    "event triggers": ("evtname", "pg_event_trigger"),
    "extensions": ("extname", "pg_extension"),
    "publications": ("pubname", "pg_publication"),
    "operators": (
        "oid::regoperator",
        f"pg_operator WHERE oprnamespace::regnamespace::text {_OURS}",
    ),
    "collations": (
        "oid::regcollation",
        f"pg_collation WHERE collnamespace::regnamespace::text {_OURS}",
    ),
    "search configurations": (
        "oid::regconfig",
        f"pg_ts_config WHERE cfgnamespace::regnamespace::text {_OURS}",
    ),
    "casts": ("castsource::regtype, casttarget::regtype", "pg_cast WHERE oid >= 16384"),
    "default rights": ("defaclrole::regrole, defaclobjtype, defaclacl", "pg_default_acl"),
    "large objects": ("oid", "pg_largeobject_metadata"),
    "rights on the database": (
        f"a.privilege_type, {_GRANTEE}",
        "pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a"
        " WHERE d.datname = current_database()",
    ),
    "settings of the database": (
        "s.setconfig",
        "pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
        " WHERE d.datname = current_database()",
    ),
    "roles that something hangs on": (
        "DISTINCT s.refobjid::regrole::text",
        "pg_shdepend s JOIN pg_database d ON d.oid = s.dbid"
        " WHERE d.datname = current_database() AND s.refclassid = 'pg_authid'::regclass",
    ),
    "modules": ("name, state", "ir_module_module"),
    "parameters": ("key", "ir_config_parameter"),
}
# Odoo's own ups and downs: what it made for browsers, logged, or does from time to time.
CHANGING = {
    *("ir_logging", "res_users_log", "bus_bus", "ir_cron_progress", "ir_cron_trigger"),
    *("orm_signaling_registry", "res_config_settings"),
}
TABLES = """
    SELECT c.relname, EXISTS (SELECT FROM pg_attribute a
                              WHERE a.attrelid = c.oid AND a.attname = 'id' AND a.attnum > 0)
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
      AND NOT c.relispartition
"""


def snapshot(connection):
    """What is there, as sets of lines by kind of object; tables as ``rows of NAME``.

    A row counts by its ``id``, or as a whole in a table without one.
    """
    found = {}
    with connection.cursor() as cr:
        for kind, (identity, place) in CATALOGS.items():
            # pylint: disable-next=sql-injection
            cr.execute(f"SELECT {identity} FROM {place}")
            found[kind] = {" ".join(str(value) for value in row) for row in cr.fetchall()}
        cr.execute(TABLES)
        for table, has_id in cr.fetchall():
            if table in CHANGING:
                continue
            what = "id::text" if has_id else "row::text"
            query = sql.SQL(f"SELECT {what} FROM {{}} row").format(sql.Identifier(table))
            if table == "ir_attachment":
                query += sql.SQL(" WHERE url IS NULL OR url NOT LIKE '/web/assets/%'")
            # pylint: disable-next=sql-injection
            cr.execute(query)
            found[f"rows of {table}"] = {line for (line,) in cr.fetchall()}
    return found


def differences(before, after):
    """Lines ``kind: - gone`` and ``kind: + new``, sorted; empty when nothing differs."""
    lines = []
    for kind in sorted(before.keys() | after.keys()):
        old, new = before.get(kind, set()), after.get(kind, set())
        lines += [f"{kind}: - {line}" for line in sorted(old - new)]
        lines += [f"{kind}: + {line}" for line in sorted(new - old)]
    return lines
