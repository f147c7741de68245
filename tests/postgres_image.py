"""An image with a real PostgreSQL server and psql, made of the tests' own without a registry.

Like the official one it has an entry point that makes the data folder, the command ``postgres``,
and a user 999. The data lie in /tmp, as the image's files cannot be written.
"""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from ..devtools import embedded
from .docker_engine import import_image, libraries

IMAGE = "odooops-test-postgres:18"
USER = "999:999"
ENTRY_POINT = """#!/bin/sh
set -e
export PATH=/opt/postgres/bin:$PATH
if [ "$1" = postgres ]; then
    shift
    echo "$POSTGRES_PASSWORD" >/tmp/password
    initdb -D /tmp/data -U postgres --pwfile=/tmp/password --auth=scram-sha-256 \
        --encoding=UTF8 --no-locale --no-sync >/tmp/initdb.log
    set -- postgres -D /tmp/data -k /tmp -c 'listen_addresses=*' -c fsync=off "$@"
fi
exec "$@"
"""
CHANGES = [
    'ENTRYPOINT ["/usr/bin/postgres-entry"]',
    'CMD ["postgres"]',
    "ENV PATH=/opt/postgres/bin:/bin:/usr/bin",
]


@cache
def make_postgres_image(client):
    """Import the image into an engine, once; its name, or None where the programs are not ours."""
    programs = embedded.programs()
    if not programs.is_dir():
        return None
    home = programs.resolve().parent
    with tempfile.TemporaryDirectory(prefix="odooops-image-") as folder:
        entry, users = Path(folder, "entry"), Path(folder, "users")
        entry.write_text(ENTRY_POINT)
        entry.chmod(0o755)
        # initdb wants to know the name of who runs it.
        users.write_text("root:x:0:0::/:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n")
        files = {
            "usr/bin/postgres-entry": entry,
            "etc/passwd": users,
            "opt/postgres/share": home / "share",
            "opt/postgres/lib/postgresql": home / "lib" / "postgresql",
        }
        names = ("initdb", "postgres", "psql", "pg_isready")
        binaries = [home / "bin" / name for name in names]
        files |= {f"opt/postgres/bin/{path.name}": path for path in binaries if path.exists()}
        files |= libraries(*(path for path in binaries if path.exists()))
        import_image(client, IMAGE, shutil.which("busybox"), files, CHANGES)
    return IMAGE
