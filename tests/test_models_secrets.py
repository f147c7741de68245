"""Secrets at the ORM's door: who manages them, that nothing reads them back, their trace."""

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path
from unittest.mock import patch

import psycopg2

from odoo.exceptions import AccessError, UserError, ValidationError
from odoo.fields import Command
from odoo.tests import Form, TransactionCase, new_test_user, tagged
from odoo.tools import mute_logger

from ..cli.ops_secret import execute
from ..models import secret_key
from ..models.roles import GUARDED_TYPES, MATRIX
from ..worker.secret_keys import KeyRing, SecretKeyError, context_of

VALUE = "correct horse battery staple"
PEOPLE = ("viewer", "developer", "admin", "owner", "stranger", "platform")


class SecretsCase(TransactionCase):
    """A project with a member of each role; keys in a folder of the test's own."""

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="odooops-test-")
        self.addCleanup(folder.cleanup)
        self.key_path = Path(folder.name) / "keys" / "secrets_key"
        self.key_path.parent.mkdir()
        self.key_path.write_text(KeyRing.generate().to_text())
        self.startPatcher(patch.dict(os.environ, {secret_key.ENVIRONMENT: str(self.key_path)}))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.users = {
            name: new_test_user(
                cls.env,
                login=f"secret-{name}",
                groups="odooops.group_platform_admin"
                if name == "platform"
                else "odooops.group_user",
            )
            for name in PEOPLE
        }
        cls.project = cls.env["ops.project"].create({"name": "Secrets", "slug": "secrets-test"})
        cls.env["ops.project.membership"].create(
            [
                {"project_id": cls.project.id, "user_id": cls.users[role].id, "role": role}
                for role in ("viewer", "developer", "admin", "owner")
            ]
        )

    def make(self, name="TOKEN", user=None, **values):
        return (
            self.env["ops.secret"]
            .with_user(user or self.users["owner"])
            .create({"project_id": self.project.id, "name": name, "value": VALUE, **values})
        )

    def sealed(self, secret):
        self.env.flush_all()
        self.env.cr.execute(
            "SELECT key_id, sealed FROM ops_secret_value WHERE secret_id = %s", [secret.id]
        )
        key_id, sealed = self.env.cr.fetchone()
        return key_id, bytes(sealed)

    def opened(self, secret):
        context = context_of(secret.project_id.id, secret.name, secret.environment or None)
        return KeyRing.load(self.key_path).open(*self.sealed(secret), context)

    def exporter(self):
        user = self.users["owner"]
        user.group_ids += self.env.ref("base.group_allow_export")
        return user

    def changes(self):
        rows = self.env["ops.secret.change"].search(
            [("project_id", "=", self.project.id)], order="id"
        )
        return [(row.name, row.action, row.user_id.login) for row in rows]


