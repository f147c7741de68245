"""The event trail for auditors: ``GET /ops/audit/export?project=<slug>``, for browsers and for
API keys. JSON Lines, described in docs/audit.md, streamed as they are read."""

from odoo import http
from odoo.http import request
from odoo.modules.registry import Registry

from ..models.audit_export import export_bytes
from .dispatcher import answer_get, get_route
from .protocol import RpcError

FORBIDDEN = "There is no such project, or your role does not allow that."


class OpsAudit(http.Controller):
    @get_route("/ops/audit/export")
    def export(self, project=None, **_query):
        """Of one project, for its administrators and owners; without ``project`` of all, for
        platform administrators."""
        return answer_get(lambda: _export(_find(project) if project else _all_projects()))


def _find(slug):
    """The project as (id, slug); what is not there and what is not allowed is refused alike."""
    if not request.env.user.has_group("odooops.group_user"):
        raise RpcError("forbidden", FORBIDDEN)
    projects = request.env["ops.project"].with_context(active_test=False)
    found = projects.search([("slug", "=", slug)])
    if not found or not found._may("audit_project"):
        raise RpcError("forbidden", FORBIDDEN)
    return found.id, found.slug


def _all_projects():
    if not request.env.user.has_group("odooops.group_platform_admin"):
        raise RpcError(
            "forbidden",
            "Only platform administrators may export all projects; name one: ?project=<slug>.",
        )


def _export(project):
    database = request.env.cr.dbname
    schema = request.env["ops.kernel"]._get_schema()
    database_uuid = request.env["ir.config_parameter"].sudo().get_param("database.uuid")

    def stream():
        # The request's cursor is closed when the first byte leaves.
        with Registry(database).cursor() as cr:
            yield from export_bytes(cr, schema, database_uuid, project)

    name = project[1] if project else "all"
    return http.Response(
        () if request.httprequest.method == "HEAD" else stream(),
        headers=[
            ("Content-Type", "application/x-ndjson; charset=utf-8"),
            ("Content-Disposition", f'attachment; filename="audit-{name}.jsonl"'),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ],
        direct_passthrough=True,
    )
