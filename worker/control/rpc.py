"""The control plane over JSON-RPC, for a host that reaches Odoo by HTTP only.

Each call is one POST. The worker token is read from a file, so that it stands in no command line,
and written back there when the control plane renews it. What Odoo answers is a result, a refusal,
or neither: a proxy's error page, a restart, no connection. Only the last kind is tried again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from .base import ControlPlaneError, ControlPlaneUnavailable, JsonRows, Refused
from .calls import KernelCalls

_logger = logging.getLogger(__name__)

PATH = "/ops/jsonrpc"
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
#: For what reads a whole file at the other end, and for the sending of a part.
STORE_SECONDS = 300.0
#: Pauses in seconds before each further attempt of one call; afterwards the control plane counts as
#: away.
RETRY_PAUSES = (0.05, 0.5, 2.0)
MAX_CONNECTIONS = 6
#: Nobody can wake us by HTTP: so often it is asked whether a run is to be canceled.
LISTEN_SECONDS = 3.0
#: A token is renewed when so much of its life is left.
RENEW_FRACTION = 1 / 3
#: Answers of proxies and of a server that is starting.
_AWAY = frozenset({429, 500, 502, 503, 504})


class TokenFile:
    """The token of this host: a small JSON file that only its owner may read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any]:
        """Its content: ``token``, ``expires_at``, ``valid_days``.

        Raises ``ControlPlaneError`` with a sentence.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(content["token"], str):
                raise TypeError
        except FileNotFoundError:
            raise ControlPlaneError(
                f"There is no token in {self.path}. Register this host first:"
                " odooops-worker register --control-url URL"
            ) from None
        except OSError as error:
            raise ControlPlaneError(f"{self.path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError):
            raise ControlPlaneError(
                f"{self.path} holds no worker token. Register this host again."
            ) from None
        return content

    def save(self, content: dict[str, Any]) -> None:
        """Replace it in one step, so that a crash leaves the old one or the new one."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".token-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others that use the file from renewing; readers need not wait."""
        # Not the file itself, which is replaced. This one stays: to remove it would part those who
        # wait for it from those who come later.
        name = self.path.with_name(f".{self.path.name}.lock")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class RpcControlPlane(KernelCalls):
    """``url`` is Odoo's address, ``database`` its database where the server has several.

    ``ca`` and ``store_ca`` are files with the authorities of Odoo's certificate and of the artifact
    store's, where they are no public ones.
    """

    def __init__(
        self, url: str, token_file: TokenFile, database: str = "", ca: str = "", store_ca: str = ""
    ) -> None:
        self._base = url.rstrip("/")
        self._url = self._base + PATH
        self._token_file = token_file
        self._credentials = token_file.load()
        self._database = database
        self._lock = threading.Lock()
        self._http = urllib3.PoolManager(
            maxsize=MAX_CONNECTIONS,
            block=True,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            **({"ca_certs": ca} if ca else {}),
        )
        self._stores = urllib3.PoolManager(
            maxsize=MAX_CONNECTIONS,
            retries=False,
            **({"ca_certs": store_ca} if store_ca else {}),
        )

    def close(self) -> None:
        self._http.clear()
        self._stores.clear()

    # -- one call -------------------------------------------------------------------------

    def _call(self, function, idempotent=True, read_seconds=READ_SECONDS, **parameters):
        body = json.dumps(
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": function,
                # What is None is left to its default; how a run ended must be said.
                "params": {
                    name: value
                    for name, value in parameters.items()
                    if value is not None or name == "exit_code"
                },
            },
            default=_plain,
        )
        for pause in (*RETRY_PAUSES, None):
            try:
                response = self._request(
                    "POST", self._url, body.encode(), read_seconds=read_seconds
                )
                if response.status not in _AWAY:
                    return self._read(response, function)
                problem = f"HTTP {response.status}"
                if response.status == 500:
                    problem = self._incident(response) or problem
            except urllib3.exceptions.HTTPError as error:
                problem = _sentence(error)
                never_sent = isinstance(error, urllib3.exceptions.NewConnectionError)
                if not idempotent and not never_sent:
                    break
            if pause is None:
                break
            time.sleep(pause * random.uniform(0.8, 1.2))
        raise ControlPlaneUnavailable(f"The control plane cannot be reached: {problem}")

    def _request(
        self,
        method: str,
        url: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        """One request; with the token of the file when it is a newer one and ours is refused:
        the agent renews it, and its runners find it there."""

        def send(token: str) -> urllib3.BaseHTTPResponse:
            return self._http.request(
                method,
                url,
                body=body,
                headers={**self._headers(token), **(headers or {})},
                redirect=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            )

        used = self._credentials["token"]
        response = send(used)
        if response.status != 401:
            return response
        current = self._token_file.load()
        if current["token"] == used:
            return response
        self._credentials = current
        return send(current["token"])

    def _headers(self, token: str) -> dict[str, str]:
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "User-Agent": "odooops-worker",
        }
        if self._database:
            headers["X-Odoo-Database"] = self._database
        return headers

    def _read(self, response: urllib3.BaseHTTPResponse, method: str) -> Any:
        try:
            document = json.loads(response.data)
            error = document.get("error")
        except (ValueError, AttributeError):
            raise ControlPlaneError(
                f"{self._url} answers with HTTP {response.status} and no JSON-RPC."
                " Is the address right, and the addon odooops installed there?"
            ) from None
        if error is None:
            return document["result"]
        facts = dict(error.get("data") or {})
        code, message = str(facts.pop("code", "")), str(error.get("message"))
        if code == "unauthorized":
            raise ControlPlaneError(f"The control plane refused the worker token. {message}")
        if code == "unknown_method":
            raise ControlPlaneError(f"The control plane knows no {method}: it is another version.")
        return Refused(code, message, facts)

    @staticmethod
    def _incident(response: urllib3.BaseHTTPResponse) -> str | None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(response.data)["error"]["message"])
        return None

    # -- artifacts, see storage/remote.py ---------------------------------------------------

    def artifact_call(self, function: str, **parameters: Any) -> Any:
        """Like the other calls: a reply or ``Refused``. It may take as long as reading the file."""
        return self._call(function, read_seconds=STORE_SECONDS, **parameters)

    def put(self, url: str, headers: Mapping[str, str], data: bytes) -> tuple[int, str, str]:
        """PUT the bytes of a part; HTTP status, ETag, and what a refusal says.

        A path is one of the control plane, whose token goes with it. An address is a key by itself,
        and nothing of ours goes with it.

        :raises ControlPlaneUnavailable: no answer came; whether there was an effect is unknown
        """
        is_ours = url.startswith("/")
        try:
            if is_ours:
                url = self._base + url
                response = self._request("PUT", url, data, headers, STORE_SECONDS)
            else:
                response = self._stores.request(
                    "PUT",
                    url,
                    body=data,
                    headers=headers,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=STORE_SECONDS),
                )
        except urllib3.exceptions.HTTPError as error:
            # An address is as good as a password while it lives.
            place = urlsplit(url)._replace(query="").geturl()
            name = type(error).__name__ if not is_ours else _sentence(error)
            raise ControlPlaneUnavailable(f"{place} took no file: {name}") from error
        said = self._said(response) if is_ours else ""
        return response.status, response.headers.get("ETag", ""), said

    @staticmethod
    def _said(response: urllib3.BaseHTTPResponse) -> str:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return f": {json.loads(response.data)['error']}"
        return ""

    # -- the token ------------------------------------------------------------------------

    def renew_token(self) -> bool:
        """Renew the token when little of its life is left; returns whether it was.

        Several agents may share the file: one of them renews, the others take what it wrote.

        :raises ControlPlaneError: it was refused
        :raises OSError: the file cannot be written; then nothing was asked for
        """
        if not self._is_due():
            return False
        with self._lock, self._token_file.locked():
            self._credentials = self._token_file.load()
            if not self._is_due():
                return False
            # What could not be kept would be lost, and the old token ends an hour later.
            self._token_file.save(self._credentials)
            # Two requests would each invalidate the other's: not repeated.
            reply = self._call("renew_worker_token", idempotent=False)
            if isinstance(reply, Refused):
                raise ControlPlaneError(f"The token was not renewed: {reply.error}")
            # First the file: without it a restart would come with the old token.
            self._token_file.save(_credentials(reply))
            self._credentials = _credentials(reply)
        _logger.info("The worker token was renewed; valid until %s", reply["expires_at"])
        return True

    def _is_due(self) -> bool:
        left = datetime.fromisoformat(self._credentials["expires_at"].replace("Z", "+00:00"))
        seconds = (left - datetime.now(timezone.utc)).total_seconds()
        return seconds <= self._credentials["valid_days"] * 86400 * RENEW_FRACTION

    def _lease_rows(self):
        reply = self._call("list_leases")
        if isinstance(reply, Refused):
            raise ControlPlaneError(f"The leases were not told: {reply.error}")
        return reply["leases"]

    def listen(
        self, stop: threading.Event, queue: threading.Event, cancel: threading.Event
    ) -> None:
        """Look more often than the heartbeat would; and keep the token fresh."""
        while not stop.wait(LISTEN_SECONDS * random.uniform(0.8, 1.2)):
            cancel.set()
            try:
                self.renew_token()
            except (ControlPlaneError, OSError) as error:
                _logger.warning("The worker token was not renewed: %s", error)


def register_host(
    url: str, registration_token: str, name: str, file: TokenFile, **options: str
) -> None:
    """Exchange a registration token for this host's worker token and keep it in ``file``.

    Raises ``ControlPlaneError``.
    """
    with tempfile.TemporaryDirectory() as folder:
        once = TokenFile(Path(folder) / "token")
        once.save({"token": registration_token})
        control = RpcControlPlane(url, once, **options)
        with contextlib.closing(control):
            # Once only: a repeat would use up another registration.
            reply = control._call("exchange_registration_token", idempotent=False, name=name)
    if isinstance(reply, Refused):
        raise ControlPlaneError(f"This host was not registered: {reply.error}")
    file.save(_credentials(reply))


def _credentials(reply: Any) -> dict[str, Any]:
    return {name: reply[name] for name in ("token", "expires_at", "valid_days")}


def _plain(value: Any) -> Any:
    """What JSON does not know, as the door takes it."""
    return list(value) if isinstance(value, JsonRows) else value.isoformat()


def _sentence(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).rpartition(">: ")[2] or type(error).__name__