@tagged("post_install", "-at_install")
class TestModelsSecrets(SecretsCase):
    def test_who_manages_secrets_is_in_the_role_matrix(self):
        for name in PEOPLE:
            may = name == "platform" or name in MATRIX["manage_secrets"]
            user = self.users[name]
            secret = self.make(f"OF_{name.upper()}")
            acts = {
                "create": lambda user=user, name=name: self.make(f"BY_{name.upper()}", user),
                "read": lambda user=user, secret=secret: secret.with_user(user).read(["name"]),
                "write": lambda user=user, secret=secret: secret.with_user(user).write(
                    {"value": VALUE}
                ),
                "trace": lambda user=user: self.project.secret_change_ids.with_user(
                    user
                ).check_access("read"),
                "unlink": lambda user=user, secret=secret: secret.with_user(user).unlink(),
            }
            for operation, act in acts.items():
                with self.subTest(user=name, operation=operation):
                    if may:
                        act()
                    else:
                        with self.assertRaises(AccessError), self.env.cr.savepoint():
                            act()

    def test_no_read_gives_the_value_back(self):
        # Rule: R-27
        secret = self.make()
        everything = secret.sudo().read()[0]
        self.assertFalse(everything["value"])
        shown = json.dumps(
            [
                everything,
                secret.web_read({name: {} for name in secret._fields}),
                secret.with_user(self.exporter()).export_data(["name", "value", "environment"]),
                self.env["ops.secret"].search_read([]),
                secret.display_name,
                self.project.read(),
                self.env["ops.secret.change"].search_read([]),
            ],
            default=str,
        )
        self.assertNotIn(VALUE, shown)
        self.assertNotIn(VALUE[8:], shown)
        _key_id, sealed = self.sealed(secret)
        self.assertNotIn(VALUE.encode(), sealed)
        self.assertNotIn(sealed.hex(), shown)
        self.assertEqual(self.opened(secret), VALUE)
        with self.assertRaises(ValueError), mute_logger("odoo.domains"):
            self.env["ops.secret"].search([("value", "=", VALUE)])

    def test_no_text_column_of_the_database_holds_the_value(self):
        self.make(value="needle-in-the-haystack")
        self.env.flush_all()
        self.env.cr.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name LIKE 'ops_%' AND table_name IN"
            " (SELECT relname FROM pg_class WHERE relkind = 'r')"
        )
        for table, column in self.env.cr.fetchall():
            self.env.cr.execute(
                f"SELECT count(*) FROM {table} WHERE \"{column}\"::text LIKE '%%needle-in-the%%'"
            )
            self.assertEqual(self.env.cr.fetchone()[0], 0, (table, column))

    def test_values_that_could_not_be_hidden_or_delivered_are_refused(self):
        for value, reason in (
            (False, "needs a value"),
            ("", "needs a value"),
            ("12345", "at least 6"),
            ("  1234    ", "at least 6"),
            ("abc\0defgh", "NUL"),
            ("\ud800abcdef", "Unicode"),
            ("ä" * 20000, "32768"),
        ):
            with self.subTest(reason=reason), self.assertRaisesRegex(ValidationError, reason) as c:
                self.make(value=value)
            if value:
                self.assertNotIn(value, str(c.exception))
        secret = self.make()
        with self.assertRaisesRegex(ValidationError, "at least 6"):
            secret.value = "short"
        self.assertEqual(self.opened(secret), VALUE)

    def test_names_and_environments_are_checked_and_unique(self):
        self.make("A", environment="dev")
        self.make("A")
        for values in (
            {"name": "a"},
            {"name": "1A"},
            {"name": "A-B"},
            {"name": "A\n"},
            {"name": "ODOOOPS_TOKEN"},
            {"name": "A"},
            {"name": "A", "environment": "dev"},
            {"name": "B", "environment": "has space"},
        ):
            with (
                self.subTest(values=values),
                mute_logger("odoo.sql_db"),
                self.assertRaises(psycopg2.IntegrityError),
                self.env.cr.savepoint(),
            ):
                self.make(**values)

    def test_identity_stays_and_a_copy_is_refused(self):
        secret = self.make()
        for values in ({"name": "OTHER"}, {"environment": "dev"}):
            with self.assertRaisesRegex(UserError, "stay as they are"):
                secret.write(values)
        secret.write({"name": "TOKEN", "environment": False, "protected": True})
        with self.assertRaisesRegex(UserError, "cannot be copied"):
            secret.copy()

    def test_every_change_leaves_a_trace_that_cannot_be_changed(self):
        secret = self.make()
        secret.with_user(self.users["admin"]).value = "another value"
        secret.protected = True
        secret.protected = False
        secret.with_user(self.users["platform"]).unlink()
        self.assertEqual(
            self.changes(),
            [
                ("TOKEN", "set", "secret-owner"),
                ("TOKEN", "replaced", "secret-admin"),
                ("TOKEN", "protected", "secret-owner"),
                ("TOKEN", "unprotected", "secret-owner"),
                ("TOKEN", "removed", "secret-platform"),
            ],
        )
        for statement in (
            "UPDATE ops_secret_change SET user_id = NULL",
            "DELETE FROM ops_secret_change",
            "TRUNCATE ops_secret_change",
        ):
            with (
                self.assertRaises(psycopg2.errors.InsufficientPrivilege),
                mute_logger("odoo.sql_db"),
                self.env.cr.savepoint(),
            ):
                self.env.cr.execute(statement)
        with (
            self.assertRaises(psycopg2.IntegrityError),
            mute_logger("odoo.sql_db"),
            self.env.cr.savepoint(),
        ):
            self.project.unlink()

    def test_who_set_it_cannot_be_forged(self):
        secret = self.make(set_by=self.users["viewer"].id, set_at="2001-01-01 00:00:00")
        self.assertEqual(secret.set_by, self.users["owner"])
        secret.write({"set_by": self.users["viewer"].id, "set_at": "2001-01-01 00:00:00"})
        self.assertEqual(secret.set_by, self.users["owner"])
        self.assertGreater(secret.set_at.year, 2001)

    def test_the_form_of_a_project_sets_and_replaces_a_secret(self):
        user = self.users["admin"]
        with Form(self.project.with_user(user)) as form, form.secret_ids.new() as line:
            line.name = "FROM_FORM"
            line.value = VALUE
        secret = self.project.secret_ids
        self.assertEqual((secret.name, secret.set_by), ("FROM_FORM", user))
        with Form(self.project.with_user(user)) as form, form.secret_ids.edit(0) as line:
            self.assertFalse(line.value)
            line.protected = True
        self.assertEqual(self.opened(secret), VALUE)
        with Form(self.project.with_user(user)) as form, form.secret_ids.edit(0) as line:
            line.value = "replaced by form"
        self.assertEqual(self.opened(secret), "replaced by form")
        Form(self.project.with_user(self.users["viewer"]))

    def test_a_project_is_made_with_its_secrets_at_once(self):
        project = (
            self.env["ops.project"]
            .with_user(self.users["stranger"])
            .create(
                {
                    "name": "At once",
                    "slug": "secrets-at-once",
                    "secret_ids": [Command.create({"name": "TOKEN", "value": VALUE})],
                }
            )
        )
        self.assertEqual(self.opened(project.secret_ids), VALUE)

    def test_the_guarded_types_of_the_kernel_are_those_of_the_models(self):
        schema = self.env["ops.kernel"]._get_schema()
        field = self.env["ops.workflow"]._fields["workflow_type"]
        types = [kind for kind, _label in field.selection]
        self.env.cr.execute(
            f"SELECT t FROM unnest(%s) AS t WHERE {schema}.is_guarded_type(t)", [types]
        )
        self.assertEqual({row[0] for row in self.env.cr.fetchall()}, set(GUARDED_TYPES))


