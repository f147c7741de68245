"""Column types that PostgreSQL has and Odoo's fields do not offer."""

from odoo import fields


class BigInteger(fields.Integer):
    """An integer of 64 bits: sizes in bytes pass 2 GiB, which int4 cannot hold."""

    _column_type = ("int8", "int8")
