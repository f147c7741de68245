"""The control plane as one run sees it: nothing that is sent about the run holds a secret.

Output is masked where it is read; this is the last door, for everything the worker itself says:
messages, events, metadata, names of files. The kernel cannot do it, because it has only sealed
values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..masking import Masker
from .base import Artifact, ControlPlane, JsonRows, Refused


class MaskedControlPlane:
    """``control`` with ``masker`` before it; calls that carry no text pass as they are."""

    def __init__(self, control: ControlPlane, masker: Masker) -> None:
        self._control = control
        self._masker = masker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)

    def append_run_logs(
        self, run_id: int, epoch: int, first_seq: int, lines: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any] | Refused:
        # In JSON a value stands as one of the forms that the masker knows.
        text = lines.to_json() if isinstance(lines, JsonRows) else json.dumps(list(lines))
        if self._masker.may_hold(text):
            lines = self._masker.mask_json(list(lines))
        return self._control.append_run_logs(run_id, epoch, first_seq, lines)

    def add_run_event(
        self, run_id: int, epoch: int, event_type: str, message: str, payload: Mapping[str, Any]
    ) -> Mapping[str, Any] | Refused:
        return self._control.add_run_event(
            run_id,
            epoch,
            event_type,
            self._masker.mask(message),
            self._masker.mask_json(dict(payload)),
        )

    def add_run_artifact(
        self, run_id: int, epoch: int, artifact: Artifact
    ) -> Mapping[str, Any] | Refused:
        for text in (artifact.key, artifact.url):
            if self._masker.mask(text) != text:
                return Refused("invalid_input", "The name of the file holds a secret.")
        artifact = dataclasses.replace(
            artifact,
            content_type=self._masker.mask(artifact.content_type),
            metadata=self._masker.mask_json(dict(artifact.metadata)),
        )
        return self._control.add_run_artifact(run_id, epoch, artifact)

    def complete_workflow_run(
        self,
        run_id: int,
        worker_id: str,
        epoch: int,
        exit_code: int | None,
        error_code: str | None,
        error_message: str | None,
        metadata: Mapping[str, Any],
    ) -> Mapping[str, Any] | Refused:
        return self._control.complete_workflow_run(
            run_id,
            worker_id,
            epoch,
            exit_code,
            error_code,
            error_message and self._masker.mask(error_message),
            self._masker.mask_json(dict(metadata)),
        )
