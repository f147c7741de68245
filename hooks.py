"""What the addon must undo itself when it is uninstalled.

Odoo drops the tables of the models; the kernel's own schema and its two private
tables are unknown to the ORM and go here, while the tables still exist.
"""


def uninstall_hook(env):
    """Remove the kernel: its schema (functions, views, sequences) and private tables."""
    env["ops.kernel"]._remove()
