"""Runs SQL statements for the set-up; started with the virtual environment's Python (psycopg2).

Reads {"statements": [[sql, parameters], ...]} from stdin, writes the rows of each as JSON.
The connection is given by libpq's environment variables. Every statement commits on its own.
Exit code 1 with PostgreSQL's message on stderr when one fails.
"""

import json
import sys

import psycopg2


def main():
    """Execute the statements in order."""
    statements = json.load(sys.stdin)["statements"]
    results = []
    try:
        connection = psycopg2.connect("", connect_timeout=10)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for sql, parameters in statements:
                cursor.execute(sql, parameters)
                results.append(cursor.fetchall() if cursor.description else [])
    except psycopg2.Error as error:
        sys.stderr.write(str(error).strip())
        return 1
    json.dump(results, sys.stdout, default=str)
    return 0


if __name__ == "__main__":
    sys.exit(main())
