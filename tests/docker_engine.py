"""A Docker engine for tests: our own where we are root, else the one that DOCKER_HOST names.

Ours has its data, its socket and its state in a temporary folder and touches no firewall rules and
no bridge of the host. It starts with the first test that needs it and ends with Python. No registry
can be relied upon: images are imported from files.
"""

import atexit
import contextlib
import ctypes
import functools
import io
import os
import re
import shutil
import signal
import struct
import subprocess
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

import docker

START_SECONDS = 60
IMAGE = "odooops-test-busybox:1"


class Engine:
    """An engine; ``own`` when we started it and may restart it."""

    def __init__(self, host, own=None):
        self.host = host
        self.own = own
        self.client = docker.APIClient(host, version="auto", timeout=60)


class OwnEngine:
    """The process of our own engine."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="odooops-docker-", dir="/var/tmp"))
        self.host = f"unix://{self.folder}/docker.sock"
        self.process = None

    def start(self, live_restore=False):
        """Start it and wait until it answers."""
        argv = [
            shutil.which("dockerd", path=os.environ["PATH"] + ":/usr/sbin:/sbin"),
            "--data-root", str(self.folder / "data"),
            "--exec-root", str(self.folder / "exec"),
            "--pidfile", str(self.folder / "pid"),
            "--host", self.host,
            "--bridge=none", "--iptables=false", "--ip6tables=false",
            "--shutdown-timeout=3",
        ]  # fmt: skip
        if live_restore:
            argv.append("--live-restore")
        with open(self.folder / "log", "ab") as log:
            # It must not outlive Python, however that ends.
            self.process = subprocess.Popen(
                argv,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0),
            )
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(docker.errors.DockerException):
                docker.APIClient(self.host, version="auto", timeout=10).ping()
                return
            if self.process.poll() is not None or time.monotonic() > until:
                words = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"dockerd does not start:\n{words}")
            time.sleep(0.1)

    def stop(self, number=signal.SIGTERM):
        """End it; its containers too, unless it was started with live_restore."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self, live_restore=False):
        """Stop and start it."""
        self.stop()
        self.start(live_restore)

    def remove(self):
        """End it with all its containers and remove its files."""
        with contextlib.suppress(docker.errors.DockerException):
            client = docker.APIClient(self.host, version="auto", timeout=10)
            for found in client.containers(all=True):
                client.remove_container(found["Id"], force=True)
        self.stop()
        # dockerd mounts its data folder on itself and leaves it so.
        subprocess.run(["umount", "--lazy", self.folder / "data"], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def find_engine():
    """The engine with the test image in it; a sentence instead when there is none."""
    host = os.environ.get("DOCKER_HOST")
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if os.geteuid() == 0 and shutil.which("dockerd", path=path):
        own = OwnEngine()
        atexit.register(own.remove)
        own.start()
        engine = Engine(own.host, own)
    elif host or os.access("/var/run/docker.sock", os.W_OK):
        engine = Engine(host or "unix:///var/run/docker.sock")
    else:
        return "There is no Docker engine: be root with dockerd installed, or set DOCKER_HOST."
    busybox = shutil.which("busybox", path=path)
    if not busybox or not is_static(busybox):
        return "The test image is made of a static busybox: install busybox-static."
    import_image(engine.client, IMAGE, busybox)
    return engine


def is_static(program):
    """Whether a 64-bit ELF program asks for no loader (program header of type PT_INTERP)."""
    data = Path(program).read_bytes()
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, start + size * number)[0] for number in range(count)]
    return 3 not in kinds


def import_image(client, name, busybox, files=None, changes=None):
    """Make an image of busybox with all its applets, and of ``files``: path in it → path here.

    ``changes`` are lines of a Dockerfile that say what it starts.
    """
    content = io.BytesIO()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(busybox, "bin/busybox")
        for applet in applets.stdout.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
            if applet != "busybox":
                archive.addfile(link)
        for target, source in (files or {}).items():
            archive.add(os.path.realpath(source), target)
    repository, tag = name.split(":")
    client.import_image_from_data(
        content.getvalue(), repository=repository, tag=tag, changes=changes
    )


def import_program(client, name, program):
    """Make an image of busybox and a dynamically linked program with its libraries."""
    files = {f"usr/bin/{program.name}": program, **libraries(program)}
    import_image(client, name, shutil.which("busybox"), files)


def libraries(*programs):
    """Path in an image → path here, of all that dynamically linked programs are linked to."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    files = {}
    for library in re.findall(r"(/\S+) \(0x", listed):
        # The loader is asked for by its path, the others are found in the usual folder.
        target = library if "ld-linux" in library else f"/lib/{Path(library).name}"
        files[target.lstrip("/")] = library
    return files


def need_engine():
    """The engine; skips the test when there is none, unless ODOOOPS_REQUIRE wants it."""
    # Here, as `make chaos` uses this module without an Odoo.
    from odoo.addons.odooops.devtools.needs import required

    engine = find_engine()
    if isinstance(engine, str):
        if "docker" in required():
            raise AssertionError(engine)
        raise unittest.SkipTest(engine)
    if engine.own and engine.own.process.poll() is not None:
        # Odoo terminates every child process that is left at the end of a test class.
        engine.own.start()
    return engine
