"""The environment variables of the set-up: what `make` reads, as data.

`make docs` writes them into docs/settings.md; a test compares them with what the code reads.
"""

#: Of those who call `make`.
GIVEN = {
    "ODOO_HOME": "source checkout or unpacked package of Odoo 19.0; otherwise an importable Odoo is"
    " used, otherwise the Debian package odoo-19 is downloaded and unpacked",
    "ODOOOPS_DB": "name of the database (odooops)",
    "ODOOOPS_REQUIRE": "comma list of programs (`chromium`, `docker`, `docker-registry`, `npm`,"
    " `shellcheck`) without which `make test` and `make lint` fail; with it a skipped test is a"
    " failure, as in CI",
    "REUSE": "`1`: `make test` keeps the database of the last time when the addon has not changed",
    "XDG_CACHE_HOME": "folder of downloads that other clones find again (`~/.cache`)",
    "PGHOST": "PostgreSQL server to use (15 or newer); otherwise one is started. So with the other"
    " variables of libpq, like `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGSERVICE`",
    "ODOOOPS_URL": "address of the server for `python3 -m devtools.screenshots`, with"
    " `ODOOOPS_LOGIN` and `ODOOOPS_PASSWORD`; otherwise the one that `make up` started",
}
#: Of `make` itself, not of the environment.
ARGUMENTS = {
    "PYTHON": "the Python to use (`python3`)",
    "ARGS": 'arguments for the command behind the target, as in `make test ARGS="-k lease"`',
}
