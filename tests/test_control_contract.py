"""What a worker may rely on, whichever door it comes through: SQL or JSON-RPC."""

import contextlib
import tempfile
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import patch

from psycopg2.extensions import make_dsn

from odoo.sql_db import connection_info_for
from odoo.tests import HttpCase, tagged
from odoo.tests.common import get_db_name

from ..models.ops_worker_token import token_hash
from ..worker.control.base import Artifact, ControlPlaneError, ControlPlaneUnavailable, Refused
from ..worker.control.rpc import RpcControlPlane, TokenFile, register_host
from ..worker.control.sql import SqlControlPlane
from .http_case import WorkerTokens
from .kernel_case import KernelCase

CHECKSUM = "0" * 64


class ControlContract:
    """The suite; whoever inherits gives ``self.control``."""

    def register(self, **values):
        worker_id = f"test-{uuid.uuid4()}"
        self.workers.append(worker_id)
        arguments = {
            "host": "build-1",
            "labels": ["docker", "big"],
            "capacity": 2,
            "version": "1",
            "kind": "daemon",
            **values,
        }
        self.assertNotIsInstance(self.control.register_worker(worker_id, **arguments), Refused)
        return worker_id

    def claim_run(self, **values):
        """Queue, claim and start; (worker id, claim)."""
        run_id = self.queue(**values)
        worker_id = self.register()
        claim = self.control.claim_next_run(worker_id, ["docker"], str(uuid.uuid4()))
        self.assertEqual(claim.run_id, run_id)
        started = self.control.start_workflow_run(run_id, worker_id, claim.epoch)
        self.assertEqual(started.next_seq, 1)
        self.assertGreater(started.lease_seconds, claim.lease_seconds)
        return worker_id, claim

    def assertRefusal(self, reply, code):
        self.assertIsInstance(reply, Refused)
        self.assertEqual(reply.code, code, reply)

    def test_the_namespace_is_the_databases(self):
        name = self.db.call("control_plane_namespace")["namespace"]
        self.assertEqual(self.control.namespace(), name)
        self.assertRegex(name, "^[0-9a-f]{8}$")

    def test_a_run_from_claim_to_end(self):
        worker_id, claim = self.claim_run(metadata={"ticket": "ü"})
        self.assertEqual(claim.snapshot["metadata"], {"ticket": "ü"})
        held = (claim.run_id, claim.epoch)
        lines = [
            {
                "message": f"Zeile {number} ü 😀",
                "level": "warn",
                "timestamp": "2026-11-23T10:00:00.123456Z",
                "metadata": {"step": "Work"},
            }
            for number in range(3)
        ]
        self.assertEqual(self.control.append_run_logs(*held, 1, lines)["next_seq"], 4)
        self.assertEqual(self.control.append_run_logs(*held, 1, lines)["next_seq"], 4)
        gap = self.control.append_run_logs(*held, 9, lines)
        self.assertRefusal(gap, "log_gap")
        self.assertEqual(gap.data["next_seq"], 4)
        reply = self.control.add_run_event(*held, "info", "half way", {"part": 0.5})
        self.assertGreater(reply["seq"], 0)
        expires_at = datetime.now(timezone.utc) + timedelta(days=1)
        url = (
            f"s3://bucket-of-the-worker/{claim.snapshot['project']['slug']}/{claim.run_id}/a/b.txt"
        )
        artifact = Artifact("a/b.txt", url, "text/plain", 3, CHECKSUM, expires_at)
        recorded = self.control.add_run_artifact(*held, artifact)
        self.assertEqual(self.control.add_run_artifact(*held, artifact), recorded)
        end = (claim.run_id, worker_id, claim.epoch, 1, "exit_code", "It ended with 1.", {"n": 1})
        self.assertEqual(self.control.complete_workflow_run(*end)["status"], "failed")
        self.assertTrue(self.control.complete_workflow_run(*end)["repeated"])
        row = self.run_row(claim.run_id)
        self.assertEqual((row["exit_code"], row["error_message"]), (1, "It ended with 1."))
        stored = self.db.rows("SELECT * FROM ops_run_artifact WHERE run_id = %s", claim.run_id)[0]
        self.assertEqual(stored["expires_at"], expires_at.replace(tzinfo=None))

    def test_success_needs_no_error(self):
        worker_id, claim = self.claim_run()
        reply = self.control.complete_workflow_run(
            claim.run_id, worker_id, claim.epoch, 0, None, None, {}
        )
        self.assertEqual(reply["status"], "succeeded")
        row = self.run_row(claim.run_id)
        self.assertEqual((row["exit_code"], row["error_code"]), (0, None))

    def test_an_end_without_exit_code(self):
        worker_id, claim = self.claim_run()
        reply = self.control.complete_workflow_run(
            claim.run_id, worker_id, claim.epoch, None, "timeout", "It took too long.", {}
        )
        self.assertEqual(reply["status"], "failed")
        self.assertIsNone(self.run_row(claim.run_id)["exit_code"])

    def test_the_same_claim_token_gives_the_same_run(self):
        run_id = self.queue()
        worker_id, token = self.register(), str(uuid.uuid4())
        first = self.control.claim_next_run(worker_id, [], token)
        self.assertEqual(first.run_id, run_id)
        self.assertEqual(self.control.claim_next_run(worker_id, [], token), first)

    def test_an_empty_queue_gives_none(self):
        self.assertIsNone(self.control.claim_next_run(self.register(), [], str(uuid.uuid4())))

    def test_a_run_given_back_is_queued_again(self):
        run_id = self.queue()
        worker_id = self.register()
        claim = self.control.claim_next_run(worker_id, [], str(uuid.uuid4()))
        reply = self.control.release_run(run_id, worker_id, claim.epoch)
        self.assertEqual(reply["status"], "queued")
        late = self.control.start_workflow_run(run_id, worker_id, claim.epoch)
        self.assertRefusal(late, "stale_epoch")

    def test_heartbeats_tell_what_is_owned_and_canceled(self):
        worker_id, claim = self.claim_run()
        own, foreign = (claim.run_id, claim.epoch), (claim.run_id, claim.epoch + 1)
        first, second = self.control.heartbeat(worker_id, [own, foreign])
        self.assertEqual((first.owned, first.cancel_requested), (True, False))
        self.assertGreater(first.lease_seconds, 0)
        self.assertFalse(second.owned)
        self.db.call("cancel_run", run_id=claim.run_id, reason="enough")
        (beat,) = self.control.heartbeat(worker_id, [own])
        self.assertEqual((beat.cancel_requested, beat.cancel_reason), (True, "enough"))

    def test_leases_are_listed(self):
        worker_id, claim = self.claim_run()
        leases = [
            (lease.run_id, lease.epoch, lease.worker_id) for lease in self.control.list_leases()
        ]
        self.assertIn((claim.run_id, claim.epoch, worker_id), leases)

    def test_an_unknown_worker_is_told_so(self):
        self.assertRefusal(self.control.heartbeat(f"test-{uuid.uuid4()}", []), "not_found")

    def test_lost_runs_are_reaped(self):
        _worker, claim = self.claim_run()
        self.expire_lease(claim.run_id)
        self.reap()
        self.assertNotIsInstance(self.control.reap_lost_runs(), Refused)
        self.assertEqual(self.run_row(claim.run_id)["error_code"], "worker_lost")

    def test_words_of_lines_are_entered_until_none_are_left(self):
        _worker, claim = self.claim_run()
        lines = [{"message": "line"}] * 1000
        self.control.append_run_logs(claim.run_id, claim.epoch, 1, lines)
        self.assertGreaterEqual(self.control.index_run_logs()["lines"], 1000)
        rows = self.db.rows(
            "SELECT first_seq, last_seq FROM ops_run_log_words WHERE run_id = %s", claim.run_id
        )
        self.assertEqual(rows, [{"first_seq": 1, "last_seq": 1000}])

    def test_states_of_a_worker(self):
        worker_id = self.register()
        self.assertEqual(self.control.set_worker_state(worker_id, "draining")["state"], "draining")
        self.assertRefusal(self.control.set_worker_state(worker_id, "asleep"), "invalid_input")

    def test_listening_ends_when_it_shall(self):
        stop, queue, cancel = threading.Event(), threading.Event(), threading.Event()
        listener = threading.Thread(target=self.control.listen, args=(stop, queue, cancel))
        listener.start()
        try:
            self.assertTrue(cancel.wait(30))
        finally:
            stop.set()
            listener.join(30)
        self.assertFalse(listener.is_alive())


