"""What the tests of uploads share: a worker over HTTP that holds a running run, and its store."""

import hashlib
import io
import tempfile
import uuid
from pathlib import Path

from odoo.tests import HttpCase

from ..worker.control.base import Refused
from ..worker.control.rpc import RpcControlPlane, TokenFile
from ..worker.storage.parts import PART_SIZE
from ..worker.storage.remote import RemoteStore
from .http_case import WorkerTokens
from .kernel_case import KernelCase
from .test_storage_contract import LATER


class StoreOfRun:
    """The store as the contract asks for it: put by the worker's way in, look by the server's.

    Keys are those of the contract; in the store they lie in the folder of the run.
    """

    def __init__(self, remote, inner, folder):
        self._remote, self._inner, self._folder = remote, inner, folder

    def put(self, key, source, content_type=None):
        return self._remote.put(f"{self._folder}/{key}", source, content_type)

    def url_of(self, key):
        return self._inner.url_of(f"{self._folder}/{key}")

    def stat(self, url):
        info = self._inner.stat(url)
        return type(info)(
            info.url,
            info.key.removeprefix(f"{self._folder}/"),
            info.size_bytes,
            info.modified,
            info.checksum,
        )

    def list(self):
        return map(self.stat, [info.url for info in self._inner.list()])

    def __getattr__(self, name):
        return getattr(self._inner, name)


class UploadCase(WorkerTokens, KernelCase, HttpCase):
    """A running run; ``self.remote`` is the store of the worker that holds it."""

    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory(prefix="odooops-test-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.enterContext(self.allow_requests(all_requests=True))
        self.control = self.plane(self.credentials[0], "token")
        self.run_id = self.queue()
        self.worker_id = f"test-{uuid.uuid4()}"
        self.workers.append(self.worker_id)
        self.control.register_worker(self.worker_id, "build-1", [], 1, "1", "daemon")
        self.claimed = self.control.claim_next_run(self.worker_id, [], str(uuid.uuid4()))
        self.assertEqual(self.claimed.run_id, self.run_id)
        self.epoch = self.claimed.epoch
        self.control.start_workflow_run(self.run_id, self.worker_id, self.epoch)
        self.remote = RemoteStore(self.control).of_run(self.run_id, self.epoch)
        self.place = f"{self.claimed.snapshot['project']['slug']}/{self.run_id}"
        self.store = StoreOfRun(self.remote, self.open_inner(), self.place)
        self.open_store = (
            "from pathlib import Path\n"
            "from worker.control.rpc import RpcControlPlane, TokenFile\n"
            "from worker.storage.remote import RemoteStore\n"
            f"control = RpcControlPlane({self.base_url()!r},"
            f" TokenFile(Path({str(self.folder / 'token')!r})))\n"
            f"remote = RemoteStore(control).of_run({self.run_id}, {self.epoch})\n"
            "class Store:\n"
            "    def put(self, key, source):\n"
            f"        return remote.put({self.place!r} + '/' + key, source)\n"
            "    def fetch(self, url, target):\n"
            "        return stored\n"
            "store = Store()"
        )

    def plane(self, credentials, name):
        file = TokenFile(self.folder / name)
        file.save(credentials)
        control = RpcControlPlane(self.base_url(), file)
        self.addCleanup(control.close)
        return control

    def set_parameter(self, name, value):
        self.env["ir.config_parameter"].set_param(f"odooops.{name}", value)
        self.env.flush_all()

    def upload(self, key, data, **more):
        return self.remote.put(f"{self.place}/{key}", io.BytesIO(data), **more)

    def call(self, function, control=None, **parameters):
        names = {"run_id": self.run_id, "epoch": self.epoch, "artifact_key": "a.txt"}
        return (control or self.control).artifact_call(function, **{**names, **parameters})

    def assertRefusal(self, reply, code, words=""):
        self.assertIsInstance(reply, Refused)
        self.assertEqual(reply.code, code, reply)
        self.assertIn(words, reply.error)

    def assertNothingLeft(self):
        self.assertEqual(list(self.store.list()), [])
        self.assertEqual(self.store.abort_uploads(LATER), 0)

    def begin(self, size=2 * PART_SIZE):
        """An upload in parts that has begun: its id."""
        reply = self.call("begin_artifact_upload", size_bytes=size)
        self.assertEqual(reply["part_size"], PART_SIZE)
        return reply["upload_id"]

    def sign(self, upload_id, number, data, **more):
        return self.call(
            "sign_artifact_part",
            upload_id=upload_id,
            part_number=number,
            size_bytes=len(data),
            checksum=hashlib.sha256(data).hexdigest(),
            **more,
        )
