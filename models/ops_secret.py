"""A secret of a project: a value that goes in and comes out for a run only.

The model has no field that holds the value. What is written into ``value`` is sealed with a key
that lies outside the database and goes into a private table of the kernel; reading it gives
nothing, through any door. See docs/secrets.md.
"""

import logging
from base64 import b64decode, b64encode
from functools import lru_cache

from odoo import api, fields, models
from odoo.exceptions import UserError, ValidationError

from ..worker.masking import MIN_LENGTH, Masker
from ..worker.secret_keys import SecretKeyError, context_of
from ..worker.workflow_schema import SECRET_NAME_LENGTH
from . import secret_key

_logger = logging.getLogger(__name__)

# As of the variables in a workflow's env; Linux takes 128 KiB for one.
MAX_BYTES = 32768
# Secrets that the rotation reads at a time.
BATCH = 100
# What makes a secret the one it is; the sealed value is bound to it.
IDENTITY = ("project_id", "name", "environment")


@lru_cache(maxsize=64)
def _masker(database, project_id, sealed):
    """What hides these secrets: made once for all the calls about a run."""
    ring, masker = secret_key.load(database), Masker()
    for name, environment, key_id, value in sealed:
        context = context_of(project_id, name, environment)
        masker.add(ring.open(key_id, b64decode(value), context), name)
    return masker