class TestSqlControlPlane(ControlContract, KernelCase):
    def setUp(self):
        super().setUp()
        _name, parameters = connection_info_for(get_db_name())
        self.control = SqlControlPlane(make_dsn(**parameters))
        self.addCleanup(self.control.close)

    def test_a_server_that_is_away(self):
        control = SqlControlPlane("host=127.0.0.1 port=9 dbname=nothing")
        with self.assertRaisesRegex(ControlPlaneUnavailable, "cannot be reached"):
            control.reap_lost_runs()


@tagged("post_install", "-at_install")
class TestRpcControlPlane(ControlContract, WorkerTokens, KernelCase, HttpCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.control = self.plane(self.credentials[0])

    def plane(self, credentials, name="token"):
        file = TokenFile(self.folder / name)
        file.save(credentials)
        return self.connect_by(file)

    def connect_by(self, file):
        """A control plane whose requests the test's server lets in."""
        control = RpcControlPlane(self.base_url(), file)
        self.addCleanup(control.close)
        call = control._call

        def let_in(*arguments, **parameters):
            self.env.flush_all()
            with self.allow_requests(all_requests=True):
                result = call(*arguments, **parameters)
            self.env.invalidate_all()
            return result

        control._call = let_in
        return control

    def registration(self, **values):
        _token, text = self.env["ops.worker.token"]._make(
            "registration", "Berlin", timedelta(hours=1), **{"uses_left": 1, **values}
        )
        self.env.flush_all()
        return text

    def exchange(self, text):
        file = TokenFile(self.folder / "registered")
        with self.allow_requests(all_requests=True):
            register_host(self.base_url(), text, "build-9", file)
        self.env.invalidate_all()
        return file

    def test_a_registration_token_is_good_for_so_many_hosts(self):
        text = self.registration()
        file = self.exchange(text)
        self.assertEqual(file.path.stat().st_mode & 0o777, 0o600)
        control = self.connect_by(file)
        self.assertTrue(control.namespace())
        with self.assertRaisesRegex(ControlPlaneError, "used up"):
            self.exchange(text)

    def test_a_registration_token_opens_nothing_else(self):
        # Rule: R-23
        control = self.plane({"token": self.registration()}, "wrong")
        self.assertRefusal(control.reap_lost_runs(), "forbidden")

    def test_tokens_that_open_nothing(self):
        expired = self.registration(expires_at=datetime(2020, 1, 1))
        revoked = self.registration(revoked_at=datetime(2020, 1, 1))
        for text in (expired, revoked, "opwt_guessed", "oprt_"):
            with self.subTest(text=text[:12]), self.assertRaisesRegex(ControlPlaneError, "refused"):
                self.exchange(text)

    def test_a_revoked_worker_is_locked_out_at_once(self):
        control = self.connect_by(self.exchange(self.registration()))
        self.assertNotIsInstance(control.reap_lost_runs(), Refused)
        token = self.env["ops.worker.token"].search([("kind", "=", "worker")], limit=1)
        token.action_revoke()
        self.env.flush_all()
        with self.assertRaisesRegex(ControlPlaneError, "revoked"):
            control.reap_lost_runs()

    def test_no_text_of_a_token_is_stored(self):
        text = self.registration()
        self.env.cr.execute("SELECT t::text FROM ops_worker_token t")
        self.assertNotIn(text, str(self.env.cr.fetchall()))

    def test_a_token_acts_for_its_own_workers_only(self):
        # Rule: R-24
        worker_id, claim = self.claim_run()
        other = self.plane(self.credentials[1], "other")
        held = (claim.run_id, claim.epoch)
        end = (claim.run_id, worker_id, claim.epoch, 0, None, None, {})
        for reply in (
            other.heartbeat(worker_id, [held]),
            other.set_worker_state(worker_id, "stopped"),
            other.claim_next_run(worker_id, [], str(uuid.uuid4())),
            other.append_run_logs(*held, 1, [{"message": "forged"}]),
            other.add_run_event(*held, "info", "forged", {}),
            other.complete_workflow_run(*end),
            other.complete_workflow_run(claim.run_id, None, *end[2:]),
        ):
            self.assertRefusal(reply, "not_found")
        self.assertRefusal(
            other.register_worker(worker_id, "build-2", [], 1, "1", "daemon"), "forbidden"
        )
        # Nor for one that came through the SQL door.
        _sql_worker, run_id, epoch = self.start()
        self.assertRefusal(other.append_run_logs(run_id, epoch, 1, []), "not_found")
        self.assertEqual(self.run_row(claim.run_id)["status"], "running")

    def test_a_worker_token_opens_no_method_of_people(self):
        # Rule: R-23
        reply = self.control._call("list_projects")
        self.assertRefusal(reply, "forbidden")

    def test_a_token_is_renewed_in_its_last_third(self):
        self.assertFalse(self.control.renew_token())
        file = self.exchange(self.registration())
        old = file.load()
        soon = (datetime.now(timezone.utc) + timedelta(days=29)).isoformat()
        file.save({**old, "expires_at": soon})
        control = self.connect_by(file)
        self.assertTrue(control.renew_token())
        self.env.invalidate_all()
        self.assertNotEqual(file.load()["token"], old["token"])
        self.assertTrue(control.namespace())
        # The reply of the renewal may have been lost: the old text works for a while.
        self.assertTrue(self.plane(old, "old").namespace())

    def due(self):
        """The file of a token that is to be renewed."""
        file = self.exchange(self.registration())
        soon = (datetime.now(timezone.utc) + timedelta(days=29)).isoformat()
        file.save({**file.load(), "expires_at": soon})
        return file

    def test_agents_with_one_file_renew_at_once_and_none_loses_its_token(self):
        file = self.due()
        old = file.load()["token"]
        planes = [RpcControlPlane(self.base_url(), TokenFile(file.path)) for _agent in range(6)]
        together = threading.Barrier(len(planes))

        def renew(control):
            together.wait(30)
            return control.renew_token()

        self.env.flush_all()
        with (
            self.allow_requests(all_requests=True),
            ThreadPoolExecutor(len(planes)) as pool,
        ):
            renewed = list(pool.map(renew, planes))
        self.assertEqual(sorted(renewed), [False] * 5 + [True])
        self.env.invalidate_all()
        current = file.load()["token"]
        self.assertNotEqual(current, old)
        token = self.env["ops.worker.token"].search([("kind", "=", "worker")], limit=1)
        self.assertEqual(token.sudo().token_hash, token_hash(current), "The file has the last one.")
        self.assertEqual({control._credentials["token"] for control in planes}, {current})
        with self.allow_requests(all_requests=True):
            for control in planes:
                self.assertTrue(control.namespace())
                control.close()

    def test_a_token_is_not_lost_with_the_replies(self):
        old = self.due().load()
        for _lost in range(3):
            self.assertTrue(self.plane(old, "old")._call("renew_worker_token")["token"])
            self.env.invalidate_all()
        control = self.plane(old, "old")
        self.assertTrue(control.renew_token())
        self.assertTrue(control.namespace())

    def test_a_token_that_could_not_be_kept_is_not_asked_for(self):
        file = self.due()
        old = file.load()
        control = self.connect_by(file)
        full = OSError(28, "No space left on device")
        # Not by assertRaises, which takes back what the server has written.
        with patch.object(TokenFile, "save", side_effect=full), contextlib.suppress(OSError):
            control.renew_token()
            self.fail("It was renewed into nothing.")
        self.assertEqual(file.load(), old)
        self.env.invalidate_all()
        token = self.env["ops.worker.token"].search([("kind", "=", "worker")], limit=1)
        self.assertEqual(token.sudo().token_hash, token_hash(old["token"]), "It was renewed.")
        self.assertTrue(control.renew_token())

    def test_a_refused_token_is_read_again_as_another_process_may_have_renewed_it(self):
        file = TokenFile(self.folder / "token")
        file.save({**self.credentials[0], "token": "odooops-worker-gone"})
        control = self.connect_by(file)
        with self.assertRaisesRegex(ControlPlaneError, "refused the worker token"):
            control.namespace()
        file.save(self.credentials[0])
        self.assertTrue(control.namespace())

    def test_wrong_addresses_and_files(self):
        file = TokenFile(self.folder / "token")
        with self.assertRaisesRegex(ControlPlaneUnavailable, "cannot be reached"):
            RpcControlPlane("http://127.0.0.1:9", file).namespace()
        with (
            self.allow_requests(all_requests=True),
            self.assertRaisesRegex(ControlPlaneError, "no JSON-RPC"),
        ):
            RpcControlPlane(self.base_url() + "/nowhere", file).namespace()
        with self.assertRaisesRegex(ControlPlaneError, "Register this host first"):
            RpcControlPlane(self.base_url(), TokenFile(self.folder / "none"))
        (self.folder / "broken").write_text("{")
        with self.assertRaisesRegex(ControlPlaneError, "no worker token"):
            RpcControlPlane(self.base_url(), TokenFile(self.folder / "broken"))

    def test_a_token_file_is_replaced_in_one_step(self):
        file = TokenFile(self.folder / "token")
        before = file.load()
        with contextlib.suppress(TypeError):
            file.save({"token": object()})
        self.assertEqual(file.load(), before)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["token"])
