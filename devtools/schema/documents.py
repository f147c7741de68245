"""Which document is made by what, and whether the committed ones are what the database yields."""

from pathlib import Path

from . import catalog, dbml, erd, prisma

COMMAND = "make schema"
HEADER = f"Made by `{COMMAND}` from the catalogs of a database; do not edit."
# File, how its language marks a comment, what renders it.
DOCUMENTS = (
    ("docs/schema/erd.mmd", "%%", erd.render),
    ("docs/schema/schema.dbml", "//", dbml.render),
    ("prisma/schema.prisma", "//", prisma.render),
)


def rendered(connection):
    """The documents about the database behind a psycopg2 connection, {file: text}.

    :raise catalog.CatalogError: as :func:`catalog.read`
    """
    schema = catalog.read(connection)
    return {name: f"{mark} {HEADER}\n\n{render(schema)}" for name, mark, render in DOCUMENTS}


def write(connection, root):
    """Write them below a folder; return the names of those that have changed."""
    changed = []
    for name, text in rendered(connection).items():
        path = Path(root) / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        changed.append(name)
    return changed
