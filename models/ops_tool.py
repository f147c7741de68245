"""The tool registry: the images workflows run in, by name and version."""

from odoo import api, fields, models
from odoo.exceptions import ValidationError

from ..worker.executors.base import ExecutorError, Limits
from ..worker.executors.choice import read_tool
from .json_text import from_text, to_text


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
    config_text = fields.Text(
        "Configuration",
        compute="_compute_config_text",
        inverse="_inverse_config_text",
        help="JSON, see docs/tools.md: limits of a container, the command that starts the image's"
        " Odoo, the credentials of its registry.",
    )
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

    @api.depends("config")
    def _compute_config_text(self):
        for tool in self:
            tool.config_text = to_text(tool.config)

    def _inverse_config_text(self):
        for tool in self:
            tool.config = from_text(self.env, tool.config_text)

    @api.constrains("config")
    def _check_config(self):
        """Refuse what a worker would refuse, by the worker's own rules."""
        for tool in self:
            row = {name: tool[name] for name in ("tool_name", "version", "docker_image", "config")}
            try:
                read_tool(row, Limits())
            except ExecutorError as error:
                raise ValidationError(str(error)) from error

    @api.depends("tool_name", "version")
    def _compute_display_name(self):
        for tool in self:
            tool.display_name = f"{tool.tool_name}:{tool.version}"
