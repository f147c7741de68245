"""Which Odoo user a PostgreSQL login role stands for: the identities of the SQL door.

Row-level security and the kernel's functions look a login up here (``acting_user_id`` in
``sql/25_identity.sql``). A login that is not registered sees no row.
"""

from odoo import api, fields, models
from odoo.exceptions import ValidationError
from odoo.tools import SQL

from .sql_roles import SQL_ROLES

MAX_NAME_BYTES = 63  # of a name in PostgreSQL


class OpsSqlLogin(models.Model):
    _name = "ops.sql.login"
    _description = "SQL login"
    _order = "role_name"
    _rec_name = "role_name"

    role_name = fields.Char(
        "Login Role", required=True, help="As PostgreSQL spells it: select session_user."
    )
    user_id = fields.Many2one(
        "res.users",
        "Acts As",
        ondelete="cascade",
        index=True,
        help="The login sees the projects of this user and may do there what the user may.",
    )
    gateway = fields.Boolean(
        help="A service that authenticates people itself, as PostgREST does, and names the user of"
        " each request in request.jwt.claims. It can speak for every user."
    )
    group_roles = fields.Char(
        compute="_compute_group_roles", help="Roles of OdooOps that PostgreSQL has granted it."
    )

    _role_name_uniq = models.Constraint(
        "UNIQUE (role_name)", "This login role is registered already."
    )
    _one_identity = models.Constraint(
        "CHECK (coalesce(gateway, false) = (user_id IS NULL))",
        "A login acts as one user, or is a gateway.",
    )

    @api.constrains("role_name")
    def _check_role_name(self):
        owner = self.env.execute_query(SQL("SELECT session_user::text"))[0][0]
        for login in self:
            if login.role_name == owner:
                raise ValidationError(
                    self.env._("%s is Odoo's own role: it sees everything anyway.", owner)
                )
            if len(login.role_name.encode()) > MAX_NAME_BYTES:
                raise ValidationError(
                    self.env._("A role's name has at most %s bytes.", MAX_NAME_BYTES)
                )

    @api.onchange("gateway")
    def _onchange_gateway(self):
        if self.gateway:
            self.user_id = False

    @api.depends("role_name")
    def _compute_group_roles(self):
        rows = self.env.execute_query(
            SQL(
                "SELECT login.rolname::text, string_agg(r.rolname, ', ' ORDER BY r.rolname)"
                " FROM pg_roles login LEFT JOIN pg_roles r ON r.rolname = ANY(%s)"
                " AND pg_has_role(login.oid, r.oid, 'MEMBER')"
                " WHERE login.rolname = ANY(%s) GROUP BY 1",
                [role.name for role in SQL_ROLES],
                self.mapped("role_name"),
            )
        )
        roles_by_login = {login: roles or self.env._("none granted") for login, roles in rows}
        for login in self:
            login.group_roles = roles_by_login.get(
                login.role_name, self.env._("no such role in PostgreSQL")
            )
