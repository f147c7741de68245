"""Who may do what in a project: the role matrix, once, as data.

Record rules, the checks in the models and their tests are made from this table. Deny by
default: what is not listed here nobody but a platform administrator may do.
"""

from ..worker import workflow_schema

ROLES = [
    ("viewer", "Viewer"),
    ("developer", "Developer"),
    ("admin", "Administrator"),
    ("owner", "Owner"),
]

EVERYBODY = frozenset({"viewer", "developer", "admin", "owner"})
CONTRIBUTORS = frozenset({"developer", "admin", "owner"})
MANAGERS = frozenset({"admin", "owner"})
OWNERS = frozenset({"owner"})

# Workflow types that change a running deployment: developers may start them, not write them.
GUARDED_TYPES = frozenset(workflow_schema.GUARDED_TYPES)

# An artifact of one of these types may hold a whole database.
SENSITIVE_TYPES = frozenset({"backup"})

MATRIX = {
    "read": EVERYBODY,
    "download_artifact": EVERYBODY,
    "download_sensitive_artifact": MANAGERS,
    "edit_workflow": CONTRIBUTORS,
    "edit_guarded_workflow": MANAGERS,
    "queue_run": CONTRIBUTORS,
    "cancel_own_run": CONTRIBUTORS,
    "cancel_run": MANAGERS,
    "audit_project": MANAGERS,
    "manage_project": MANAGERS,
    "manage_members": MANAGERS,
    "manage_secrets": MANAGERS,
    "manage_owners": OWNERS,
    "archive_project": OWNERS,
}
