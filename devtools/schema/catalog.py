"""What the catalogs of PostgreSQL say about the kernel's views.

A view has no keys and its columns are all nullable; the tables below it have keys and know. Which
column comes from which is what PostgreSQL itself answers for the view's query (the origin in the
description of a result). For a computed column the view's text is read: a conversion of time
zones and a coalesce keep the tie to the column they are made of.
"""

import re
from dataclasses import dataclass, field

from psycopg2 import sql

# What no catalog can tell. An entry about a column that is not there is an error.
NEVER_NULL = {
    # The ORM and the kernel set them on every row, without a constraint that says so.
    "create_date": "created_at",
    "write_date": "updated_at",
}
NEVER_NULL_EXPRESSIONS = {
    ("projects", "status"): "a CASE of two constants",
    ("upgrade_advisories", "affects_modules"): "a CASE of arrays; empty for NULL",
}
# A column by which tables are cut into partitions must stand in all their keys. It follows from
# another column of the key, so the key is one without it.
PARTITION_KEYS = {"run_queued_at": "run_id"}
# Relations without a foreign key: a trigger per inserted row would cost too much. That the row is
# there another trigger sees to.
UNCHECKED_REFERENCES = {
    ("run_events", "run_id"): ("runs", "id", "restrict"),
    ("run_logs", "run_id"): ("runs", "id", "restrict"),
}
# Names for both ends of a relation where the column's or the table's name does not give them.
RELATION_NAMES = {
    ("runs", "retry_of"): ("retried_run", "retries"),
}

SCHEMA = """
    SELECT oid, nspname FROM pg_namespace
    WHERE obj_description(oid, 'pg_namespace') LIKE 'OdooOps kernel%'
"""
VIEWS = """
    SELECT oid, relname FROM pg_class WHERE relnamespace = %s AND relkind = 'v' ORDER BY relname
"""
COLUMNS = """
    SELECT attnum, attname, format_type(atttypid, NULL), attnotnull
    FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
RELATION = "SELECT relkind FROM pg_class WHERE oid = %s"
KEYS = """
    SELECT contype, conkey, confrelid, confkey, confdeltype
    FROM pg_constraint
    WHERE conrelid = %s AND contype IN ('p', 'u', 'f') AND conparentid = 0
    ORDER BY contype, conname
"""
PARTITIONED = """
    SELECT a.attname, a.attnum
    FROM pg_partitioned_table p
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[])
    WHERE p.partrelid = %s
"""
ENUMERATIONS = """
    SELECT t.typname, pg_get_constraintdef(c.oid), obj_description(t.oid, 'pg_type')
    FROM pg_type t JOIN pg_constraint c ON c.contypid = t.oid AND c.conname = 'known'
    WHERE t.typnamespace = %s ORDER BY t.typname
"""
ON_DELETE = {"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}
# In the text of a view, where PostgreSQL prints it.
CONVERTED = re.compile(r"\((?:\w+\.)?\"?(\w+)\"? AT TIME ZONE 'UTC'::text\) AS \"?(\w+)\"?")
COALESCED = re.compile(
    # With a constant: what may be NULL itself would prove nothing.
    r"COALESCE\((?:\w+\.)?\"?(\w+)\"?, (?:'[^']*'::[\w ]+|true|false|\d+)\) AS \"?(\w+)\"?"
)
LITERAL = re.compile(r"'((?:[^']|'')*)'::text")


class CatalogError(Exception):
    """The database is not one whose views can be described; the message says why."""


@dataclass
class Column:
    """A column of a view. ``source`` is the table's column that carries it, if one does."""

    name: str
    type: str  # as PostgreSQL prints it: character varying, timestamp with time zone, text[]
    nullable: bool
    source: tuple | None = None  # (oid of the table, number of the column)
    enumeration: str | None = None


@dataclass
class Reference:
    """A foreign key between two views' tables, under the views' names."""

    columns: tuple
    target: str
    target_columns: tuple
    on_delete: str
    forward: str  # name of the referred row, seen from the referring one
    backward: str  # name of the referring rows, seen from the referred one


@dataclass
class Table:
    """A view with the keys of the table below it."""

    name: str
    base: int  # oid of the table
    columns: list
    primary_key: tuple = ()
    uniques: list = field(default_factory=list)
    references: list = field(default_factory=list)

    def by_source(self, number):
        """Name of the column that carries the table's column of this number, or None."""
        found = (each.name for each in self.columns if each.source == (self.base, number))
        return next(found, None)

    def in_view(self, numbers):
        """The names in the view for a key of the table, or None when one is not in it."""
        names = tuple(self.by_source(number) for number in numbers)
        return None if None in names else names


@dataclass
class Schema:
    """The kernel's views; both dicts are sorted by name."""

    name: str
    tables: dict
    enumerations: dict  # name: values in their order


def read(connection):
    """Describe the kernel's schema of the database behind a psycopg2 connection.

    :raise CatalogError: when there is no kernel, or something about it cannot be told for sure
    """
    with connection.cursor() as cr:
        cr.execute(SCHEMA)
        found = cr.fetchall()
        if len(found) != 1:
            raise CatalogError(f"the database has {len(found)} schemas of OdooOps, not one")
        oid, name = found[0]
        cr.execute(VIEWS, [oid])
        tables = {view: _table(cr, view_oid, view) for view_oid, view in cr.fetchall()}
        for table in tables.values():
            _read_keys(cr, table, tables)
        enumerations = _read_enumerations(cr, oid, tables)
    _check_facts(tables)
    return Schema(name, tables, enumerations)