@tagged("post_install", "-at_install")
class TestSecretKeys(SecretsCase):
    def test_a_sealed_value_moved_elsewhere_cannot_be_opened(self):
        secret = self.make()
        ring = KeyRing.load(self.key_path)
        key_id, sealed = self.sealed(secret)
        project = secret.project_id.id
        for context in (
            context_of(project + 1, "TOKEN", None),
            context_of(project, "OTHER", None),
            context_of(project, "TOKEN", "dev"),
        ):
            with self.assertRaisesRegex(SecretKeyError, "altered"):
                ring.open(key_id, sealed, context)
        changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        with self.assertRaisesRegex(SecretKeyError, "altered"):
            ring.open(key_id, changed, context_of(project, "TOKEN", None))
        with self.assertRaisesRegex(SecretKeyError, "which the file has not"):
            KeyRing.generate().open(key_id, sealed, context_of(project, "TOKEN", None))

    def test_a_key_file_that_cannot_be_used_is_named_without_its_content(self):
        secret = KeyRing.generate().to_text()
        for content in ("", "current short", secret + secret, "next" + secret[7:], "\xe4"):
            self.key_path.write_text(content)
            with self.subTest(content=content), self.assertRaises(UserError) as caught:
                self.make()
            self.assertIn(str(self.key_path), str(caught.exception))
            for word in re.findall(r"\S{20,}=", content):
                self.assertNotIn(word, str(caught.exception))
        self.key_path.unlink()
        with self.assertRaisesRegex(UserError, "No such file"):
            self.make()
        self.assertFalse(self.key_path.exists(), "a file that a setting names is never made")

    def test_the_default_file_is_made_once_and_private(self):
        with patch.dict(os.environ):
            del os.environ[secret_key.ENVIRONMENT]
            with patch.dict(secret_key.key_file.config.options, data_dir=str(self.key_path.parent)):
                path = secret_key.path_of("some_db")
                ids = {secret_key.load("some_db").current.key_id for _attempt in range(3)}
        self.assertEqual(len(ids), 1)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(path, self.key_path.parent / "odooops" / "some_db" / "secrets_key")


