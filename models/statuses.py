"""The states of a run, in the order of its life; the kernel holds the ways between them."""

STATUSES = [
    ("queued", "Queued"),
    ("claimed", "Claimed"),
    ("running", "Running"),
    ("succeeded", "Succeeded"),
    ("failed", "Failed"),
    ("canceled", "Canceled"),
]
TERMINAL = frozenset({"succeeded", "failed", "canceled"})
