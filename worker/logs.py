"""From raw output to log lines (being written)."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class LogLine:
    """One line of the run's log as the control plane stores it.

    ``timestamp`` is seconds since the epoch (microsecond resolution), ``level`` debug, info, warn or error, ``message``
    holds no line end, no NUL and no colour codes; ``metadata`` has step, stream (stdout, stderr), logger, continued.
    """

    timestamp: float
    level: str
    message: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