@tagged("post_install", "-at_install")
class TestSecretRotation(SecretsCase):
    def setUp(self):
        super().setUp()
        # The rotation commits each secret by itself; here all is one transaction that is undone.
        kernel = type(self.env["ops.kernel"])
        self.patch(kernel, "_call_committed", kernel._call)
        self.secrets = [self.make(f"S{number}") for number in range(3)]

    def run_command(self, command):
        return "\n".join(execute(self.env, command))

    def key_ids(self):
        return {self.sealed(secret)[0] for secret in self.secrets}

    def test_a_rotation_seals_everything_anew_and_the_old_key_can_go(self):
        before = self.key_ids()
        self.run_command("rotate")
        ring = KeyRing.load(self.key_path)
        self.assertEqual(self.key_ids(), {ring.current.key_id})
        self.assertNotEqual(self.key_ids(), before)
        self.assertEqual([key.state for key in ring.keys], ["current", "old"])
        for secret in self.secrets:
            self.assertEqual(self.opened(secret), VALUE)
        with self.assertRaisesRegex(UserError, "Wait"):
            self.run_command("prune")
        os.utime(self.key_path, (1, 1))
        self.assertIn("1 old keys", self.run_command("prune"))
        self.assertEqual(len(KeyRing.load(self.key_path).keys), 1)
        self.assertEqual(self.opened(self.secrets[0]), VALUE)
        self.assertEqual(self.key_path.stat().st_mode & 0o777, 0o644 & ~self.umask())

    def umask(self):
        mask = os.umask(0)
        os.umask(mask)
        return mask

    def test_an_interrupted_rotation_is_taken_up_without_another_key(self):
        model, seen = type(self.env["ops.secret"]), []
        original = model._reseal_one

        def stumble(self, kernel, ring, row):
            if seen:
                raise InterruptedError("the power went out")
            seen.append(row)
            return original(self, kernel, ring, row)

        self.patch(model, "_reseal_one", stumble)
        # Not assertRaises, which would undo what has been done before.
        with contextlib.suppress(InterruptedError):
            self.run_command("rotate")
        self.assertEqual(len(self.key_ids()), 2)
        for secret in self.secrets:
            self.assertEqual(self.opened(secret), VALUE)
        os.utime(self.key_path, (1, 1))
        self.assertIn("0 old keys", self.run_command("prune"))
        self.patch(model, "_reseal_one", original)
        self.assertIn("2 secrets", self.run_command("rotate"))
        ring = KeyRing.load(self.key_path)
        self.assertEqual(self.key_ids(), {ring.current.key_id})
        self.assertEqual(len(ring.keys), 2)

    def test_a_prepared_key_seals_nothing_before_the_rotation(self):
        self.run_command("prepare")
        prepared = KeyRing.load(self.key_path)
        copy_of_worker = self.key_path.read_text()
        self.assertEqual(self.sealed(self.make("LATER"))[0], prepared.current.key_id)
        self.run_command("prepare")
        self.assertEqual(self.key_path.read_text(), copy_of_worker)
        self.run_command("rotate")
        # A worker that got its copy before can open what was sealed afterwards.
        key_id, sealed = self.sealed(self.secrets[0])
        context = context_of(self.project.id, "S0", None)
        self.assertEqual(KeyRing.parse(copy_of_worker).open(key_id, sealed, context), VALUE)

    def test_a_value_replaced_during_the_rotation_stays_replaced(self):
        model, secret = type(self.env["ops.secret"]), self.secrets[0]
        original = model._reseal_one

        def overtake(self, kernel, ring, row):
            if row["secret_id"] == secret.id:
                secret.value = "set meanwhile"
            return original(self, kernel, ring, row)

        self.patch(model, "_reseal_one", overtake)
        self.assertIn("2 secrets", self.run_command("rotate"))
        self.assertEqual(self.opened(secret), "set meanwhile")

    def test_status_counts_and_names_keys_that_are_missing(self):
        key_id = self.key_ids().pop()
        self.assertRegex(self.run_command("status"), f"{key_id} current +[0-9]+ secrets")
        self.key_path.write_text(KeyRing.generate().to_text())
        self.assertRegex(self.run_command("status"), f"{key_id} MISSING [0-9]+ secrets")
        with self.assertRaisesRegex(UserError, "which the file has not"):
            self.run_command("rotate")
