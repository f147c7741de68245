"""Fed to `odoo shell` by the set-up: the admin user's password and an API key for scripts.

Takes both from and to files and variables, not arguments: other users can read a command line.
"""
# `env` is given by the shell.
# ruff: noqa: F821
# pylint: disable=undefined-variable

import datetime
import os
import pathlib

KEY_NAME = "make up"
KEY_DAYS = 365

admin = env.ref("base.user_admin")
password = os.environ.get("ODOOOPS_SETUP_PASSWORD")
if password:
    admin.password = password

api_keys = env["res.users.apikeys"].with_user(admin).sudo()
api_keys.search([("user_id", "=", admin.id), ("name", "=", KEY_NAME)]).unlink()
expiration = datetime.datetime.now() + datetime.timedelta(days=KEY_DAYS)
token = api_keys._generate("odooops", KEY_NAME, expiration)
env.cr.commit()
pathlib.Path(os.environ["ODOOOPS_SETUP_TOKEN_FILE"]).write_text(token, encoding="ascii")
