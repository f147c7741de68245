"""The views and their relations as a Mermaid entity relationship diagram."""

from .types import short_type


def render(schema):
    """Text of a .mmd file."""
    lines = ["erDiagram"]
    for table in schema.tables.values():
        lines += [_relation(schema, table, reference) for reference in table.references]
    for table in schema.tables.values():
        lines.append(f"    {table.name} {{")
        lines += [_column(table, column) for column in table.columns]
        lines.append("    }")
    return "\n".join(lines) + "\n"


def _relation(schema, table, reference):
    # Read from the referred side: exactly one, or none where the column may be NULL.
    nullable = any(each.nullable for each in table.columns if each.name in reference.columns)
    referred = "|o" if nullable else "||"
    referring = "o|" if reference.columns in table.uniques else "o{"
    label = ", ".join(reference.columns)
    return f'    {reference.target} {referred}--{referring} {table.name} : "{label}"'


def _column(table, column):
    keys = []
    if column.name in table.primary_key:
        keys.append("PK")
    if any(column.name in reference.columns for reference in table.references):
        keys.append("FK")
    if (column.name,) in table.uniques:
        keys.append("UK")
    kind = column.enumeration or short_type(column)
    note = ' "may be NULL"' if column.nullable else ""
    marks = f" {', '.join(keys)}" if keys else ""
    return f"        {kind} {column.name}{marks}{note}"
