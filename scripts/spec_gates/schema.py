"""Gate 6, *schema*: ERD, DBML and Prisma say what the database says now.

Asks the database that the variables PG* name, in which the addon is installed: `make spec-gates`
makes a fresh one.
"""

import sys

from .findings import Finding, command, read

PLACE = "scripts/spec_gates/schema.py"


class NoSchemaError(Exception):
    """No database can be asked, or the addon is not in it; the message says why."""


def check(root):
    """Findings about documents that differ from the database, at their first such line."""
    try:
        texts = _rendered()
    except NoSchemaError as error:
        wrong = f"the database gives no schema ({error})"
        return [Finding(PLACE, 1, wrong, "run the gate by `make spec-gates`")]
    found = []
    for name, text in texts.items():
        given, wanted = read(root, name), text.splitlines()
        if given != wanted:
            line = _first_difference(given, wanted)
            wrong = "the document is not what the database says"
            found.append(Finding(name, line, wrong, "run `make schema`, and commit what it writes"))
    return found


def _rendered():
    # Not at the top: the other gates need neither a driver nor a database.
    try:
        import psycopg2

        from devtools.schema import catalog, documents
    except ImportError as error:
        raise NoSchemaError(error) from error
    try:
        connection = psycopg2.connect("")
        try:
            return documents.rendered(connection)
        finally:
            connection.close()
    except (psycopg2.Error, catalog.CatalogError) as error:
        raise NoSchemaError(" ".join(str(error).split())) from error


def _first_difference(given, wanted):
    for number, (one, other) in enumerate(zip(given, wanted, strict=False), 1):
        if one != other:
            return number
    return max(1, min(len(given), len(wanted)))


if __name__ == "__main__":
    sys.exit(command({"schema": check}))
