"""An S3 server for tests and measurements: moto over real HTTP, with what moto leaves out.

moto takes every checksum, every access key, and says that each upload was begun in 2010. So that
tests can fail, this server refuses bodies whose SHA-256 is another than the header says, unknown
access keys, and gives uploads their time. On request it damages, cuts or refuses uploads, as a
network or a server in trouble would.

Run as a program it serves until its standard input ends: ``python tests/s3_server.py [CERT KEY]``.
"""

import base64
import hashlib
import hmac
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "AKIATESTACCESSKEY000", "test-secret-key-of-the-store"
BUCKET = "artifacts"
CONTROL = "/-/control"


class S3Server:
    """The server in a process of its own; ``trouble`` tells it how to behave."""

    def __init__(self, *certificate):
        # No shell of a developer may lend its credentials.
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, certificate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        port = self._process.stdout.readline().strip()
        if not port:
            raise RuntimeError("The S3 server did not start; run tests/s3_server.py to see why.")
        scheme = "https" if certificate else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{port}"

    def stop(self):
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def freeze(self):
        """From now on nobody gets an answer."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """It goes on as if nothing had been."""
        self._process.send_signal(signal.SIGCONT)

    def trouble(self, **settings):
        """``damage``, ``damage_silently``, ``cut`` or ``busy``: so many of the next uploads.

        Returns these, and how many requests there were of what kind.
        """
        request = urllib.request.Request(
            self.endpoint + CONTROL, json.dumps(settings).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)


class Strict:
    """The WSGI application of moto, behind the checks it lacks."""

    def __init__(self, application):
        self._application = application
        self._lock = threading.Lock()
        self._trouble = {}
        self._counts = {"requests": 0, "puts": 0, "authorized_downloads": 0}

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == CONTROL:
            return self._control(environ, start_response)
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        self._count(environ, query)
        if not self._knows(environ, query):
            return _error(start_response, "403 Forbidden", "InvalidAccessKeyId")
        if method == "PUT" and "tagging" not in query:
            refusal = self._receive(environ, start_response)
            if refusal is not None:
                return refusal
        if method == "GET" and query.startswith("uploads"):
            return self._with_times(environ, start_response)
        if method == "GET" and environ.get("HTTP_RANGE"):
            return self._part(environ, start_response)
        return self._application(environ, start_response)

    @staticmethod
    def _part(environ, start_response):
        """A range of an object; moto hashes the whole object for each."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        bucket, key = environ["PATH_INFO"].lstrip("/").split("/", 1)
        found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(bucket, key)
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", environ["HTTP_RANGE"]).groups()
        first, last = int(first), min(int(last or found.size), found.size - 1)
        with found.lock:
            buffer = found._value_buffer
            buffer.seek(first)
            body = buffer.read(last - first + 1)
        headers = {
            "Content-Range": f"bytes {first}-{last}/{found.size}",
            "Content-Length": str(len(body)),
            "ETag": found.etag,
            "Last-Modified": found.last_modified_RFC1123,
        }
        start_response("206 Partial Content", list(headers.items()))
        return [body]

    def _control(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with self._lock:
            self._trouble.update(json.loads(body or b"{}"))
            answer = json.dumps({**self._counts, **self._trouble}).encode()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [answer]

    def _count(self, environ, query):
        with self._lock:
            self._counts["requests"] += 1
            self._counts["puts"] += environ["REQUEST_METHOD"] == "PUT"
            # A key of Odoo has no business here, least of all beside a presigned address.
            bearer = environ.get("HTTP_AUTHORIZATION", "").lower().startswith("bearer")
            self._counts["authorized_downloads"] += bearer

    def _is_due(self, trouble):
        with self._lock:
            left = self._trouble.get(trouble, 0)
            self._trouble[trouble] = max(0, left - 1)
            return left > 0

    @staticmethod
    def _knows(environ, query):
        given = environ.get("HTTP_AUTHORIZATION", "") + query
        if f"Credential={ACCESS_KEY}" not in given:
            return False
        return "X-Amz-Signature=" not in query or _is_signed(environ, query)

    def _receive(self, environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if self._is_due("cut"):
            environ["wsgi.input"].read(length // 2)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("cut on purpose")
        body = environ["wsgi.input"].read(length)
        if self._is_due("busy"):
            return _error(start_response, "503 Slow Down", "SlowDown")
        if body and self._is_due("damage"):
            body = bytes([body[0] ^ 1]) + body[1:]
        if body and self._is_due("damage_silently"):
            # By a server that computes no checksums of its own.
            body = bytes([body[0] ^ 1]) + body[1:]
            environ.pop("HTTP_X_AMZ_CHECKSUM_SHA256", None)
            environ.pop("HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM", None)
        else:
            wanted = environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
            got = base64.b64encode(hashlib.sha256(body).digest()).decode()
            if wanted and wanted != got:
                return _error(start_response, "400 Bad Request", "BadDigest")
        environ["wsgi.input"] = _Bytes(body)
        return None

    def _with_times(self, environ, start_response):
        kept = []

        def keep(status, headers, *_rest):
            kept[:] = [status, [h for h in headers if h[0].lower() != "content-length"]]

        body = b"".join(self._application(environ, keep))
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        body = re.sub(
            rb"<Initiated>.*?</Initiated>", f"<Initiated>{now}</Initiated>".encode(), body
        )
        start_response(kept[0], [*kept[1], ("Content-Length", str(len(body)))])
        return [body]


def _is_signed(environ, query):
    """Whether a presigned address has the signature of the secret key, and has not run out."""
    given = dict(urllib.parse.parse_qsl(query))
    when = datetime.strptime(given["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    if datetime.now(timezone.utc) > when + timedelta(seconds=int(given["X-Amz-Expires"])):
        return False
    names = given["X-Amz-SignedHeaders"].split(";")
    headers = {name.removeprefix("HTTP_"): value for name, value in environ.items()}
    lines = [f"{name}:{headers.get(name.upper().replace('-', '_'), '').strip()}" for name in names]
    pairs = sorted(part for part in query.split("&") if not part.startswith("X-Amz-Signature="))
    request = [
        environ["REQUEST_METHOD"],
        urllib.parse.quote(environ["PATH_INFO"], safe="/-_.~"),
        "&".join(pairs),
        *lines,
        "",
        ";".join(names),
        "UNSIGNED-PAYLOAD",
    ]
    _access_key, *scope = given["X-Amz-Credential"].split("/")
    digest = hashlib.sha256("\n".join(request).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", given["X-Amz-Date"], "/".join(scope), digest])
    key = f"AWS4{SECRET_KEY}".encode()
    for word in (*scope, text):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(key.hex(), given["X-Amz-Signature"])


class _Bytes:
    """A request's body that has been read already."""

    def __init__(self, body):
        self._body, self._at = body, 0

    def read(self, size=-1):
        end = len(self._body) if size is None or size < 0 else self._at + size
        piece, self._at = self._body[self._at : end], min(end, len(self._body))
        return piece

    def readline(self, size=-1):
        end = self._body.find(b"\n", self._at) + 1 or len(self._body)
        return self.read(end - self._at if size is None or size < 0 else size)


def _error(start_response, status, code):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    start_response(status, [("Content-Type", "application/xml")])
    return [body.encode()]


def main(certificate):
    """Serve on a free loopback port, which is printed, until the standard input ends."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Strict(DomainDispatcherApplication(create_backend_app))
    context = tuple(certificate) if certificate else None
    server = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scheme = "https" if certificate else "http"
    boto3.client(
        "s3",
        endpoint_url=f"{scheme}://127.0.0.1:{server.server_port}",
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        verify=certificate[0] if certificate else None,
    ).create_bucket(Bucket=BUCKET)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    # Not the folder of the tests: its names are no packages of anybody.
    sys.path.remove(str(Path(__file__).resolve().parent))
    main(sys.argv[1:])
