"""Odoo's own access to the stores of artifacts: downloads, expiry, checks.

The places are settings in the database. Credentials never are: an access key and a secret key come
from ``ODOOOPS_S3_ACCESS_KEY`` and ``ODOOOPS_S3_SECRET_KEY`` in the environment, or from
``odooops_s3_access_key`` and ``odooops_s3_secret_key`` in odoo.conf. Without them boto3 looks where
it always does: ``AWS_ACCESS_KEY_ID``, a profile, the role of the machine.
"""

import functools
import os
from pathlib import Path

from odoo.tools import config

from ..worker.storage.base import StorageError
from ..worker.storage.filesystem import FilesystemStore
from ..worker.storage.filesystem_uploads import FilesystemUploads

PARAMETERS = ("bucket", "prefix", "endpoint", "region", "path_style", "ca_bundle")


def filesystem_root(env):
    """Folder of the filesystem store; workers of this host write there."""
    root = env["ir.config_parameter"].sudo().get_param("odooops.artifact_root")
    if root:
        return Path(root)
    return Path(config["data_dir"]) / "odooops" / env.cr.dbname / "artifacts"


def s3_parameters(env):
    """The settings of the bucket, by name; empty when there is none."""
    parameters = env["ir.config_parameter"].sudo()
    values = {name: parameters.get_param(f"odooops.s3_{name}") or "" for name in PARAMETERS}
    values["path_style"] = values["path_style"] == "True"
    return values if values["bucket"] else {}


def credentials():
    """Access key and secret key of odoo.conf or the environment, by name; {} without."""
    given = {
        name: os.environ.get(f"ODOOOPS_S3_{name.upper()}") or config.get(f"odooops_s3_{name}") or ""
        for name in ("access_key", "secret_key")
    }
    return given if any(given.values()) else {}


def open_store(env, kind):
    """The store of that kind (``filesystem``, ``s3``).

    :raise StorageError: it is not set up, or its settings are wrong
    """
    if kind == "filesystem":
        return FilesystemStore(filesystem_root(env))
    parameters = s3_parameters(env)
    if not parameters:
        raise StorageError("No S3 bucket is set up: Settings, OdooOps, Artifacts.")
    return open_bucket(parameters)


def kind_of_uploads(env):
    """The kind of store into which workers without one upload: the bucket where one is set up."""
    return "s3" if s3_parameters(env) else "filesystem"


def open_uploads(env):
    """The way into the store for workers that have none.

    :raise StorageError: its settings are wrong
    """
    kind = kind_of_uploads(env)
    return uploads_into(open_store(env, kind), kind)


def uploads_into(store, kind):
    """The way of uploads into a store of :func:`open_store`."""
    if kind == "s3":
        from ..worker.storage.s3_uploads import S3Uploads  # as below

        return S3Uploads(store)
    return FilesystemUploads(store)


def open_bucket(parameters):
    """The store in a bucket, by ``PARAMETERS``; one client per process and setting."""
    return _cached(tuple(sorted({**parameters, **credentials()}.items())))


@functools.lru_cache(maxsize=8)
def _cached(items):
    from ..worker.storage.s3 import S3Settings, S3Store  # boto3 is large; for those who use it

    return S3Store(S3Settings(**dict(items)))


def worker_environment(env):
    """The settings as a worker takes them, for one that this server starts."""
    given = {
        f"ODOOOPS_S3_{name.upper()}": "1" if value is True else value
        for name, value in s3_parameters(env).items()
        if value
    }
    keys = credentials() if given else {}
    names = {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY"}
    return given | {names[name]: value for name, value in keys.items() if value}
