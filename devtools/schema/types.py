"""PostgreSQL's types under the names other languages give them."""

from .catalog import CatalogError

SHORT = {
    "character varying": "varchar",
    "timestamp with time zone": "timestamptz",
    "double precision": "float8",
}
# Type and native type: without the second, Prisma takes another one than the column has.
PRISMA = {
    "bigint": ("BigInt", ""),
    "boolean": ("Boolean", ""),
    "character varying": ("String", "@db.VarChar"),
    "double precision": ("Float", ""),
    "integer": ("Int", ""),
    "jsonb": ("Json", ""),
    "text": ("String", ""),
    "timestamp with time zone": ("DateTime", "@db.Timestamptz(6)"),
    "uuid": ("String", "@db.Uuid"),
}


def short_type(column):
    """The type in one word, as PostgreSQL understands it too."""
    element = column.type.removesuffix("[]")
    return SHORT.get(element, element) + column.type[len(element) :]


def prisma_type(column):
    """Prisma's type of a column with its ``[]`` or ``?``, and its native type or nothing.

    :raise CatalogError: for a type that nobody has thought of yet
    """
    element = column.type.removesuffix("[]")
    if column.enumeration:
        kind, native = column.enumeration, ""
    elif element in PRISMA:
        kind, native = PRISMA[element]
    else:
        raise CatalogError(f"types.PRISMA has no type for {column.type} of {column.name}")
    if element != column.type:
        # A list of Prisma is never NULL.
        return f"{kind}[]", native
    return kind + ("?" if column.nullable else ""), native
