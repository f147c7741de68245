"""A real registry of images for tests: Debian's docker-registry over HTTP on the loopback."""

import ctypes
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from odoo.addons.odooops.devtools.needs import required

_logger = logging.getLogger(__name__)

USER, PASSWORD = "puller", "the-registry's-own-password"
START_SECONDS = 30
#: bcrypt, which is all that the registry takes, with little work for it.
_SALT = b"$2b$04$abcdefghijklmnopqrstuu"
_CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}
"""


def need_registry():
    """The program; skips the test when there is none, unless ODOOOPS_REQUIRE wants it."""
    program = shutil.which("docker-registry", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        if "docker-registry" in required():
            raise AssertionError("There is no docker-registry: apt-get install docker-registry.")
        raise unittest.SkipTest("There is no docker-registry: apt-get install docker-registry.")
    return program


class Registry:
    """A registry that lets in USER with PASSWORD; its images' names begin with ``host``."""

    def __init__(self):
        program = need_registry()
        self.folder = Path(tempfile.mkdtemp(prefix="odooops-registry-", dir="/var/tmp"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        (self.folder / "config.yml").write_text(_CONFIG.format(folder=self.folder, port=port))
        (self.folder / "htpasswd").write_text(f"{USER}:{_bcrypt(PASSWORD)}\n")
        self._argv = [program, "serve", str(self.folder / "config.yml")]
        self._process = None
        self.start()

    def start(self):
        """Start it, unless it runs, and wait until it answers."""
        if self._process and self._process.poll() is None:
            return
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._argv, stdout=log, stderr=log, cwd=self.folder)
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5):
                    raise RuntimeError("The registry lets in everybody.")
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    return
            except OSError as error:
                _logger.debug("Not yet: %s", error)
            if self._process.poll() is not None or time.monotonic() > until:
                words = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"The registry does not start:\n{words}")
            time.sleep(0.05)

    def stop(self):
        """End it; its images stay."""
        self._process.terminate()
        self._process.wait(30)

    def remove(self):
        """End it and remove its images."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def push(self, client, image, name):
        """Push an image of the engine under ``name`` ("app:1"); return its digest.

        The engine has it under its old name only afterwards.
        """
        repository, tag = f"{self.host}/{name}".rsplit(":", 1)
        client.tag(image, repository, tag)
        credentials = {"username": USER, "password": PASSWORD}
        digest = None
        for item in client.push(repository, tag, stream=True, decode=True, auth_config=credentials):
            if item.get("error"):
                raise AssertionError(item["error"])
            digest = (item.get("aux") or {}).get("Digest", digest)
        client.remove_image(f"{repository}:{tag}")
        return digest

    def damage(self, digest):
        """Change the manifest that is stored under a digest, so that it still is a manifest."""
        name = digest.removeprefix("sha256:")
        path = self.folder / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
        manifest = json.loads(path.read_text())
        manifest["layers"][0]["size"] += 1
        path.write_text(json.dumps(manifest))


def _bcrypt(password):
    """As ``htpasswd -B`` writes it, by the library that knows it on every Debian."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed = library.crypt(password.encode(), _SALT).decode()
    if not re.match(r"\$2b\$04\$", hashed):
        raise RuntimeError("This system's libcrypt has no bcrypt.")
    return hashed
