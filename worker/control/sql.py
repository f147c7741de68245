"""The control plane over a PostgreSQL connection of one's own.

Every call is one statement in one READ COMMITTED transaction. (Odoo's own cursors are REPEATABLE
READ: under it a claim fails whenever another worker has just changed the row.)
"""

from __future__ import annotations

import contextlib
import logging
import random
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extras import Json

from .base import ControlPlaneError, ControlPlaneUnavailable, JsonRows, Refused
from .calls import KernelCalls

_logger = logging.getLogger(__name__)

#: The comment on the kernel's schema begins so; its name may be ops or odooops.
SCHEMA_COMMENT = "OdooOps kernel"
#: Pauses in seconds before each further attempt of one call; afterwards the control plane counts as
#: away.
RETRY_PAUSES = (0.05, 0.25, 1.0)
STATEMENT_TIMEOUT_MS = 20_000
MAX_CONNECTIONS = 6

_CONNECTION_OPTIONS = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "odooops worker",
}
#: The statement had no effect and may succeed when it is made again.
_TRANSIENT = (
    psycopg2.errors.SerializationFailure,
    psycopg2.errors.DeadlockDetected,
    psycopg2.errors.LockNotAvailable,
    psycopg2.errors.QueryCanceled,
    psycopg2.errors.TooManyConnections,
    psycopg2.errors.CannotConnectNow,
)
#: The connection broke: whether the statement had an effect is unknown.
_BROKEN = (psycopg2.OperationalError, psycopg2.InterfaceError)


class SqlControlPlane(KernelCalls):
    """``dsn`` is a libpq connection string; what it leaves out comes from the PG* variables.

    ``connections``: so many calls at the same time; more wait.
    """

    def __init__(self, dsn: str, connections: int = MAX_CONNECTIONS) -> None:
        self._dsn = dsn
        self._idle: list[psycopg2.extensions.connection] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(connections)
        self._schema: str | None = None
        self._closed = False

    def prepare(self) -> None:
        # A new connection's server process first reads its catalogs and compiles what it is asked:
        # with a run that is not there.
        self.start_workflow_run(0, "nobody", 0)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connect(self) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(self._dsn, **_CONNECTION_OPTIONS)
        connection.set_session(isolation_level="READ COMMITTED", autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = %s", (STATEMENT_TIMEOUT_MS,))
        return connection

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg2.extensions.connection]:
        """Borrow a connection; one on which an error broke out is thrown away."""
        with self._slots:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            with self._lock:
                if not self._closed:
                    self._idle.append(connection)
                    return
            connection.close()

    def _run(
        self, work: Callable[[psycopg2.extensions.cursor], Any], idempotent: bool = True
    ) -> Any:
        """Do ``work`` with a cursor; again when the connection was lost, if that cannot do harm."""
        problem: psycopg2.Error | None = None
        for pause in (*RETRY_PAUSES, None):
            connected = False
            try:
                with self._connection() as connection:
                    connected = True
                    with connection.cursor() as cursor:
                        return work(cursor)
            except _TRANSIENT as error:
                problem = error
            except _BROKEN as error:
                problem = error
                self._drop_idle()
                if connected and not idempotent:
                    break
            except psycopg2.Error as error:
                raise ControlPlaneError(_first_line(error)) from error
            if pause is None:
                break
            time.sleep(pause * random.uniform(0.8, 1.2))
        raise ControlPlaneUnavailable(
            f"The control plane's database cannot be reached: {_first_line(problem)}"
        ) from problem

    def _drop_idle(self) -> None:
        """One broken connection mostly means that the server restarted: so are the others."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _schema_name(self, cursor: psycopg2.extensions.cursor) -> str:
        if self._schema is None:
            cursor.execute(
                "SELECT nspname FROM pg_namespace"
                " WHERE obj_description(oid, 'pg_namespace') LIKE %s ORDER BY nspname",
                (SCHEMA_COMMENT + "%",),
            )
            row = cursor.fetchone()
            if row is None:
                raise ControlPlaneError(
                    "This database has no OdooOps kernel. Is the addon odooops installed in it?"
                )
            self._schema = row[0]
        return self._schema

    def _rows(self, function: str, parameters: Mapping[str, Any], idempotent: bool) -> list[tuple]:
        def work(cursor: psycopg2.extensions.cursor) -> list[tuple]:
            statement = sql.SQL("SELECT * FROM {}({})").format(
                sql.Identifier(self._schema_name(cursor), function),
                sql.SQL(", ").join(
                    sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
                    for name in parameters
                ),
            )
            try:
                cursor.execute(statement, parameters)
            except (psycopg2.errors.UndefinedFunction, psycopg2.errors.InvalidSchemaName):
                self._schema = None
                raise
            return cursor.fetchall()

        return self._run(work, idempotent)

    def _call(self, function, idempotent=True, **parameters):
        named = {f"p_{name}": _adapt(name, value) for name, value in parameters.items()}
        reply = self._rows(function, named, idempotent)[0][0]
        if not reply.get("success"):
            data = {k: v for k, v in reply.items() if k not in ("success", "code", "error")}
            return Refused(str(reply.get("code")), str(reply.get("error")), data)
        return reply

    def _lease_rows(self) -> list[dict[str, Any]]:
        rows = self._rows("list_leases", {}, idempotent=True)
        return [{"run_id": row[0], "epoch": row[1], "worker_id": row[2]} for row in rows]

    def listen(
        self, stop: threading.Event, queue: threading.Event, cancel: threading.Event
    ) -> None:
        wake = {"odooops_queue": queue, "odooops_cancel": cancel}
        pause = 1.0
        while not stop.is_set():
            try:
                with contextlib.closing(self._connect()) as connection:
                    with connection.cursor() as cursor:
                        cursor.execute("LISTEN odooops_queue")
                        cursor.execute("LISTEN odooops_cancel")
                    pause = 1.0
                    # Something may have happened while nobody listened.
                    queue.set()
                    cancel.set()
                    while not stop.is_set():
                        if select.select([connection], [], [], 0.5)[0]:
                            connection.poll()
                            while connection.notifies:
                                wake[connection.notifies.pop(0).channel].set()
            except psycopg2.Error as error:
                _logger.info("Not listening for wake-ups: %s", _first_line(error))
                stop.wait(pause * random.uniform(0.8, 1.2))
                pause = min(30.0, pause * 2)


def _adapt(name: str, value: Any) -> Any:
    """Lists and dicts travel as jsonb, but for the one text[]."""
    if isinstance(value, JsonRows):
        return value.to_json()
    return Json(value) if isinstance(value, (dict, list)) and name != "labels" else value


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
