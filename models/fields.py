"""Column types that PostgreSQL has and Odoo's fields do not offer."""

from odoo import fields


class BigInteger(fields.Integer):
    """An integer of 64 bits: sizes in bytes pass 2 GiB, which int4 cannot hold."""

    _column_type = ("int8", "int8")


class LastJson(fields.Json):
    """JSON that is written once, as the last column of its table.

    For a new version of a row PostgreSQL logs the bytes from the first to the last that changed.
    Odoo puts JSON before times, so each update of a time would log it again. A table that is there
    already keeps its order, and works as well.
    """

    @property
    def column_order(self):
        return 100  # behind all of odoo.tools.sql.SQL_ORDER_BY_TYPE, which ends at 16
