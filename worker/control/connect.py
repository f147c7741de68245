"""Which door a worker goes through."""

from __future__ import annotations

from ..settings import Settings
from .base import ControlPlane
from .rpc import RpcControlPlane, TokenFile
from .sql import MAX_CONNECTIONS, SqlControlPlane


def connect(settings: Settings, connections: int = MAX_CONNECTIONS) -> ControlPlane:
    """The control plane by the settings: over HTTP when they name an address, else over SQL.

    :param connections: so many to the database at the same time, at most
    :raises ControlPlaneError:
    """
    if settings.control_url:
        return RpcControlPlane(
            settings.control_url,
            TokenFile(settings.token_file),
            settings.control_database,
            settings.control_ca,
            settings.s3_ca_bundle,
        )
    return SqlControlPlane(settings.dsn, connections)
