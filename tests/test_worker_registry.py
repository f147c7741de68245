"""Images from a real registry that wants a password: how they come, and why they do not."""

import json
import logging
import os
import shutil
import subprocess
import tempfile
from base64 import b64encode
from pathlib import Path
from unittest.mock import patch

import docker

from odoo.tests import tagged

from ..devtools.needs import required
from ..worker.executors import docker_images
from ..worker.executors.base import ExecutorError
from ..worker.executors.docker import DockerExecutor
from . import document_commands
from .docker_engine import IMAGE, OwnEngine, import_image, need_engine
from .registry_server import PASSWORD, USER, Registry
from .secrets_case import WithSecretKey
from .worker_common import DockerCase, FolderCase

SECRET = "REGISTRY_PASSWORD"
MEGABYTES = 12
STEPS = [{"name": "Say", "run": "ls /opt; env"}]


def import_unique(client, name, folder, megabytes=MEGABYTES):
    """An image whose files no other has, so that its pull moves them all."""
    noise = Path(folder) / "noise"
    noise.write_bytes(os.urandom(megabytes << 20))
    import_image(client, name, shutil.which("busybox"), {"opt/noise": noise})
    noise.unlink()


def forget(client, *names):
    """Remove images from the engine."""
    for name in names:
        try:
            client.remove_image(name, force=True)
        except docker.errors.ImageNotFound:
            logging.getLogger(__name__).debug("%s is not there", name)


