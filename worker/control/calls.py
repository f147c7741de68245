"""What the doors have in common: each method of the contract is one call of a kernel function.

A door says how a function is called; which function, with what, and how its reply is read, stands
here once.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any

from .base import (
    Artifact,
    Claim,
    ControlPlane,
    ControlPlaneError,
    HeartbeatRun,
    JsonRows,
    Lease,
    Refused,
    Started,
)


class KernelCalls(ControlPlane):
    """A control plane that consists of calls."""

    @abc.abstractmethod
    def _call(
        self, function: str, idempotent: bool = True, **parameters: Any
    ) -> Mapping[str, Any] | Refused:
        """The reply of a kernel function; parameters by their names without ``p_``.

        Not ``idempotent``: not repeated when it is unknown whether it had an effect. Raises
        ``ControlPlaneUnavailable`` and ``ControlPlaneError``.
        """

    @abc.abstractmethod
    def _lease_rows(self) -> Iterable[Mapping[str, Any]]:
        """The rows of ``list_leases``, which is no ordinary function."""

    def namespace(self):
        reply = self._call("control_plane_namespace")
        if isinstance(reply, Refused):
            raise ControlPlaneError(f"The control plane refused this worker: {reply.error}")
        return reply["namespace"]

    def register_worker(self, worker_id, host, labels, capacity, version, kind):
        return self._call(
            "register_worker",
            worker_id=worker_id,
            host=host,
            labels=list(labels),
            capacity=capacity,
            version=version,
            kind=kind,
        )

    def set_worker_state(self, worker_id, state):
        return self._call("set_worker_state", worker_id=worker_id, state=state)

    def claim_next_run(self, worker_id, labels, claim_token):
        reply = self._call(
            "claim_next_run", worker_id=worker_id, labels=list(labels), claim_token=claim_token
        )
        if isinstance(reply, Refused):
            return reply
        if reply["run_id"] is None:
            return None
        return Claim(
            run_id=reply["run_id"],
            epoch=reply["epoch"],
            run_number=reply["run_number"],
            project_id=reply["project_id"],
            workflow_id=reply["workflow_id"],
            lease_seconds=reply["lease_seconds"],
            snapshot=reply["snapshot"],
        )

    def start_workflow_run(self, run_id, worker_id, epoch):
        reply = self._call("start_workflow_run", run_id=run_id, worker_id=worker_id, epoch=epoch)
        if isinstance(reply, Refused):
            return reply
        return Started(reply["lease_seconds"], reply["next_seq"], reply["deadline_seconds"])

    def release_run(self, run_id, worker_id, epoch):
        return self._call("release_run", run_id=run_id, worker_id=worker_id, epoch=epoch)

    def heartbeat(self, worker_id, runs):
        pairs = [{"run_id": run_id, "epoch": epoch} for run_id, epoch in runs]
        reply = self._call("heartbeat", worker_id=worker_id, runs=pairs)
        if isinstance(reply, Refused):
            return reply
        return [
            HeartbeatRun(
                run_id=item["run_id"],
                epoch=item["epoch"],
                owned=item["owned"],
                cancel_requested=bool(item.get("cancel_requested")),
                cancel_reason=item.get("cancel_reason"),
                lease_seconds=item.get("lease_seconds") or 0.0,
            )
            for item in reply["runs"]
        ]

    def append_run_logs(self, run_id, epoch, first_seq, lines):
        rows = lines if isinstance(lines, JsonRows) else list(lines)
        return self._call(
            "append_run_logs", run_id=run_id, epoch=epoch, first_seq=first_seq, lines=rows
        )

    def run_secrets(self, run_id, worker_id, epoch):
        return self._call("run_secrets", run_id=run_id, worker_id=worker_id, epoch=epoch)

    def add_run_event(self, run_id, epoch, event_type, message, payload):
        return self._call(
            "add_run_event",
            idempotent=False,
            run_id=run_id,
            epoch=epoch,
            event_type=event_type,
            message=message,
            payload=dict(payload),
        )

    def add_run_artifact(self, run_id: int, epoch: int, artifact: Artifact):
        return self._call(
            "add_run_artifact",
            run_id=run_id,
            artifact_key=artifact.key,
            artifact_url=artifact.url,
            content_type=artifact.content_type,
            size_bytes=artifact.size_bytes,
            checksum=artifact.checksum,
            expires_at=artifact.expires_at,
            metadata=dict(artifact.metadata),
            epoch=epoch,
        )

    def complete_workflow_run(
        self, run_id, worker_id, epoch, exit_code, error_code, error_message, metadata
    ):
        return self._call(
            "complete_workflow_run",
            run_id=run_id,
            exit_code=exit_code,
            error_message=error_message,
            worker_id=worker_id,
            epoch=epoch,
            error_code=error_code,
            metadata=dict(metadata),
        )

    def reap_lost_runs(self):
        return self._call("reap_lost_runs")

    def index_run_logs(self):
        return self._call("index_run_logs")

    def list_leases(self):
        return [Lease(row["run_id"], row["epoch"], row["worker_id"]) for row in self._lease_rows()]
