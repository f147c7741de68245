"""The methods of the JSON-RPC door, as data: their names and what they take.

``PEOPLE``: for members of projects and their scripts; each is a method ``_<name>`` of
``ops.api``, in the request's transaction, by the rights of the key's user.

``WORKERS``: functions of the kernel under the same name, each in a READ COMMITTED transaction
of its own. They act on every project, so only a worker token or a platform administrator's key
may call them.

``UPLOADS``: for workers, too; methods of Odoo's that the kernel does not have.

``TOKENS``: how a host gets and keeps its worker token.
"""

from ..models.ops_run import TRIGGERS
from ..models.ops_workflow import WORKFLOW_TYPES
from ..models.statuses import STATUSES
from ..worker.storage.parts import MAX_PARTS
from .parameters import (
    INT4_MAX,
    INT8_MAX,
    boolean,
    integer,
    json_object,
    list_of,
    log_line,
    nullable,
    one_of,
    one_or_more_of,
    optional,
    required,
    sha256_text,
    text,
    timestamp,
    upload_part,
    uuid_text,
)

ID = integer()
# PostgreSQL's largest jsonb string is far beyond; the kernel names its own, smaller limits.
MESSAGE = text(65536, minimum=0)
SLUG = text(200)
WORKFLOW_TYPE = one_of(*(name for name, _label in WORKFLOW_TYPES))
WORKER_ID = text(64)
LABELS = list_of(text(100), 100)
EPOCH = integer(0)
LEVELS = one_or_more_of("debug", "info", "warn", "error")

PAGE = {"cursor": optional(text(200, minimum=0)), "limit": optional(integer(1, 500))}
RUN = {"run_id": required(ID)}
HELD_RUN = {**RUN, "epoch": required(EPOCH)}
HOLDER = {"worker_id": optional(WORKER_ID), "epoch": optional(EPOCH)}

ARTIFACT = {**HELD_RUN, "artifact_key": required(text(512))}
CHECKSUM = sha256_text
UPLOAD_ID = text(1000)

PEOPLE = {
    "queue_run": {
        "workflow_id": optional(ID),
        "project": optional(SLUG),
        "workflow_type": optional(WORKFLOW_TYPE),
        "workflow": optional(text(1000)),
        "git_ref": optional(text(255)),
        "git_commit": optional(text(64)),
        "environment": optional(text(100)),
        "idempotency_key": optional(text(200)),
        "priority": optional(integer(-1000, 1000)),
        "available_at": optional(timestamp),
        "metadata": optional(json_object),
    },
    "cancel_run": {**RUN, "reason": optional(text(1000, minimum=0))},
    "retry_run": RUN,
    "explain_wait": RUN,
    "verify_events": RUN,
    "list_queued_runs": {"project": optional(SLUG), **PAGE},
    "list_projects": {"status": optional(one_of("active", "archived")), **PAGE},
    "list_workflows": {
        "project": optional(SLUG),
        "workflow_type": optional(WORKFLOW_TYPE),
        "enabled": optional(boolean),
        **PAGE,
    },
    "get_run": {**RUN, "artifacts": optional(boolean)},
    "list_runs": {
        "project": optional(SLUG),
        "workflow_id": optional(ID),
        "workflow_type": optional(WORKFLOW_TYPE),
        "status": optional(one_or_more_of(*(name for name, _label in STATUSES))),
        "trigger": optional(one_of(*(name for name, _label in TRIGGERS))),
        "git_ref": optional(text(255)),
        "git_commit": optional(text(64)),
        **PAGE,
    },
    "read_run_logs": {
        **RUN,
        "after": optional(integer(0)),
        "limit": optional(integer(1, 1000)),
        "levels": optional(LEVELS),
        "step": optional(text(200)),
    },
    "search_run_logs": {
        "query": required(text(1000, minimum=0)),
        "run_id": optional(ID),
        "project": optional(SLUG),
        "levels": optional(LEVELS),
        "step": optional(text(200)),
        "since": optional(timestamp),
        "until": optional(timestamp),
        **PAGE,
    },
    "list_artifacts": {**RUN, **PAGE},
    "artifact_url": {"artifact_id": required(ID)},
}