@tagged("post_install", "-at_install")
class TestRegistry(WithSecretKey, DockerCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        client = need_engine().client
        cls.registry = Registry()
        cls.addClassCleanup(cls.registry.remove)
        cls.digests = {}
        with tempfile.TemporaryDirectory() as folder:
            for tag in ("1", "2", "damaged"):
                local = f"odooops-test-unique:{tag}"
                import_unique(client, local, folder)
                cls.digests[tag] = cls.registry.push(client, local, f"app:{tag}")
                forget(client, local)
        cls.registry.damage(cls.digests["damaged"])

    def setUp(self):
        super().setUp()
        self.registry.start()
        self.addCleanup(forget, self.engine.client, *map(self.image, self.digests))

    def image(self, tag):
        return f"{self.registry.host}/app:{tag}"

    def make_private_tool(self, tag, version="1", username=USER, **values):
        auth = {"username": username, "password_secret": SECRET}
        return self.make_tool(self.image(tag), version, config={"registry_auth": auth}, **values)

    def set_secret(self, value, **values):
        with self.environment() as env:
            env["ops.secret"].create(
                {"project_id": self.project_id, "name": SECRET, "value": value, **values}
            )

    def execute(self, *options, steps=STEPS, **config):
        workflow = self.make_workflow(
            name=f"Workflow of {self.tool} {len(options)} {len(config)}",
            tool=self.tool, steps=steps, **config,
        )  # fmt: skip
        self.run_id = self.queue(workflow)
        self.work(f"--secrets-key={self.key_path}", *options)
        return self.run_row(self.run_id)

    def everything(self):
        """All the database holds about the run, and what the worker logged, as one text."""
        logs = [path.read_text() for path in self.folder.glob("worker-*.log")]
        return "\n".join([self.all_rows_of(self.run_id), *logs])

    def assertFailed(self, row, code, *words):
        self.assertEqual((row["status"], row["error_code"]), ("failed", code), row)
        for word in words:
            self.assertIn(word, row["error_message"])
        self.assertNotIn(PASSWORD, self.everything())

    def test_an_image_is_pulled_with_a_secret_that_nobody_sees(self):
        # Developers must not see it: only the worker gets it, also of a workflow they may write.
        self.set_secret(PASSWORD, protected=True)
        self.make_private_tool("1")
        row = self.execute("--log-level=debug")
        log = self.messages(self.run_id)
        self.assertEqual(row["status"], "succeeded", (row, log))
        self.assertIn("noise", log)
        self.assertFalse([line for line in log if SECRET in line], "A step was given it.")
        pulled = [line for line in log if ": Download" in line or ": Pull complete" in line]
        self.assertTrue(pulled, log)
        facts = row["metadata"]["image"]
        self.assertEqual((facts["digest"], facts["reference"]), (
            self.digests["1"], self.image("1")))  # fmt: skip
        events = self.query(
            "SELECT message, payload FROM ops_run_event WHERE run_id = %s", self.run_id
        )
        self.assertIn(("secrets given", {"epoch": 1, "names": [SECRET]}), events)
        self.assertTrue(any(self.digests["1"] in json.dumps(payload) for _text, payload in events))
        self.assertNotIn(PASSWORD, self.everything())

    def test_the_commands_of_the_document_say_the_digest_to_register(self):
        if not shutil.which("docker"):
            self.assertNotIn("docker", required())
            self.skipTest("There is no program docker: apt-get install docker-cli.")
        block, _workflow = document_commands.fences("docs/tools.md", "The official image of Odoo")
        block, _comment, shown = block.partition("    # ")
        self.assertEqual(shown.strip(), "odoo@sha256:…")
        settings = self.folder / "docker"
        settings.mkdir()
        login = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        auths = {"auths": {self.registry.host: {"auth": login}}}
        (settings / "config.json").write_text(json.dumps(auths))
        environment = {"DOCKER_HOST": self.engine.host, "DOCKER_CONFIG": str(settings)}
        words = {"odoo:19.0": self.image("1")}
        said = document_commands.run(block, words, self.folder, **environment)
        self.assertEqual(
            said.splitlines()[-1], f"{self.registry.host}/app@{self.digests['1']}", said
        )

    def test_its_password_is_masked_in_output_too(self):
        self.set_secret(PASSWORD)
        self.make_private_tool("1")
        half = len(PASSWORD) // 2
        script = f'printf \'%s\' "{PASSWORD[:half]}"; echo "{PASSWORD[half:]}"'
        row = self.execute(steps=[{"name": "Guess", "run": script}])
        self.assertEqual(row["status"], "succeeded", row)
        self.assertIn(f"[secret {SECRET}]", self.messages(self.run_id))
        with self.environment() as env:
            masked = env["ops.secret"]._mask(self.run_id, {"message": f"so {PASSWORD} it is"})
        self.assertEqual(masked, {"message": f"so [secret {SECRET}] it is"})

    def test_the_image_of_a_service_comes_in_the_same_way_and_what_it_says_is_masked(self):
        self.set_secret(PASSWORD, protected=True)
        self.make_private_tool("1")
        half = len(PASSWORD) // 2
        script = f'printf "{PASSWORD[:half]}"; echo "{PASSWORD[half:]}"; exit 3'
        service = {"name": "private", "tool": self.tool, "command": ["sh", "-c", script]}
        self.make_tool(IMAGE, version="3")
        row = self.execute(services=[service | {"ready": {"port": 80}}])
        self.assertFailed(row, "service_failed", f"[secret {SECRET}]", "with exit code 3")
        self.assertIn(f"[secret {SECRET}]", self.messages(self.run_id))
        images = self.engine.client.images(self.image("1"))
        self.assertEqual(len(images), 1, "It was not pulled.")
        events = self.query("SELECT payload FROM ops_run_event WHERE run_id = %s", self.run_id)
        self.assertTrue(any(self.digests["1"] in json.dumps(payload) for (payload,) in events))

    def test_a_digest_counts_and_not_what_the_tag_means_today(self):
        self.set_secret(PASSWORD)
        self.make_private_tool("2", digest=self.digests["1"])
        row = self.execute()
        self.assertEqual(row["status"], "succeeded", row)
        self.assertEqual(row["metadata"]["image"]["digest"], self.digests["1"])
        found = self.engine.client.inspect_image(f"{self.registry.host}/app@{self.digests['1']}")
        self.assertEqual(row["metadata"]["image"]["image_id"], found["Id"])
        self.addCleanup(forget, self.engine.client, found["Id"])

    def test_wrong_or_missing_credentials_are_told_as_such(self):
        self.set_secret("another-password-than-that")
        self.make_private_tool("1")
        self.assertFailed(self.execute(), "setup_error", "refuses the credentials", "registry_auth")
        self.make_tool(self.image("1"), version="2")
        self.assertFailed(self.execute(), "setup_error", "refuses the credentials", "registry_auth")

    def test_a_secret_that_is_not_set_is_named(self):
        self.make_private_tool("1")
        self.assertFailed(self.execute(), "setup_error", SECRET, "Not set in the project")

    def test_an_image_the_registry_does_not_have_is_told_as_such(self):
        self.set_secret(PASSWORD)
        self.make_private_tool("nothing")
        self.assertFailed(self.execute(), "setup_error", "has no such image", "app:nothing")
        self.make_private_tool("1", version="2", digest=f"sha256:{'0' * 64}")
        self.assertFailed(self.execute(), "setup_error", "has no such image", "0" * 64)

    def test_a_registry_that_is_down_is_a_cause_of_its_own(self):
        self.set_secret(PASSWORD)
        self.make_private_tool("1")
        self.registry.stop()
        row = self.execute(retry={"max": 1, "on": ["registry_unavailable"]})
        self.assertFailed(row, "registry_unavailable", "does not answer", self.registry.host)

    def test_what_is_not_the_image_of_the_digest_ispull_error(self):
        self.set_secret(PASSWORD)
        self.make_private_tool("damaged", digest=self.digests["damaged"])
        row = self.execute()
        self.assertFailed(row, "setup_error", "not the image of that digest")
        self.assertNotIn("noise", self.messages(self.run_id))


class TestEngineInTrouble(FolderCase):
    """An engine of its own, on a small disk, that may be stopped."""

    def setUp(self):
        super().setUp()
        if not need_engine().own:
            self.skipTest("Only root starts an engine of its own.")
        self.registry = Registry()
        self.addCleanup(self.registry.remove)
        self.own = OwnEngine()
        data = self.own.folder / "data"
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", data], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", data], check=False)
        self.addCleanup(self.own.remove)
        self.own.start()

    def test_a_full_disk_and_a_stopped_engine_have_their_sentences(self):
        client = need_engine().client
        import_unique(client, "odooops-test-large:1", self.folder, 40)
        self.registry.push(client, "odooops-test-large:1", "large:1")
        forget(client, "odooops-test-large:1")
        executor = DockerExecutor(self.own.host)
        name = f"{self.registry.host}/large:1"

        def resolve():
            return executor.resolve(
                name, None, credentials=lambda: {"username": USER, "password": PASSWORD}
            )

        with self.assertRaisesRegex(ExecutorError, "disk of the Docker engine is full") as caught:
            resolve()
        self.assertEqual(caught.exception.code, "disk_full")
        self.own.stop()
        with self.assertRaisesRegex(ExecutorError, "the Docker engine does not answer") as caught:
            resolve()
        self.assertEqual(caught.exception.code, "setup_error")


