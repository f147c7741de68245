"""The views as models of a Prisma schema.

Models, not Prisma's views: those are a preview feature without ``@id`` and composite keys. That
nothing can be written through them is not a matter of types: the database refuses.
"""

import re

from .types import prisma_type

HEAD = """\
generator client {{
  provider = "prisma-client"
  output   = "./generated"
}}

datasource db {{
  provider = "postgresql"
  schemas  = ["{schema}"]
}}"""
ON_DELETE = {
    "no action": "NoAction",
    "restrict": "Restrict",
    "cascade": "Cascade",
    "set null": "SetNull",
    "set default": "SetDefault",
}
# What Prisma takes for a name; others are written by another one, with @map.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def render(schema):
    """Text of schema.prisma."""
    blocks = [HEAD.format(schema=schema.name)]
    blocks += [_enumeration(schema, *each) for each in schema.enumerations.items()]
    blocks += [_model(schema, table) for table in schema.tables.values()]
    return "\n\n".join(blocks) + "\n"


def _enumeration(schema, name, values):
    rows = [_named(value) for value in values]
    return _block("enum", name, rows, [f'@@schema("{schema.name}")'])


def _model(schema, table):
    rows = [_field(table, column) for column in table.columns]
    rows += [_forward(table, reference) for reference in table.references]
    rows += [
        _backward(other, reference)
        for other in schema.tables.values()
        for reference in other.references
        if reference.target == table.name
    ]
    attributes = [f"@@unique([{', '.join(key)}])" for key in table.uniques if len(key) > 1]
    if len(table.primary_key) > 1:
        attributes.insert(0, f"@@id([{', '.join(table.primary_key)}])")
    return _block("model", table.name, rows, [*attributes, f'@@schema("{schema.name}")'])


def _field(table, column):
    kind, native = prisma_type(column)
    name, *mapped = _named(column.name)
    attributes = [*mapped]
    if table.primary_key == (column.name,):
        attributes.append("@id")
    if (column.name,) in table.uniques:
        attributes.append("@unique")
    if native:
        attributes.append(native)
    return [name, kind, *attributes]


def _forward(table, reference):
    nullable = any(each.nullable for each in table.columns if each.name in reference.columns)
    return [
        reference.forward,
        reference.target + ("?" if nullable else ""),
        f'@relation("{_relation(table, reference)}", fields: [{", ".join(reference.columns)}], '
        f"references: [{', '.join(reference.target_columns)}], "
        f"onDelete: {ON_DELETE[reference.on_delete]}, onUpdate: NoAction)",
    ]


def _backward(table, reference):
    return [
        reference.backward,
        f"{table.name}{'?' if reference.columns in table.uniques else '[]'}",
        f'@relation("{_relation(table, reference)}")',
    ]


def _relation(table, reference):
    return "_".join([table.name, *reference.columns])


def _named(name):
    """The name, and where Prisma does not take it, another one and the attribute that maps it."""
    if NAME.fullmatch(name):
        return [name]
    return ["x" + re.sub(r"\W", "_", name), f'@map("{name}")']


def _block(kind, name, rows, attributes):
    """A block with its columns aligned, as `prisma format` does."""
    widths = [max((len(row[n]) for row in rows if len(row) > n), default=0) for n in (0, 1)]
    lines = [f"{kind} {name} {{"]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  " + " ".join([*cells, *row[2:]]).rstrip())
    lines += ["", *(f"  {attribute}" for attribute in attributes), "}"]
    return "\n".join(lines)
