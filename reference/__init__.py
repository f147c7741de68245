"""References in `docs/` made from the code: settings, methods, codes.

Runs where Odoo and the addon can be imported; needs no database.
"""