class TestPullMessages(FolderCase):
    """Words of Docker that this machine's registry never says."""

    def test_each_has_its_cause(self):
        told = {
            "pull access denied for odoo/private, repository does not exist or may require"
            " 'docker login': denied: requested access to the resource is denied": "setup_error",
            "toomanyrequests: You have reached your pull rate limit": "registry_unavailable",
            "dial tcp: lookup registry.example: no such host": "registry_unavailable",
            'Get "https://r.example/v2/": net/http: request canceled while waiting for connection'
            " (Client.Timeout exceeded while awaiting headers)": "registry_unavailable",
            "received unexpected HTTP status: 503 Service Unavailable": "registry_unavailable",
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device": "disk_full",
            "invalid reference format": "setup_error",
        }
        for words, code in told.items():
            with self.subTest(words):
                self.assertEqual(docker_images.pull_error("No", words).code, code)

    def test_progress_is_a_line_per_state_and_a_sum_now_and_then(self):
        lines = []
        with patch.object(docker_images, "PROGRESS_SECONDS", 0.0):
            progress = docker_images.Progress(lines.append)
            for here in (1_000_000, 2_000_000):
                detail = {"current": here, "total": 4_000_000}
                progress.take({"id": "a1", "status": "Downloading", "progressDetail": detail})
            progress.take({"id": "a1", "status": "Download complete"})
        self.assertEqual(lines, [
            "a1: Downloading", "1.0 of 4.0 MB are here", "2.0 of 4.0 MB are here",
            "a1: Download complete", "4.0 of 4.0 MB are here",
        ])  # fmt: skip
