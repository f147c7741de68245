"""What the JSON-RPC door does for people: one method per name of the contract.

Everything is found through the record rules of the current user. Rows are read from the
kernel's views, so that names, spellings and NULLs are those of the SQL door; actions are
those of the models, with their checks. Lists come in pages.
"""

import base64
import binascii
import json

from odoo import api, models
from odoo.exceptions import AccessError
from odoo.fields import Domain
from odoo.tools import SQL

from .ops_kernel import KernelRefusal

PAGE_SIZE = 100
LOG_PAGE_SIZE = 500

# Per view: its model, and what a reader would otherwise have to look up.
VIEWS = {
    "projects": ("ops.project", "v.*", ""),
    "workflows": (
        "ops.workflow",
        "v.*, p.slug AS project",
        "JOIN ops_project p ON p.id = v.project_id",
    ),
    "runs": (
        "ops.run",
        "v.*, p.slug AS project, w.name AS workflow",
        "JOIN ops_project p ON p.id = v.project_id JOIN ops_workflow w ON w.id = v.workflow_id",
    ),
    "run_artifacts": (
        "ops.run.artifact",
        "v.*, '/ops/artifacts/' || v.id AS path",
        "",
    ),
}


class OpsApi(models.AbstractModel):
    _name = "ops.api"
    _description = "JSON-RPC methods"

    # -- acting -------------------------------------------------------------------------

    @api.model
    def _queue_run(
        self,
        workflow_id=None,
        project=None,
        workflow_type=None,
        workflow=None,
        environment=None,
        **arguments,
    ):
        """Queue a run of the workflow with this id; or of this project, type and, where the
        project has several of the type, name."""
        if workflow_id:
            record = self._visible("ops.workflow", workflow_id)
        else:
            record = self._find_workflow(project, workflow_type, workflow)
        if environment:
            metadata = arguments.get("metadata") or {}
            arguments["metadata"] = {**metadata, "environment": environment}
        return record._queue_run(trigger="api", **arguments)

    @api.model
    def _cancel_run(self, run_id, reason=None):
        """End a run; a running one is stopped by its worker."""
        return self._visible("ops.run", run_id).cancel(reason)

    @api.model
    def _retry_run(self, run_id):
        """A new run with the snapshot of the old one."""
        run = self._visible("ops.run", run_id).restart()
        return {
            "success": True,
            "run_id": run.id,
            "run_number": run.run_number,
            "status": run.status,
            "created": True,
        }

    # -- reading ------------------------------------------------------------------------

    @api.model
    def _explain_wait(self, run_id):
        """Why a queued run still waits."""
        run = self._visible("ops.run", run_id)
        return self.env["ops.kernel"]._call_or_raise("explain_wait", run_id=run.id)

    @api.model
    def _verify_events(self, run_id):
        """Compute the event chain of a run again, and say what does not fit."""
        run = self._visible("ops.run", run_id)
        problems = self.env["ops.kernel"]._rows("verify_events", run_id=run.id)
        return {"valid": not problems, "events": run._count_events(), "problems": problems}

    @api.model
    def _list_queued_runs(self, project=None, cursor=None, limit=PAGE_SIZE):
        """The queue in the order in which runs are claimed within a project, with reasons."""
        domain = Domain("status", "=", "queued") & self._in_project("project_id", project)
        last = self._read_cursor("queued", cursor)
        if last:
            domain &= Domain.custom(to_sql=lambda model, alias, query: self._behind(alias, last))
        runs = self.env["ops.run"].search(
            domain, order="priority desc, available_at, id", limit=limit + 1
        )
        page = runs[:limit]
        return {
            "runs": [
                {
                    "run_id": row["id"],
                    **{
                        name: row[name]
                        for name in (
                            *("project_id", "project", "workflow_id", "workflow", "run_number"),
                            *("workflow_type", "status", "created_at", "claimed_by", "claimed_at"),
                        )
                    },
                    "waiting_for": run.waiting_for,
                }
                for run, row in zip(page, self._rows("runs", page.ids), strict=True)
            ],
            "next_cursor": self._make_cursor("queued", page.ids, len(runs) > limit),
        }

    @api.model
    def _list_projects(self, status="active", cursor=None, limit=PAGE_SIZE):
        """Projects of which one is a member; a platform administrator sees all."""
        domain = Domain("active", "=", status == "active")
        return self._page("projects", domain, cursor, limit)

    @api.model
    def _list_workflows(
        self, project=None, workflow_type=None, enabled=None, cursor=None, limit=PAGE_SIZE
    ):
        """Workflows of the projects that one sees."""
        domain = self._in_project("project_id", project)
        if workflow_type:
            domain &= Domain("workflow_type", "=", workflow_type)
        if enabled is not None:
            domain &= Domain("enabled", "=", enabled)
        return self._page("workflows", domain, cursor, limit)

    @api.model
    def _get_run(self, run_id, artifacts=False):
        """One run with its snapshot."""
        run = self._visible("ops.run", run_id)
        row = self._rows("runs", run.ids)[0]
        if artifacts:
            row["artifacts"] = self._rows("run_artifacts", sorted(run.artifact_ids.ids))
        return row

    @api.model
    def _list_runs(self, project=None, status=None, cursor=None, limit=PAGE_SIZE, **values):
        """The newest first, without their snapshots."""
        domain = self._in_project("project_id", project)
        if status:
            domain &= Domain("status", "in", status)
        domain &= Domain.AND(Domain(name, "=", value) for name, value in values.items())
        answer = self._page("runs", domain, cursor, limit, newest_first=True)
        for row in answer["runs"]:
            del row["snapshot"]
        return answer

    @api.model
    def _read_run_logs(self, run_id, after=0, limit=LOG_PAGE_SIZE, levels=None, step=None):
        """Lines of a run behind one that was seen, and whether there will be more."""
        return self._visible("ops.run", run_id).read_log(after, limit, levels=levels, step=step)

    @api.model
    def _search_run_logs(
        self, query, run_id=None, project=None, cursor=None, limit=PAGE_SIZE, **filters
    ):
        """Lines that match the query, of the newest run first. A page may be short, or empty, and
        yet not be the last: a search looks at so many lines at once."""
        if run_id:
            filters["run_id"] = self._visible("ops.run", run_id).id
        if project:
            filters["project_id"] = self._find_project(project).id
        last = self._read_cursor("lines", cursor, size=2)
        if last:
            filters["after_run_id"], filters["after"] = last
        rows = self.env["ops.kernel"]._rows("search_run_logs", query=query, limit=limit, **filters)
        stop = rows.pop() if rows and rows[-1]["problem"] else None
        if stop and not stop["run_id"]:
            raise self._invalid("query", stop["problem"])
        end = stop or (rows[-1] if len(rows) == limit else None)
        for row in rows:
            del row["problem"]
        return {
            "lines": rows,
            "next_cursor": self._encode_cursor("lines", end["run_id"], end["seq"]) if end else None,
        }

    @api.model
    def _list_artifacts(self, run_id, cursor=None, limit=PAGE_SIZE):
        """The artifacts of a run."""
        run = self._visible("ops.run", run_id)
        answer = self._page("run_artifacts", Domain("run_id", "=", run.id), cursor, limit)
        return {"artifacts": answer["run_artifacts"], "next_cursor": answer["next_cursor"]}

    @api.model
    def _artifact_url(self, artifact_id):
        """Where to GET the bytes, with the same key, and what they must be."""
        artifact = self._visible("ops.run.artifact", artifact_id)
        artifact._check_may_download()
        row = self._rows("run_artifacts", artifact.ids)[0]
        base_url = self.env.context.get("ops_base_url") or self.get_base_url()
        return {
            "url": base_url + row["path"],
            **{
                name: row[name]
                for name in ("path", "artifact_key", "content_type", "size_bytes", "checksum")
            },
        }

    # -- finding ------------------------------------------------------------------------

    def _visible(self, model, record_id):
        """The record, when the current user may see it.

        :raise AccessError: the same when there is none
        """
        record = self.env[model].search([("id", "=", record_id)])
        if not record:
            raise AccessError(self.env._("There is no such record, or it is not yours to see."))
        return record

    def _find_project(self, slug):
        project = self.env["ops.project"].search([("slug", "=", slug)])
        if not project:
            raise AccessError(self.env._("There is no such record, or it is not yours to see."))
        return project

    def _in_project(self, field, slug):
        return Domain(field, "=", self._find_project(slug).id) if slug else Domain.TRUE

    def _find_workflow(self, slug, workflow_type, name):
        if not slug or not workflow_type:
            raise self._invalid(
                "workflow_id", "workflow_id, or project and workflow_type, must name the workflow."
            )
        project = self._find_project(slug)
        domain = [("project_id", "=", project.id), ("workflow_type", "=", workflow_type)]
        found = self.env["ops.workflow"].search(domain)
        if name:
            found = found.filtered(lambda workflow: workflow.name == name)
        enabled = found.filtered("enabled")
        # A disabled one only when there is no other: the kernel then says that it is disabled.
        found = enabled or found
        if not found:
            named = f" named {name!r}" if name else ""
            raise self._invalid(
                "workflow" if name else "workflow_type",
                f"Project {slug} has no {workflow_type} workflow{named}.",
            )
        if len(found) > 1:
            names = ", ".join(found.mapped("name"))
            raise self._invalid(
                "workflow",
                f"Project {slug} has several {workflow_type} workflows; workflow must be one of:"
                f" {names}.",
            )
        return found

    @staticmethod
    def _invalid(field, sentence):
        return KernelRefusal(
            {"success": False, "code": "invalid_input", "error": sentence, "field": field}
        )

    # -- pages --------------------------------------------------------------------------

    def _page(self, view, domain, cursor, limit, newest_first=False):
        """A page of a view's rows, by id: rows that come meanwhile shift nothing."""
        last = self._read_cursor(view, cursor)
        if last:
            domain &= Domain("id", "<" if newest_first else ">", last)
        records = self.env[VIEWS[view][0]].search(
            domain, order="id desc" if newest_first else "id", limit=limit + 1
        )
        ids = records.ids[:limit]
        return {
            view: self._rows(view, ids),
            "next_cursor": self._make_cursor(view, ids, len(records) > limit),
        }

    def _rows(self, view, ids):
        """Rows of a view in the order of the ids, which the caller has found by the rules."""
        _model, columns, joins = VIEWS[view]
        self.env.flush_all()
        rows = self.env.execute_query_dict(
            SQL(
                "SELECT %s FROM %s v %s WHERE v.id = ANY(%s)",
                SQL(columns),
                SQL.identifier(self.env["ops.kernel"]._get_schema(), view),
                SQL(joins),
                list(ids),
            )
        )
        row_by_id = {row["id"]: row for row in rows}
        return [row_by_id[record_id] for record_id in ids]

    @staticmethod
    def _behind(alias, run_id):
        """Condition: comes after that run in the order of the queue."""
        return SQL(
            "(-%(a)s, %(b)s, %(c)s) > ("
            "SELECT -r.priority, r.available_at, r.id FROM ops_run r WHERE r.id = %(run_id)s)",
            a=SQL.identifier(alias, "priority"),
            b=SQL.identifier(alias, "available_at"),
            c=SQL.identifier(alias, "id"),
            run_id=run_id,
        )

    @staticmethod
    def _make_cursor(kind, ids, is_more):
        return OpsApi._encode_cursor(kind, ids[-1]) if is_more else None

    @staticmethod
    def _encode_cursor(kind, *place):
        return base64.urlsafe_b64encode(json.dumps([kind, *place]).encode()).decode()

    def _read_cursor(self, kind, cursor, size=1):
        """What a page begins behind: an id, or ``size`` numbers; None for the first page."""
        if not cursor:
            return None
        try:
            given_kind, *place = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        except (ValueError, TypeError, binascii.Error, RecursionError):
            given_kind, place = None, []
        if (
            given_kind != kind
            or len(place) != size
            or not all(type(number) is int and 0 <= number < 2**31 for number in place)
        ):
            raise self._invalid("cursor", "cursor is not one that this method has answered.")
        return place[0] if size == 1 else place
