"""`docs/settings.md`: every setting, from the typed object or the constants that read it."""

import dataclasses
import re
from pathlib import Path

from odoo.fields import Field

from odoo.addons import odooops
from odoo.addons.odooops.devtools.variables import ARGUMENTS, GIVEN
from odoo.addons.odooops.models import artifact_store, audit_key, secret_key
from odoo.addons.odooops.models.res_config_settings import ResConfigSettings
from odoo.addons.odooops.worker.settings import ENV_PREFIX, HOME, Settings, option_of

from .markdown import code, table

ADDON = Path(odooops.__file__).resolve().parent
# What Odoo's own configuration file or environment may say. The variable is the option in capitals.
SERVER = {
    audit_key.OPTION: "file with the Ed25519 key that signs the trail; `audit_key.pem` in the"
    " database's folder, made at first use",
    secret_key.OPTION: "file with the keys of the secrets; `secrets_key` in the database's folder,"
    " made with the first secret",
    "odooops_s3_access_key": "access key of the artifact store; otherwise boto3 looks for one",
    "odooops_s3_secret_key": "its secret key",
}
# Settings of the console without a help text of their own.
CONSOLE = {
    "odooops_s3_bucket": "S3 bucket of the artifact store; empty: the folder",
    "odooops_s3_prefix": "prefix of all keys in the bucket; one per database",
    "odooops_s3_endpoint": "address of the S3 server; empty: AWS",
    "odooops_s3_region": "region of the bucket",
}
SCRIPTS = "scripts/odooops/lib.sh"


def console():
    """Fields of the settings page that are kept, by name."""
    fields = {
        # The label may be given by position.
        name: {"string": field._args__.get("string"), **field._args__}
        for name, field in vars(ResConfigSettings).items()
        if isinstance(field, Field)
    }
    return {name: given for name, given in fields.items() if given.get("config_parameter")}


def explained(name, arguments):
    """What a setting of the console means."""
    return arguments.get("help") or CONSOLE.get(name)


def problems():
    """Sentences about settings that nobody explains."""
    found = [
        f"setting {name}: give the field a help text" for name, arguments in console().items()
        if not explained(name, arguments)
    ]  # fmt: skip
    for module in (audit_key, secret_key):
        if module.OPTION.upper() != module.ENVIRONMENT:
            found.append(f"{module.__name__}: the variable is not the option in capitals")
    source = Path(artifact_store.__file__).read_text(encoding="utf-8")
    found += [
        f"{name} is read by artifact_store, write it into reference/settings.py"
        for name in set(re.findall(r"odooops_s3_(?:access|secret)_key", source)) - set(SERVER)
    ]
    return found


def _default(value):
    if value in (None, "", (), False):
        return ""
    if isinstance(value, Path):
        value = str(value).replace(str(HOME), "~/.local/share/odooops")
    return code(f"{value:g}" if isinstance(value, float) else value)


def render():
    """The document's text."""
    worker = [
        (
            code(option_of(field.name)),
            code(f"{ENV_PREFIX}{field.name.upper()}"),
            _default(field.default),
            field.metadata["help"],
        )
        for field in dataclasses.fields(Settings)
    ]
    page = [
        (arguments["string"], code(arguments["config_parameter"]), explained(name, arguments))
        for name, arguments in console().items()
    ]
    server = [(code(name), code(name.upper()), means) for name, means in SERVER.items()]
    make = [(code(name), means) for name, means in {**GIVEN, **ARGUMENTS}.items()]
    return f"""# Settings

## A worker

The command line wins over the environment, which wins over the default. A wrong value ends the start with exit code 2 and a
sentence. `odoo ops_worker` takes the same, besides `-d DATABASE` and `-c FILE`; it finds the database by Odoo's configuration,
and its folders below `odooops/DATABASE/` in Odoo's data directory. Times are seconds. Passwords do not belong on a command line: PostgreSQL's
come from `~/.pgpass` or `PGPASSFILE`. `odooops-worker register` reads the registration token from `ODOOOPS_REGISTRATION_TOKEN`, or asks.

{table(("option", "variable", "default", "meaning"), worker)}
## The console

**Settings → OdooOps**, kept in the database (`ir.config_parameter`).

{table(("setting", "parameter", "meaning"), page)}
## Odoo's server

In `odoo.conf`, or as a variable in the environment of Odoo, which wins. Keys lie outside the database on purpose; the
database's folder is `odooops/DATABASE/` in Odoo's data directory.

{table(("option", "variable", "meaning"), server)}
## Scripts

Variables of the shell scripts stand in [scripts.md](scripts.md).

## The set-up (`make`)

{table(("variable", "meaning"), make)}"""
