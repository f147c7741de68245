"""Who belongs to a project, and in which role."""

from odoo import api, fields, models
from odoo.exceptions import ValidationError

from .roles import ROLES


class OpsProjectMembership(models.Model):
    _name = "ops.project.membership"
    _description = "Project membership"
    _order = "project_id, role, id"
    _rec_name = "user_id"

    project_id = fields.Many2one("ops.project", required=True, ondelete="cascade", index=True)
    user_id = fields.Many2one("res.users", required=True, ondelete="cascade", index=True)
    role = fields.Selection(ROLES, required=True, default="developer")

    _project_user_uniq = models.Constraint(
        "UNIQUE (project_id, user_id)", "This user is a member of the project already."
    )

    @api.model_create_multi
    def create(self, vals_list):
        memberships = super().create(vals_list)
        # Afterwards, because defaults may come from the context. Nobody can have raised himself:
        # a second membership of the same user is refused, and a stranger may create none.
        for membership in memberships:
            self._check_grant(membership.project_id, membership.role)
        return memberships

    def write(self, vals):
        # Judged before the change: whoever makes himself owner would be one afterwards.
        for membership in self:
            self._check_grant(membership.project_id, membership.role)
            project_id = vals.get("project_id", membership.project_id.id)
            self._check_grant(
                self.env["ops.project"].browse(project_id), vals.get("role", membership.role)
            )
        projects = self.project_id
        result = super().write(vals)
        (projects | self.project_id)._check_owner()
        return result

    def unlink(self):
        for membership in self:
            self._check_grant(membership.project_id, membership.role)
        projects = self.project_id
        result = super().unlink()
        projects.exists()._check_owner()
        return result

    @api.model
    def _check_grant(self, project, role):
        """Members are managed by administrators, owners by owners only."""
        project._check_may("manage_owners" if role == "owner" else "manage_members")


class OpsProject(models.Model):
    _inherit = "ops.project"

    def _check_owner(self):
        """A project always keeps at least one owner."""
        for project in self.sudo():
            if "owner" not in project.membership_ids.mapped("role"):
                raise ValidationError(
                    self.env._("%s must keep at least one owner.", project.display_name)
                )
