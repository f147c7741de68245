"""Keeps the store and the records of artifacts true to each other.

Bytes go first and the record follows, in a transaction that holds the record: a crash in between
leaves a record whose bytes are gone, and the next pass mends that. Nothing is removed from a store
that belongs to another database, such as the original of which this one is a copy.
"""

import logging
import re
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED

from odoo import api, models
from odoo.sql_db import db_connect
from odoo.tools import SQL

from ..worker.storage.base import ObjectMissing, StorageError, StoreUnavailable
from . import artifact_store
from .artifact_store import uploads_into

_logger = logging.getLogger(__name__)

BATCH = 50
# A scheduled action ends itself long before Odoo does, and comes again at once.
SECONDS = 60
# Longer than any run and its uploads may take.
UPLOAD_AGE = timedelta(days=2)
# What this addon may have put there: project, run, key. All else in a store is not ours to remove.
OUR_KEY = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*/([1-9][0-9]{0,9})/.+")


class OpsArtifactKeeper(models.AbstractModel):
    _name = "ops.artifact.keeper"
    _description = "Keeper of artifact stores"

    @api.model
    def _kinds(self):
        """The kinds of stores that hold something, or could."""
        used = self.env["ops.run.artifact"].sudo()._read_group([], ["store"])
        with self._committed() as cr:
            cr.execute("SELECT DISTINCT store FROM ops_run_upload")
            used += cr.fetchall()
        return sorted({kind for (kind,) in used} | ({"s3"} & self._configured()))

    def _configured(self):
        return {"s3"} if artifact_store.s3_parameters(self.env) else set()

    def _own_store(self, kind):
        """The store, when this database may remove what is in it.

        :raise StorageError: it cannot be used, or it belongs to another database
        """
        store = artifact_store.open_store(self.env, kind)
        name = self.env["ir.config_parameter"].sudo().get_param("database.uuid")
        if store.owner(name) != name:
            raise StorageError(
                "The artifact store belongs to another database, perhaps the one that this is a"
                " copy of; nothing is removed from it. Give this database a bucket prefix or folder"
                " of its own."
            )
        return store

    # -- expiry -------------------------------------------------------------------------

    @api.model
    def _expire(self):
        """Remove the bytes of artifacts whose time is over, then say so in their records.

        Commits by itself, batch by batch.

        :return: how many were removed
        """
        stores, removed, last_id = self._stores(), 0, 0
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            count, done, last_id = self._expire_batch(stores, last_id)
            removed += done
            if count < BATCH:
                break
        else:
            self.env.ref("odooops.ir_cron_expire_artifacts").sudo()._trigger()
        self._remove_lapsed_uploads(stores, until)
        before = datetime.now(timezone.utc) - UPLOAD_AGE
        for kind, store in stores.items():
            try:
                count = store.abort_uploads(before) if store else 0
            except StorageError as error:
                _logger.warning("leftovers of uploads, %s: %s", kind, error)
            else:
                if count:
                    _logger.info("removed %s unfinished uploads, %s", count, kind)
        self.env.invalidate_all(flush=False)
        return removed

    def _stores(self):
        stores = {}
        for kind in self._kinds():
            try:
                stores[kind] = self._own_store(kind)
            except StorageError as error:
                _logger.warning("no artifact expires, %s: %s", kind, error)
                stores[kind] = None
        return stores

    def _expire_batch(self, stores, after_id):
        """(rows seen, rows expired, highest id); a store that fails is left alone from then on."""
        kernel, done = self.env["ops.kernel"], 0
        with self._committed() as cr:
            call = kernel._invocation(
                "next_expired_artifacts", {"after_id": after_id, "limit": BATCH}
            )
            cr.execute(SQL("SELECT * FROM %s", call))
            rows = cr.dictfetchall()
            for row in rows:
                store = stores.get(row["store"])
                if store is None:
                    continue
                try:
                    store.delete(row["artifact_url"])
                except StorageError as error:
                    _logger.warning("artifact %s does not expire: %s", row["id"], error)
                    if isinstance(error, StoreUnavailable):
                        stores[row["store"]] = None
                    continue
                kernel._execute(cr, "expire_artifact", {"artifact_id": row["id"]})
                done += 1
        return len(rows), done, max((row["id"] for row in rows), default=after_id)

    def _remove_lapsed_uploads(self, stores, until):
        """Remove what workers have put into the store and nobody can record any more.

        :param until: of the monotonic clock, when no further batch begins
        """
        count, last_id = BATCH, 0
        while count == BATCH and time.monotonic() < until:
            count, last_id = self._remove_lapsed_batch(stores, last_id)

    def _remove_lapsed_batch(self, stores, after_id):
        """(rows seen, highest id)"""
        kernel = self.env["ops.kernel"]
        with self._committed() as cr:
            call = kernel._invocation("next_lapsed_uploads", {"after_id": after_id, "limit": BATCH})
            cr.execute(SQL("SELECT * FROM %s", call))
            rows = cr.dictfetchall()
            for row in rows:
                store = stores.get(row["store"])
                if store is None:
                    continue
                try:
                    if row["upload_id"]:
                        uploads_into(store, row["store"]).abort(row["place"], row["upload_id"])
                    if not row["recorded"]:
                        store.delete(store.url_of(row["place"]))
                except StorageError as error:
                    _logger.warning("an upload of run %s stays: %s", row["run_id"], error)
                    if isinstance(error, StoreUnavailable):
                        stores[row["store"]] = None
                    continue
                kernel._execute(cr, "forget_upload", {"upload_row_id": row["id"]})
                if not row["recorded"]:
                    _logger.info(
                        "removed %s, which run %s left", row["artifact_key"], row["run_id"]
                    )
        return len(rows), max((row["id"] for row in rows), default=after_id)

    @contextmanager
    def _committed(self):
        with db_connect(self.env.cr.dbname).cursor() as cr:
            cr._cnx.set_isolation_level(ISOLATION_LEVEL_READ_COMMITTED)
            yield cr

    # -- comparing ----------------------------------------------------------------------

    @api.model
    def _compare(self, kind):
        """Records whose bytes are not in the store, and records that were missing and are there.

        :return: (missing, found) as recordsets
        :raise StorageError: the store cannot be read
        """
        artifacts = self.env["ops.run.artifact"].sudo()
        store = artifact_store.open_store(self.env, kind)
        # The records first: the bytes of what is recorded meanwhile need not be in the list.
        records = artifacts.search([("store", "=", kind), ("status", "in", ["stored", "missing"])])
        sizes = {info.url: info.size_bytes for info in store.list()}
        here = records.filtered(lambda a: sizes.get(a.artifact_url) == a.size_bytes)
        missing = (records - here).filtered(lambda a: a.status == "stored")
        # One by one again: a list may be older than what it lists.
        missing = missing.filtered(lambda a: self._is_missing(store, a))
        return missing, here.filtered(lambda a: a.status == "missing")

    @staticmethod
    def _is_missing(store, artifact):
        try:
            return store.stat(artifact.artifact_url).size_bytes != artifact.size_bytes
        except ObjectMissing:
            return True

    @api.model
    def _mark_missing(self, kind):
        """Let the records say what is there and what is not; commits by itself.

        :return: (missing, found) as recordsets
        """
        try:
            missing, found = self._compare(kind)
        except StorageError as error:
            _logger.warning("artifacts are not checked, %s: %s", kind, error)
            return (self.env["ops.run.artifact"],) * 2
        for artifacts, present in ((missing, False), (found, True)):
            for artifact in artifacts:
                self.env["ops.kernel"]._call_committed(
                    "report_artifact", artifact_id=artifact.id, present=present
                )
        if missing:
            _logger.warning("%s artifacts are missing in the store, %s", len(missing), kind)
        return missing, found

    @api.model
    def _orphans(self, store, grace):
        """Objects that no record names and that are older than ``grace``, as ObjectInfo.

        Only such as this addon makes; what belongs to a run at work is never one.
        """
        before = datetime.now(timezone.utc) - grace
        old = [
            info for info in store.list() if info.modified < before and OUR_KEY.fullmatch(info.key)
        ]
        for start in range(0, len(old), 1000):
            chunk = old[start : start + 1000]
            self.env.cr.execute(
                SQL(
                    "SELECT artifact_url FROM ops_run_artifact"
                    " WHERE artifact_url = ANY(%s) AND status <> 'expired'",
                    [info.url for info in chunk],
                )
            )
            known = {url for (url,) in self.env.cr.fetchall()}
            self.env.cr.execute(
                SQL(
                    "SELECT run_id FROM ops_run_lease WHERE run_id = ANY(%s)",
                    [int(OUR_KEY.fullmatch(info.key)[1]) % 2**31 for info in chunk],
                )
            )
            active = {run_id for (run_id,) in self.env.cr.fetchall()}
            for info in chunk:
                if info.url not in known and int(OUR_KEY.fullmatch(info.key)[1]) not in active:
                    yield info
