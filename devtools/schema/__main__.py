"""`python -m devtools.schema`: write the documents about the database that PG* variables name."""

import sys

import psycopg2

from ..paths import ROOT
from ..progress import say, warn
from . import documents
from .catalog import CatalogError


def main():
    """Write what has changed and say so; return the exit code."""
    connection = psycopg2.connect("")
    try:
        changed = documents.write(connection, ROOT)
    except CatalogError as error:
        warn(f"make schema: {error}")
        return 1
    finally:
        connection.close()
    say(f"make schema: {'wrote ' + ', '.join(changed) if changed else 'nothing has changed'}")
    return 0


sys.exit(main())