def _table(cr, oid, name):
    columns, sources = _columns(cr, oid)
    bases = {source[0] for source in sources.values()}
    if len(bases) != 1:
        raise CatalogError(f"{name} stands on {len(bases)} tables; its keys cannot be told")
    for column in columns:
        if (name, column.name) in NEVER_NULL_EXPRESSIONS:
            column.nullable = False
    return Table(name, bases.pop(), columns)


def _columns(cr, oid):
    """Columns of a view, and where they come from: {name: (oid of a table, number)}.

    Views on views are followed down to the table.
    """
    cr.execute("SELECT pg_get_viewdef(%s::oid)", [oid])
    (query,) = cr.fetchone()
    # PostgreSQL's own text of its own view.
    itself = sql.SQL(query.rstrip().rstrip(";"))
    cr.execute(sql.SQL("SELECT * FROM ({}) AS v LIMIT 0").format(itself))
    origins = {
        each.name: (each.table_oid, each.table_column) for each in cr.description if each.table_oid
    }
    below = {relation: _relation(cr, relation) for relation, _number in set(origins.values())}
    by_name = {each[0]: each for numbers in below.values() for each in numbers.values()}
    text = " ".join(query.split())
    converted = {name: by_name.get(source) for source, name in CONVERTED.findall(text)}
    coalesced = {name: by_name.get(source) for source, name in COALESCED.findall(text)}
    computed = {**converted, **coalesced}
    cr.execute(COLUMNS, [oid])
    columns = [Column(name, kind, True) for _number, name, kind, _not_null in cr.fetchall()]
    for column in columns:
        if column.name in origins:
            relation, number = origins[column.name]
            known = below[relation].get(number)
        else:
            known = computed.get(column.name)
        if known:
            name, column.source, not_null = known
            always_set = NEVER_NULL.get(name) == column.name
            column.nullable = not (not_null or always_set or column.name in coalesced)
    return columns, {each.name: each.source for each in columns if each.source}


def _relation(cr, oid):
    """Columns of a table or view by number: (name, (oid of the table, number there), not null)."""
    cr.execute(RELATION, [oid])
    if cr.fetchone()[0] != "v":
        cr.execute(COLUMNS, [oid])
        return {
            number: (name, (oid, number), not_null)
            for number, name, _type, not_null in cr.fetchall()
        }
    columns, _sources = _columns(cr, oid)
    return {
        number: (column.name, column.source, not column.nullable)
        for number, column in enumerate(columns, 1)
        if column.source
    }


def _read_keys(cr, table, tables):
    by_base = {each.base: each for each in tables.values()}
    cut_by = _partition_columns(cr, table)
    cr.execute(KEYS, [table.base])
    for kind, numbers, target_oid, target_numbers, on_delete in cr.fetchall():
        columns = table.in_view(number for number in numbers if number not in cut_by)
        if kind == "f":
            target = by_base.get(target_oid)
            target_columns = target and target.in_view(target_numbers)
            if columns and target_columns:
                table.references.append(
                    Reference(
                        columns, target.name, target_columns, ON_DELETE[on_delete],
                        *_relation_names(table.name, columns),
                    )
                )  # fmt: skip
        elif columns and kind == "p":
            table.primary_key = columns
        elif columns:
            table.uniques.append(columns)
    if not table.primary_key:
        raise CatalogError(f"{table.name} does not show the key of its table")
    for (view, column), (target, target_column, on_delete) in UNCHECKED_REFERENCES.items():
        if view == table.name:
            table.references.append(
                Reference(
                    (column,), target, (target_column,), on_delete,
                    *_relation_names(table.name, (column,)),
                )
            )  # fmt: skip
    table.references.sort(key=lambda each: each.columns)
    table.uniques.sort()


def _partition_columns(cr, table):
    """Numbers of the columns by which the table is cut into partitions."""
    cr.execute(PARTITIONED, [table.base])
    names = {name: number for name, number in cr.fetchall()}
    unknown = names.keys() - PARTITION_KEYS.keys()
    if unknown:
        raise CatalogError(f"PARTITION_KEYS does not say what {sorted(unknown)} follow from")
    return set(names.values())


def _relation_names(table, columns):
    if (table, *columns) in RELATION_NAMES:
        return RELATION_NAMES[(table, *columns)]
    if len(columns) > 1 or not columns[0].endswith("_id"):
        raise CatalogError(f"RELATION_NAMES does not name the relation of {table}.{columns}")
    return columns[0].removesuffix("_id"), table


def _read_enumerations(cr, schema_oid, tables):
    enumerations = {}
    cr.execute(ENUMERATIONS, [schema_oid])
    for name, constraint, comment in cr.fetchall():
        enumerations[name] = [value.replace("''", "'") for value in LITERAL.findall(constraint)]
        for place in comment.split(", "):
            view, column = place.split(".")
            found = [each for each in tables[view].columns if each.name == column]
            if not found:
                raise CatalogError(f"the enumeration {name} names {place}, which is not there")
            found[0].enumeration = name
    return enumerations


def _check_facts(tables):
    """Refuse what is said about columns that are not, or no longer, there."""
    named = {*NEVER_NULL_EXPRESSIONS, *RELATION_NAMES, *UNCHECKED_REFERENCES}
    there = {(table.name, column.name) for table in tables.values() for column in table.columns}
    if named - there:
        raise CatalogError(f"described, but not there: {sorted(named - there)}")