WORKERS = {
    "control_plane_namespace": {},
    "register_worker": {
        "worker_id": required(WORKER_ID),
        "host": optional(text(255)),
        "labels": optional(LABELS),
        "capacity": optional(integer(1, 1000)),
        "version": optional(text(100)),
        "kind": optional(one_of("daemon", "scheduled")),
    },
    "deregister_worker": {"worker_id": required(WORKER_ID)},
    "set_worker_state": {
        "worker_id": required(WORKER_ID),
        "state": required(one_of("active", "draining", "stopped")),
    },
    "heartbeat": {
        "worker_id": required(WORKER_ID),
        "runs": optional(list_of(json_object, 1000)),
    },
    "claim_next_run": {
        "worker_id": required(WORKER_ID),
        "labels": optional(LABELS),
        "claim_token": optional(uuid_text),
    },
    "start_workflow_run": {
        **RUN,
        "worker_id": required(WORKER_ID),
        "epoch": optional(EPOCH),
    },
    "append_run_log": {
        **RUN,
        "level": required(one_of("debug", "info", "warn", "error")),
        "message": required(MESSAGE),
        "metadata": optional(json_object),
        **HOLDER,
    },
    "append_run_logs": {
        **HELD_RUN,
        "first_seq": required(integer()),
        "lines": required(list_of(log_line, 1000)),
    },
    "add_run_event": {
        **HELD_RUN,
        "event_type": required(one_of("error", "warning", "info")),
        "message": required(text(4096)),
        "payload": optional(json_object),
    },
    "add_run_artifact": {
        **RUN,
        "artifact_key": required(text(512)),
        "artifact_url": required(text(2000)),
        "content_type": nullable(text(255)),
        "size_bytes": required(integer(0, INT8_MAX)),
        "checksum": required(text(64)),
        "expires_at": optional(timestamp),
        "metadata": optional(json_object),
        "epoch": optional(EPOCH),
    },
    "complete_workflow_run": {
        **RUN,
        "exit_code": nullable(integer(-INT4_MAX, INT4_MAX)),
        "error_message": optional(MESSAGE),
        **HOLDER,
        "error_code": optional(text(64, minimum=0)),
        "metadata": optional(json_object),
    },
    "run_secrets": {**HELD_RUN, "worker_id": required(WORKER_ID)},
    "release_run": {**RUN, **HOLDER},
    "reap_lost_runs": {},
    "index_run_logs": {},
    "list_leases": {},
}
# Uploads of workers without a store of their own, in this order: each is a method of the model
# ops.artifact.upload.
UPLOADS = {
    "begin_artifact_upload": {
        **ARTIFACT,
        "content_type": optional(text(255)),
        "size_bytes": optional(integer(0, INT8_MAX)),
        "checksum": optional(CHECKSUM),
    },
    "sign_artifact_part": {
        **ARTIFACT,
        "upload_id": required(UPLOAD_ID),
        "part_number": required(integer(1, MAX_PARTS)),
        "size_bytes": required(integer(1, INT8_MAX)),
        "checksum": required(CHECKSUM),
    },
    "complete_artifact_upload": {
        **ARTIFACT,
        "size_bytes": required(integer(0, INT8_MAX)),
        "checksum": required(CHECKSUM),
        "upload_id": optional(UPLOAD_ID),
        "parts": optional(list_of(upload_part, MAX_PARTS)),
        "tag": optional(text(100, minimum=0)),
    },
    "abort_artifact_upload": {**ARTIFACT, "upload_id": required(UPLOAD_ID)},
}
# What a host does with its token, see models/ops_worker_token.py: method of the model, kind of the
# token, parameters.
TOKENS = {
    "exchange_registration_token": ("_exchange", "registration", {"name": required(text(255))}),
    "renew_worker_token": ("_renew", "worker", {}),
}
# Methods with text about a run, in which the secrets of the run are masked.
MASKED = {
    *("append_run_log", "append_run_logs"),
    *("add_run_event", "add_run_artifact", "complete_workflow_run"),
}
# Functions of the kernel that return rows: the name under which the rows are answered.
ROWS = {"list_leases": "leases"}
