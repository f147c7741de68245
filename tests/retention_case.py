"""What the tests of partitions and retention share: runs that were queued years ago.

Their rows lie in partitions of their own, which are dropped again after the test. Only the time
of queueing and the end are old; the life of a run is that of the kernel.
"""

import time
from datetime import datetime

from psycopg2.extras import Json

from .audit_case import AuditCase

QUEUED_AT = datetime(2020, 3, 4, 12)
LOGS = "ops_run_log_line_p20200302"
WORDS = "ops_run_log_words_p20200302"
EVENTS = "ops_run_event_row_p20200301"
LOG_KEY = "run.log.gz"


class RetentionCase(AuditCase):
    def setUp(self):
        super().setUp()
        self.partitions_before = self.partitions()
        self.addCleanup(self._drop_new_partitions)
        self.retain(self.project, logs=30, events=0, runs=0)

    def _drop_new_partitions(self):
        for name in self.partitions() - self.partitions_before:
            self.db.rows(f"DROP TABLE {name}")

    def partitions(self):
        rows = self.db.rows(f"SELECT partition FROM {self.db.schema}.list_partitions()")
        return {row["partition"] for row in rows}

    def make_partitions(self, queued_at=QUEUED_AT):
        for parent in ("ops_run_event_row", "ops_run_log_line", "ops_run_log_words"):
            self.db.rows(f"SELECT {self.db.schema}.make_partition(%s, %s)", *(parent, queued_at))

    def retain(self, project_id, *, logs, events, runs):
        self.db.rows(
            "UPDATE ops_project SET log_retention_days = %s, event_retention_days = %s,"
            " run_retention_days = %s WHERE id = %s",
            *(logs, events, runs, project_id),
        )

    # -- old runs -----------------------------------------------------------------------

    def insert_run(self, workflow=None, queued_at=QUEUED_AT, retry_of=None):
        """A queued run of that time."""
        return self.db.value(
            "INSERT INTO ops_run (project_id, workflow_id, workflow_type, run_number, status,"
            " snapshot, priority, available_at, trigger, attempt, epoch, retry_of, create_date)"
            f" SELECT w.project_id, w.id, 'test', nextval('{self.db.schema}.run_number_'"
            " || w.project_id), 'queued', %s, 1000, %s, 'manual', 1, 0, %s, %s"
            " FROM ops_workflow w WHERE w.id = %s RETURNING id",
            *(Json({}), queued_at, retry_of, queued_at, workflow or self.workflow),
        )

    def started_run(self, lines=3, **arguments):
        """One that runs and has log lines; returns its id and epoch."""
        run_id = self.insert_run(**arguments)
        worker_id = self.worker()
        claimed = self.claim(worker_id)
        self.assertEqual(claimed["run_id"], run_id)
        epoch = claimed["epoch"]
        self.db.call("start_workflow_run", run_id=run_id, worker_id=worker_id, epoch=epoch)
        reply = self.db.call(
            "append_run_logs",
            run_id=run_id,
            epoch=epoch,
            first_seq=1,
            lines=[{"message": f"line {number}"} for number in range(lines)],
        )
        self.assertTrue(reply["success"], reply)
        self.index(run_id)
        return run_id, epoch

    def index(self, run_id):
        self.db.rows(f"SELECT {self.db.schema}.enter_tail(%s)", run_id)

    def old_run(self, artifact="stored", ended_at=None, **arguments):
        """One that ended in its time; its complete log is an artifact of that status, or none."""
        run_id, epoch = self.started_run(**arguments)
        if artifact:
            self.add_artifact(run_id, epoch, artifact)
        self.db.call("complete_workflow_run", run_id=run_id, epoch=epoch, exit_code=0)
        self.end_at(run_id, ended_at or arguments.get("queued_at", QUEUED_AT))
        return run_id

    def add_artifact(self, run_id, epoch, status):
        reply = self.db.call(
            "add_run_artifact",
            run_id=run_id,
            epoch=epoch,
            artifact_key=LOG_KEY,
            artifact_url=f"filesystem:{run_id}",
            content_type="application/gzip",
            size_bytes=1,
            checksum="0" * 64,
        )
        self.assertTrue(reply["success"], reply)
        self.set_artifact(run_id, status)

    def set_artifact(self, run_id, status):
        self.db.rows("UPDATE ops_run_artifact SET status = %s WHERE run_id = %s", status, run_id)

    def end_at(self, run_id, when):
        with self.without_append_only():
            self.db.rows("UPDATE ops_run SET finished_at = %s WHERE id = %s", when, run_id)

    # -- retention ----------------------------------------------------------------------

    def plan(self):
        """The lines of the dry run about the time of these tests and their projects, by what
        they are and their name; several of one name in a list."""
        lines = {}
        for row in self.db.rows(f"SELECT * FROM {self.db.schema}.retention_plan()"):
            if row["name"] in (LOGS, EVENTS) or row["project_id"] in self.projects:
                lines.setdefault((row["what"], row["name"]), []).append(row)
        return lines

    def planned(self, what, name):
        """The only line of this name."""
        (line,) = self.plan()[what, name]
        return line

    def expire(self):
        """As the scheduled action does it."""
        with self.environment() as env:
            return env["ops.retention"]._expire(time.monotonic() + 60)

    def batch(self, what, name, project_id=None, **arguments):
        return self.db.call(
            "expire_batch", what=what, name=name, project_id=project_id, **arguments
        )

    def lines(self, run_id):
        return self.db.value("SELECT count(*) FROM ops_run_log_line WHERE run_id = %s", run_id)

    def exists(self, relation):
        return self.db.value("SELECT to_regclass(%s) IS NOT NULL", f"public.{relation}")
