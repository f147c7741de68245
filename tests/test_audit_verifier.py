"""The offline verifier: a real export of a trail that was tampered with, and what it says."""

import copy
import json
import os
from unittest.mock import patch

from odoo.tests import tagged

from ..models import audit_key
from .audit_case import MESSAGES, PAYLOADS, AuditCase, make_key


@tagged("post_install", "-at_install")
class TestAuditVerifier(AuditCase):
    def setUp(self):
        super().setUp()
        self.before = self.ended_run()
        self.run_id = self.ended_run()
        self.after = self.ended_run()
        self.number = self.checkpoint()

    def tamper(self, *statements, rehash=False):
        """Change committed rows with the owner's rights."""
        with self.without_append_only():
            for statement in statements:
                self.db.rows(statement.format(run=self.run_id, number=self.number))
            if rehash:
                self.rehash(self.run_id)

    def assertFoundInDatabase(self, problem):
        """Offline and by the server itself."""
        self.assertFound(self.export(self.project), problem)
        found = self.problems(self.project)
        place = problem.partition(": ")[0]
        self.assertTrue(any(line.startswith(place) for line in found), found)

    # -- what holds ---------------------------------------------------------------------

    def test_an_untouched_trail_holds(self):
        self.assertHolds(self.export())
        self.assertHolds(self.export(self.project))
        self.assertEqual(self.problems(self.project), [])

    def test_what_is_hashed_can_be_made_again_from_the_export(self):
        _worker_id, run_id, epoch = self.start()
        for message in MESSAGES:
            for payload in PAYLOADS:
                self.add_event(run_id, epoch, message, payload)
        self.checkpoint()
        self.assertHolds(self.export(self.project))
        self.assertEqual(self.problems(self.project), [])

    def test_what_is_newer_than_the_last_checkpoint_is_called_so(self):
        self.assertIn("not covered: 0 events of 0 runs", self.assertHolds(self.export())[-1])
        self.ended_run()
        self.start()
        notes = self.assertHolds(self.export(self.project))
        self.assertIn("not covered: 8 events of 2 runs", notes[-1])

    def test_a_checkpoint_over_a_run_that_goes_on(self):
        _worker_id, run_id, epoch = self.start()
        first = self.checkpoint()
        self.add_event(run_id, epoch, "later")
        self.checkpoint()
        export = self.export(self.project)
        (run,) = [line for line in export if line.get("run_id") == run_id and "heads" in line]
        self.assertEqual([head[:2] for head in run["heads"]], [[first, 3], [first + 1, 4]])
        self.assertHolds(export)

    def test_the_key_may_be_a_file(self):
        path = self.folder / "public.pem"
        path.write_text(audit_key.load("any").public_pem)
        self.assertHolds(self.export(self.project), key=str(path))

    # -- events -------------------------------------------------------------------------

    def test_an_altered_event(self):
        for change in (
            "message = 'fast disk'",
            "payload = '{{\"a\": 1}}'",
            "event_type = 'info'",
            "timestamp = timestamp + interval '1 us'",
        ):
            with self.subTest(change=change):
                self.tamper(f"UPDATE ops_run_event SET {change} WHERE run_id = {{run}} AND seq = 4")
                self.assertFoundInDatabase(
                    f"run {self.run_id}, event 4: altered: the content does not give the hash"
                )

    def test_a_removed_event(self):
        self.tamper("DELETE FROM ops_run_event WHERE run_id = {run} AND seq = 3")
        self.assertFoundInDatabase(f"run {self.run_id}, event 4: missing: the events after 2")

    def test_two_events_in_another_order(self):
        move = "UPDATE ops_run_event SET seq = {to} WHERE run_id = {{run}} AND seq = {of}"
        self.tamper(*(move.format(of=of, to=to) for of, to in ((3, -3), (4, 3), (-3, 4))))
        self.assertFoundInDatabase(f"run {self.run_id}, event 3: broken link")

    def test_a_chain_that_was_hashed_anew(self):
        self.tamper(
            "UPDATE ops_run_event SET message = 'fast disk' WHERE run_id = {run} AND seq = 4",
            rehash=True,
        )
        self.assertEqual(
            self.db.rows(f"SELECT * FROM {self.db.schema}.verify_events(%s)", self.run_id), []
        )
        self.assertFoundInDatabase(
            f"run {self.run_id}, event 5: altered: checkpoint {self.number} holds another event"
        )

    def test_a_tail_that_was_cut_off(self):
        self.tamper("DELETE FROM ops_run_event WHERE run_id = {run} AND seq > 3", rehash=True)
        self.assertFoundInDatabase(
            f"run {self.run_id}, event 5: missing: checkpoint {self.number} holds it"
        )

    def test_a_newer_tail_is_missed_while_the_run_names_its_head(self):
        newer = self.ended_run()
        self.tamper(f"DELETE FROM ops_run_event WHERE run_id = {newer} AND seq = 5")
        self.assertFoundInDatabase(f"run {newer}, event 5: missing")

    def test_a_deleted_run(self):
        self.tamper(
            "DELETE FROM ops_run_event WHERE run_id = {run}", "DELETE FROM ops_run WHERE id = {run}"
        )
        problems = self.assertFound(
            self.export(self.project), f"run {self.run_id}: missing: the run was deleted"
        )
        event = f"run {self.run_id}, event 5: missing: checkpoint {self.number} holds it"
        self.assertIn(event, problems)

    def test_a_run_that_was_moved_to_another_project(self):
        other = self.make_project()
        self.tamper(f"UPDATE ops_run SET project_id = {other} WHERE id = {{run}}")
        self.assertFoundInDatabase(f"run {self.run_id}: missing")

    def test_an_event_that_was_slipped_in_later_with_an_older_time(self):
        self.tamper(
            "INSERT INTO ops_run_event_row"
            " (run_id, run_queued_at, seq, event_type, message, timestamp, hash)"
            " SELECT run_id, run_queued_at, 6, 'info', 'approved', timestamp - interval '1 day', ''"
            " FROM ops_run_event WHERE run_id = {run} AND seq = 5",
            rehash=True,
        )
        self.assertFoundInDatabase(
            f"run {self.run_id}, event 6: backdated: checkpoint {self.number} is newer"
        )
        self.db.rows("INSERT INTO ops_audit_pending VALUES (%s)", self.run_id)
        self.checkpoint()
        self.assertFound(self.export(self.project), f"run {self.run_id}, event 6: backdated")

    # -- checkpoints --------------------------------------------------------------------

    def test_a_forger_without_the_key_is_found_at_every_depth(self):
        # Rule: R-14
        """The chain hashed anew, then the heads, the roots, the checkpoint's hash."""
        checkpoint = f"checkpoint {self.number}: altered: "
        self.tamper(
            "UPDATE ops_run_event SET message = 'fast disk' WHERE run_id = {run} AND seq = 4",
            rehash=True,
        )
        self.tamper(
            "UPDATE ops_audit_head h SET event_hash = r.event_hash FROM ops_run r"
            " WHERE r.id = h.run_id AND r.id = {run}"
        )
        self.assertFoundInDatabase(f"{checkpoint}the heads of project {self.project}")
        self.tamper(
            "UPDATE ops_audit_checkpoint_project p SET root = r.root"
            f" FROM {self.db.schema}.project_roots({{number}}) r, ops_audit_checkpoint c"
            " WHERE r.project_id = p.project_id AND c.id = p.checkpoint_id"
            " AND c.number = {number}"
        )
        self.assertFoundInDatabase(f"{checkpoint}the projects do not give the root")
        self.tamper(
            "UPDATE ops_audit_checkpoint c SET root = (SELECT"
            f" {self.db.schema}.sha256_hex(string_agg(project_id || ' ' || root || E'\\n', ''"
            " ORDER BY project_id)) FROM ops_audit_checkpoint_project WHERE checkpoint_id = c.id)"
            " WHERE number = {number}"
        )
        self.assertFoundInDatabase(f"{checkpoint}the content does not give the hash")
        self.tamper(
            f"UPDATE ops_audit_checkpoint c SET hash = {self.db.schema}.sha256_hex("
            f"{self.db.schema}.checkpoint_statement(c)) WHERE number = {{number}}"
        )
        self.assertFoundInDatabase(f"{checkpoint}the signature does not fit")

    def test_checkpoints_that_were_made_again_with_another_key(self):
        self.tamper(
            "UPDATE ops_run_event SET message = 'fast disk' WHERE run_id = {run} AND seq = 4",
            "DELETE FROM ops_audit_checkpoint_project WHERE checkpoint_id IN"
            " (SELECT id FROM ops_audit_checkpoint WHERE number = {number})",
            "DELETE FROM ops_audit_checkpoint WHERE number = {number}",
            "DELETE FROM ops_audit_head WHERE checkpoint_number = {number}",
            "INSERT INTO ops_audit_pending SELECT id FROM ops_run",
            rehash=True,
        )
        path, key_id = make_key(self.folder, "forger.pem")
        with patch.dict(os.environ, {audit_key.ENVIRONMENT: str(path)}):
            self.assertEqual(self.checkpoint(), self.number)
        self.assertEqual(self.problems(self.project), [], "the server knows no better")
        export = self.export(self.project)
        self.assertFound(export, f"checkpoint {self.number}: foreign key: signed by {key_id}")
        self.assertHolds(export, "--key", key_id)

    def test_heads_that_were_deleted_with_their_run(self):
        self.tamper(
            "DELETE FROM ops_run_event WHERE run_id = {run}",
            "DELETE FROM ops_run WHERE id = {run}",
            "DELETE FROM ops_audit_head WHERE run_id = {run}",
        )
        self.assertFoundInDatabase(
            f"checkpoint {self.number}: altered: the heads of project {self.project}"
        )

    def two_checkpoints(self):
        self.ended_run()
        self.assertEqual(self.checkpoint(), self.number + 1)
        export = self.export(self.project)
        first = next(n for n, line in enumerate(export) if line.get("number") == self.number)
        return export, first

    def test_two_swapped_checkpoints(self):
        export, first = self.two_checkpoints()
        export[first], export[first + 1] = export[first + 1], export[first]
        self.assertFound(export, f"checkpoint {self.number}: out of order")

    def test_two_checkpoints_with_swapped_numbers(self):
        export, first = self.two_checkpoints()
        for name in ("number", "prev_hash"):
            one, two = export[first][name], export[first + 1][name]
            export[first][name], export[first + 1][name] = two, one
        self.assertFound(export, f"checkpoint {self.number}: altered: the content")

    def test_a_checkpoint_left_out(self):
        export, first = self.two_checkpoints()
        del export[first]
        self.assertFound(export, f"checkpoint {self.number + 1}: missing: checkpoint {self.number}")

    def test_a_checkpoint_that_was_noted_must_stay(self):
        export, first = self.two_checkpoints()
        seen = ("--seen", f"{self.number + 1}:{export[first + 1]['hash']}")
        self.assertHolds(export, *seen)
        self.tamper(
            "DELETE FROM ops_audit_checkpoint_project WHERE checkpoint_id IN"
            " (SELECT id FROM ops_audit_checkpoint WHERE number > {number})",
            "DELETE FROM ops_audit_checkpoint WHERE number > {number}",
            "DELETE FROM ops_audit_head WHERE checkpoint_number > {number}",
        )
        self.assertFound(
            self.export(self.project), f"checkpoint {self.number + 1}: replaced", *seen
        )

    def test_a_foreign_key(self):
        _path, key_id = make_key(self.folder, "other.pem")
        self.assertFound(
            self.export(self.project), f"checkpoint {self.number}: foreign key", key=key_id
        )

    # -- the file -----------------------------------------------------------------------

    def test_a_truncated_export(self):
        export = self.export(self.project)
        self.assertFound(export[:-1], "export: truncated")
        data = "".join(json.dumps(line) + "\n" for line in export).encode()
        self.assertFound(data[: len(data) // 2], "export: truncated")

    def test_lines_left_out_added_or_broken(self):
        export = self.export(self.project)
        events = [n for n, line in enumerate(export) if line.get("run_id") == self.run_id]
        place = f"run {self.run_id}, event 2: "
        changes = {
            "left out": (lambda e: e.pop(events[2]), f"run {self.run_id}, event 3: missing"),
            "twice": (lambda e: e.insert(events[2], e[events[2]]), f"{place}out of order"),
            "run left out": (lambda e: e.pop(events[0]), f"run {self.run_id}, event 1: out of"),
            "no number": (lambda e: e[events[2]].update(seq="2"), "event ?: altered"),
            "a list": (lambda e: e[events[2]].update(message=[]), f"{place}altered: message"),
            "a fact inside a fact": (
                lambda e: e[events[2]].update(payload="{}\n{}"),
                f"{place}altered: payload",
            ),
            "unknown kind": (lambda e: e.insert(3, {"kind": "x"}), "line 4: cannot be read"),
            "after the end": (lambda e: e.append(e[events[2]]), f"line {len(export) + 1}:"),
        }
        for name, (change, problem) in changes.items():
            with self.subTest(change=name):
                changed = copy.deepcopy(export)
                change(changed)
                self.assertFound(changed, problem)
        data = "".join(json.dumps(line) + "\n" for line in export).encode()
        self.assertFound(data.replace(b'"slow disk"', b'"slow\xff"'), "line ")

    def test_what_is_no_export_is_told_from_a_bad_one(self):
        for data in (b"", b"{}\n", b"<html>", b'{"kind": "export", "format": "other"}\n'):
            with self.subTest(data=data):
                code, _problems, _notes, last = self.verify(data)
                self.assertEqual(code, 2)
                self.assertIn("no export", last)
        self.assertEqual(self.verify(self.export(), key="nonsense")[0], 2)
        self.assertEqual(self.verify(self.export(), "--seen", "3")[0], 2)