class OpsSecret(models.Model):
    _name = "ops.secret"
    _description = "Secret"
    _order = "project_id, name, environment, id"

    project_id = fields.Many2one("ops.project", required=True, ondelete="cascade", index=True)
    name = fields.Char(
        required=True,
        help="Capital letters, digits and underscores. Steps get the value under this name.",
    )
    environment = fields.Char(
        help="Given only to runs of this environment, in place of the secret without one."
        " Empty: to all runs."
    )
    protected = fields.Boolean(
        help="Given only to workflows of type deploy, backup and upgrade, which developers cannot"
        " write."
    )
    value = fields.Text(
        compute="_compute_value",
        readonly=False,
        exportable=False,
        help="It can be set and replaced, and never be read.",
    )
    set_by = fields.Many2one("res.users", readonly=True, copy=False, ondelete="set null")
    set_at = fields.Datetime(readonly=True, copy=False)

    _name_uniq = models.Constraint(
        "UNIQUE NULLS NOT DISTINCT (project_id, name, environment)",
        "The project has a secret of this name for this environment already.",
    )
    _name_format = models.Constraint(
        f"CHECK (name ~ '^[A-Z][A-Z0-9_]*$' AND length(name) <= {SECRET_NAME_LENGTH}"
        " AND name !~ '^ODOOOPS_')",
        "The name of a secret begins with a capital letter and holds capital letters, digits and"
        " underscores. Names beginning with ODOOOPS_ are set by the worker.",
    )
    _environment_format = models.Constraint(
        "CHECK (environment ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND length(environment) <= 100)",
        "The name of an environment holds letters, digits and . _ -",
    )

    def _compute_value(self):
        self.value = False

    @api.model_create_multi
    def create(self, vals_list):
        values = [vals.get("value") for vals in vals_list]
        for value in values:
            self._check_value(value)
        secrets = super().create([self._plain(vals) for vals in vals_list])
        secrets._check_may_manage()
        for secret, value in zip(secrets, values, strict=True):
            secret._set_value(value)
        return secrets

    def write(self, vals):
        self._check_may_manage()
        value = vals.get("value")
        if value:
            self._check_value(value)
        plain = self._plain(vals)
        for secret in self:
            if any(
                name in plain
                and secret._fields[name].convert_to_write(secret[name], secret)
                != (plain[name] or False)
                for name in IDENTITY
            ):
                raise UserError(
                    self.env._(
                        "Project, name and environment of a secret stay as they are: set a new"
                        " secret and remove this one."
                    )
                )
            if "protected" in plain and bool(plain["protected"]) != secret.protected:
                action = "protected" if plain["protected"] else "unprotected"
                self.env["ops.kernel"]._record_secret_change(secret.id, action)
        result = super().write(plain)
        if value:
            for secret in self:
                secret._set_value(value)
        return result

    def unlink(self):
        self._check_may_manage()
        self.check_access("unlink")
        for secret in self:
            self.env["ops.kernel"]._record_secret_change(secret.id, "removed")
        return super().unlink()

    def copy_data(self, default=None):
        if not (default or {}).get("value"):
            raise UserError(
                self.env._("A secret cannot be copied: nobody can read its value. Set a new one.")
            )
        return super().copy_data(default)

    @api.model
    def _plain(self, vals):
        """What may be stored as it is; an empty environment means every environment."""
        plain = {k: v for k, v in vals.items() if k not in ("value", "set_by", "set_at")}
        if "environment" in plain:
            plain["environment"] = (plain["environment"] or "").strip() or False
        return plain

    @api.model
    def _check_value(self, value):
        """Refuse what could not be masked or delivered. The sentences do not repeat the value."""
        if not isinstance(value, str) or not value:
            raise ValidationError(self.env._("A secret needs a value."))
        if len(value.strip()) < MIN_LENGTH:
            raise ValidationError(
                self.env._(
                    "A secret must have at least %s characters: a shorter one could not be hidden"
                    " in logs without hiding innocent text.",
                    MIN_LENGTH,
                )
            )
        if "\0" in value:
            raise ValidationError(
                self.env._(
                    "A secret must not hold a NUL character: no environment variable can."
                    " Encode it, for example with base64."
                )
            )
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ValidationError(self.env._("A secret must be text in Unicode.")) from None
        if size > MAX_BYTES:
            raise ValidationError(
                self.env._("A secret must not be larger than %s bytes in UTF-8.", MAX_BYTES)
            )

    def _set_value(self, value):
        self.ensure_one()
        ring = secret_key.load(self.env.cr.dbname)
        context = context_of(self.project_id.id, self.name, self.environment or None)
        key_id, sealed = ring.seal(value, context)
        self.env["ops.kernel"]._call_or_raise(
            "set_secret_value",
            secret_id=self.id,
            key_id=key_id,
            sealed=b64encode(sealed).decode("ascii"),
        )

    # -- rotation of the key, see cli/ops_secret.py --------------------------------------

    @api.model
    def _keys_in_use(self):
        """Key id → how many secrets are sealed with it."""
        rows = self.env["ops.kernel"]._rows("list_secret_keys")
        return {row["key_id"]: row["secrets"] for row in rows}

    @api.model
    def _reseal(self):
        """Seal with the current key what is sealed with another. Each secret is committed by
        itself, so an interrupted call is taken up by the next one.

        :return: how many were sealed anew
        :raise UserError: a value cannot be opened
        """
        ring = secret_key.load(self.env.cr.dbname)
        kernel = self.env["ops.kernel"]
        done = after = 0
        while rows := kernel._rows(
            "list_secrets_to_reseal", key_id=ring.current.key_id, after=after, limit=BATCH
        ):
            for row in rows:
                after = row["secret_id"]
                done += self._reseal_one(kernel, ring, row)
        return done

    def _reseal_one(self, kernel, ring, row):
        context = context_of(row["project_id"], row["name"], row["environment"])
        try:
            value = ring.open(row["key_id"], b64decode(row["sealed"]), context)
        except SecretKeyError as error:
            raise UserError(
                self.env._(
                    "Secret %(name)s of project %(project)s %(problem)s.",
                    name=row["name"],
                    project=row["project_id"],
                    problem=error,
                )
            ) from error
        key_id, sealed = ring.seal(value, context)
        reply = kernel._call_committed(
            "reseal_secret",
            secret_id=row["secret_id"],
            old_sealed=row["sealed"],
            key_id=key_id,
            sealed=b64encode(sealed).decode("ascii"),
        )
        return reply["success"]

    # -- giving values to workers that come through Odoo ----------------------------------

    @api.model
    def _open_for_worker(self, reply):
        """The kernel's reply to ``run_secrets`` with values in the place of sealed ones.

        For a worker token only: its worker holds the run, and needs no copy of the key file.
        What cannot be opened is refused, by name.
        """
        opened = []
        try:
            ring = secret_key.load(self.env.cr.dbname) if reply["secrets"] else None
        except (SecretKeyError, UserError) as error:
            _logger.warning("no secrets for workers: %s", error)
            return self._not_opened("The control plane has no key for the secrets of projects.")
        for secret in reply["secrets"]:
            name, environment = secret["name"], secret["environment"]
            context = context_of(reply["project_id"], name, environment)
            try:
                value = ring.open(secret["key_id"], b64decode(secret["sealed"]), context)
            except SecretKeyError as error:
                return self._not_opened(f"The secret {name} {error}.")
            opened.append({"name": name, "environment": environment, "value": value})
        return {**reply, "secrets": opened}

    @staticmethod
    def _not_opened(sentence):
        return {"success": False, "code": "secret_unreadable", "error": sentence}

    # -- masking what workers send through Odoo, see controllers/jsonrpc.py ----------------

    @api.model
    def _mask(self, run_id, arguments):
        """Arguments of a worker's call without the secrets of its run, in whatever is text.

        A worker masks what it sends. This door, which has the keys, does it again for those that
        are written in a few lines of shell.
        """
        reply = self.env["ops.kernel"]._call_committed("secrets_to_mask", run_id=run_id)
        if not reply["secrets"]:
            return arguments
        sealed = tuple(
            (secret["name"], secret["environment"], secret["key_id"], secret["sealed"])
            for secret in reply["secrets"]
        )
        try:
            masker = _masker(self.env.cr.dbname, reply["project_id"], sealed)
        except (SecretKeyError, UserError) as error:
            # A worker that was given secrets has the keys, and masks by itself.
            _logger.warning("What is said about run %s is not masked here: %s", run_id, error)
            return arguments
        return masker.mask_json(arguments)

    def _check_may_manage(self):
        for secret in self:
            secret.project_id._check_may("manage_secrets")


class OpsProject(models.Model):
    _inherit = "ops.project"

    secret_ids = fields.One2many("ops.secret", "project_id")
    secret_change_ids = fields.One2many("ops.secret.change", "project_id")
    can_manage_secrets = fields.Boolean(compute="_compute_can_manage_secrets")

    @api.depends_context("uid")
    @api.depends("my_role")
    def _compute_can_manage_secrets(self):
        for project in self:
            project.can_manage_secrets = project._may("manage_secrets")
