"""The tool registry: the images workflows run in, by name and version."""

from odoo import api, fields, models


class OpsTool(models.Model):
    _name = "ops.tool"
    _description = "Tool"
    _order = "tool_name, version desc"

    tool_name = fields.Char(required=True, index=True)
    version = fields.Char(required=True)
    docker_image = fields.Char(required=True, help="Repository and tag, as docker pull takes them.")
    digest = fields.Char(
        help="sha256:… of the image. A run records the digest registered when it was queued."
    )
    config = fields.Json()
    active = fields.Boolean(default=True)

    _tool_version_uniq = models.Constraint(
        "UNIQUE (tool_name, version)", "This version of the tool is registered already."
    )
    _tool_name_format = models.Constraint(
        "CHECK (tool_name ~ '^[a-z0-9][a-z0-9._-]*$')",
        "A tool's name consists of lower-case letters, digits, dots, dashes and underscores.",
    )
    _digest_format = models.Constraint(
        "CHECK (digest IS NULL OR digest ~ '^sha256:[0-9a-f]{64}$')",
        "A digest reads sha256: and 64 hexadecimal digits.",
    )

    @api.depends("tool_name", "version")
    def _compute_display_name(self):
        for tool in self:
            tool.display_name = f"{tool.tool_name}:{tool.version}"
