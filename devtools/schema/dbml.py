"""The views, their keys and enumerations in DBML, the language of dbdiagram and dbdocs."""

from .types import short_type


def render(schema):
    """Text of a .dbml file."""
    blocks = [_project(schema)]
    blocks += [_enumeration(schema, *each) for each in schema.enumerations.items()]
    blocks += [_table(schema, table) for table in schema.tables.values()]
    references = [
        _reference(schema, table, reference)
        for table in schema.tables.values()
        for reference in table.references
    ]
    return "\n\n".join([*blocks, "\n".join(references)]) + "\n"


def _project(schema):
    return (
        "Project odooops {\n"
        "  database_type: 'PostgreSQL'\n"
        f"  Note: 'The views of the schema {schema.name}: reads are views, writes are functions.'\n"
        "}"
    )


def _enumeration(schema, name, values):
    lines = "".join(f'  "{value}"\n' for value in values)
    return f"Enum {schema.name}.{name} {{\n{lines}}}"


def _table(schema, table):
    lines = [f"Table {schema.name}.{table.name} {{"]
    for column in table.columns:
        kind = f"{schema.name}.{column.enumeration}" if column.enumeration else short_type(column)
        settings = []
        if table.primary_key == (column.name,):
            settings.append("pk")
        if (column.name,) in table.uniques:
            settings.append("unique")
        settings.append("null" if column.nullable else "not null")
        lines.append(f'  "{column.name}" {kind} [{", ".join(settings)}]')
    composite = [(key, "unique") for key in table.uniques if len(key) > 1]
    if len(table.primary_key) > 1:
        composite.insert(0, (table.primary_key, "pk"))
    if composite:
        lines.append("  indexes {")
        lines += [f"    ({', '.join(key)}) [{kind}]" for key, kind in composite]
        lines.append("  }")
    return "\n".join([*lines, "}"])


def _reference(schema, table, reference):
    return (
        f"Ref: {_place(schema, table.name, reference.columns)}"
        f" > {_place(schema, reference.target, reference.target_columns)}"
        f" [delete: {reference.on_delete}]"
    )


def _place(schema, table, columns):
    names = f"({', '.join(columns)})" if len(columns) > 1 else f'"{columns[0]}"'
    return f"{schema.name}.{table}.{names}"
