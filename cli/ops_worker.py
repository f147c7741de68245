"""``odoo ops_worker -d DATABASE --allow-process``: a worker with Odoo's database settings.

Only the configuration is read through Odoo; the worker then works on connections of its own and no
registry is loaded.
"""

import argparse
import os
import sys
from pathlib import Path

from psycopg2.extensions import make_dsn

from odoo.cli import Command
from odoo.tools import config


def connection_string(database: str) -> str:
    """The connection string of ``database`` by Odoo's configuration, completed by PG* variables."""
    settings = {
        "host": config["db_host"],
        "port": config["db_port"],
        "user": config["db_user"],
        "password": config["db_password"],
        "sslmode": config["db_sslmode"] if config["db_host"] else None,
    }
    return make_dsn(
        dbname=database, **{name: str(value) for name, value in settings.items() if value}
    )


def odoo_command() -> tuple[str, ...]:
    """The command this process was started with, without its arguments."""
    script = Path(sys.argv[0])
    start = ["-m", "odoo"] if script.name == "__main__.py" else [str(script.absolute())]
    return (sys.executable, *start)


class OpsWorker(Command):
    """Execute the runs of this database's OdooOps queue"""

    name = "ops_worker"

    def run(self, args):
        from odoo.addons.odooops.worker import settings as worker_settings
        from odoo.addons.odooops.worker.agent import main

        parser = argparse.ArgumentParser(
            prog=f"{Path(sys.argv[0]).name} {self.name}", description=self.__doc__
        )
        parser.add_argument(
            "-d", "--database", required=True, help="database with the addon odooops"
        )
        parser.add_argument("-c", "--config", help="Odoo's configuration file")
        worker_settings.add_arguments(parser)
        options = parser.parse_args(args)
        arguments = ["-d", options.database, "--no-http"]
        if options.config:
            arguments += ["-c", options.config]
        config.parse_config(arguments, setup_logging=True)
        folder = Path(config["data_dir"]) / "odooops" / options.database
        named_key = config.get("odooops_secrets_key")
        defaults = {
            "secrets_key": Path(named_key) if named_key else folder / "secrets_key",
            "dsn": connection_string(options.database),
            "artifacts": folder / "artifacts",
            "work_dir": folder / "work",
            "odoo": odoo_command(),
        }
        try:
            settings = worker_settings.read_settings(options, os.environ, defaults)
        except worker_settings.SettingsError as error:
            parser.error(str(error))
        sys.exit(main(settings, setup_logging=False))
