"""``odoo ops_secret COMMAND -d DATABASE``: the keys that seal the secrets of projects."""

import argparse
import sys
import time
from pathlib import Path

from odoo import SUPERUSER_ID, api
from odoo.cli import Command
from odoo.exceptions import UserError
from odoo.modules.registry import Registry
from odoo.tools import config

COMMANDS = {
    "status": "which keys there are, and how many secrets each of them seals",
    "prepare": "add the key of the next rotation to the file, to be copied to the workers first",
    "rotate": "seal all secrets with the next key, or with a new one; take up what was interrupted",
    "prune": "remove from the file the old keys that seal nothing any more",
}
#: Somebody may just be sealing with the key that was current until now.
PRUNE_SECONDS = 600


class OpsSecret(Command):
    """Rotate the keys that seal the secrets of OdooOps"""

    name = "ops_secret"

    def run(self, args):
        program = f"{Path(sys.argv[0]).name} {self.name}"
        parser = argparse.ArgumentParser(
            prog=program,
            description=self.__doc__,
            epilog="\n".join(f"{name:8} {text}" for name, text in COMMANDS.items()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("command", choices=COMMANDS)
        parser.add_argument(
            "-d", "--database", required=True, help="database with the addon odooops"
        )
        parser.add_argument("-c", "--config", help="Odoo's configuration file")
        options = parser.parse_args(args)
        arguments = ["-d", options.database, "--no-http"]
        if options.config:
            arguments += ["-c", options.config]
        config.parse_config(arguments, setup_logging=True)
        with Registry(options.database).cursor() as cr:
            env = api.Environment(cr, SUPERUSER_ID, {})
            try:
                lines = execute(env, options.command)
                sys.stdout.write("".join(f"{line}\n" for line in lines))
            except UserError as error:
                sys.exit(f"{program}: {error}")


def execute(env, command):
    """Do what a command says.

    :return: lines for the person who gave it
    :raise UserError: with a sentence
    """
    from odoo.addons.odooops.models import secret_key

    database = env.cr.dbname
    ring = secret_key.load(database)
    return {"status": _status, "prepare": _prepare, "rotate": _rotate, "prune": _prune}[command](
        env, secret_key, database, ring
    )


def _status(env, secret_key, database, ring):
    used = env["ops.secret"]._keys_in_use()
    lines = [f"File: {secret_key.path_of(database)}"]
    for key in ring.keys:
        lines.append(f"{key.key_id} {key.state:7} {used.pop(key.key_id, 0)} secrets")
    return lines + [f"{key_id} MISSING {count} secrets" for key_id, count in used.items()]


def _prepare(env, secret_key, database, ring):
    secret_key.save(database, ring.prepared())
    return [
        f"{secret_key.path_of(database)} holds the next key.",
        "Copy the file to every worker, then rotate.",
    ]


def _rotate(env, secret_key, database, ring):
    used = set(env["ops.secret"]._keys_in_use())
    # What was interrupted is finished first: otherwise each attempt would add a key.
    if used <= {ring.current.key_id} or any(key.state == "next" for key in ring.keys):
        ring = ring.rotated()
        secret_key.save(database, ring)
    count = env["ops.secret"]._reseal()
    return [
        f"{count} secrets were sealed with the key {ring.current.key_id}.",
        "Workers that have a copy of the file need the new one. Old keys go with: prune",
    ]


def _prune(env, secret_key, database, ring):
    age = time.time() - secret_key.path_of(database).stat().st_mtime
    if age < PRUNE_SECONDS:
        raise UserError(
            f"The keys changed {age:.0f} seconds ago, and somebody may still be setting a secret"
            f" with the old one. Wait until {PRUNE_SECONDS} seconds have passed."
        )
    smaller = ring.without_old(env["ops.secret"]._keys_in_use())
    removed = len(ring.keys) - len(smaller.keys)
    if removed:
        secret_key.save(database, smaller)
    return [f"{removed} old keys were removed."]
