"""From the wish to the first instruction in a container: the worker's executor beside `docker run`.

The same image, user and limits, taking turns. The engine is the tests' own one
(``tests/docker_engine.py``), so it needs root and dockerd. A container says the time itself, by the
clock that it shares with the host.
"""

import importlib.util
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from .driver import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent
SAY = ["/bin/sh", "-c", "cat /proc/uptime"]
MEMORY, PROCESSES, TMP = 512 << 20, 256, 64 << 20
END_SECONDS = 60


class MissingEngine(RuntimeError):
    """There is no engine to measure with; the message says why."""


def find_engine():
    """The tests' engine; raises MissingEngine."""
    # By its path: the package of the tests wants an Odoo.
    path = ROOT / "tests" / "docker_engine.py"
    spec = importlib.util.spec_from_file_location("docker_engine", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.find_engine()
    if isinstance(found, str):
        raise MissingEngine(found)
    if not shutil.which("docker"):
        raise MissingEngine("The program docker is missing: install docker-cli.")
    return found, module.IMAGE


def measure(count):
    """Start ``count`` containers each way.

    :return: a dict of medians in milliseconds: ours_start, docker_start (to the first
        instruction), ours_whole, docker_whole (until it is removed)
    """
    engine, image = find_engine()
    image_id = engine.client.inspect_image(image)["Id"]
    times = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("checkout", "home", "tmp"):
            (folder / part).mkdir()
        ways = {"ours": _Ours(engine.host, image_id, folder), "docker": _Cli(engine.host, image_id)}
        for number in range(count + 1):
            for way in sorted(ways, reverse=number % 2 == 1):
                start, whole = ways[way].run(folder, number)
                if number:  # the first one of each is for the caches
                    times.setdefault(f"{way}_start", []).append(start * 1000)
                    times.setdefault(f"{way}_whole", []).append(whole * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def _uptime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _said(output):
    """The seconds since boot that a container has said."""
    try:
        return float(output.split()[0])
    except (IndexError, ValueError):
        raise BenchmarkError(f"a container did not say the time: {output!r}") from None


class _Cli:
    """`docker run`, with what the executor asks for."""

    def __init__(self, host, image):
        self._host, self._image = host, image

    def run(self, folder, _number):
        """Seconds to the first instruction, and until it is removed."""
        mounts = [f"{folder / part}" for part in ("checkout", "home", "tmp")]
        options = [
            "--rm", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges",
            "--read-only", f"--tmpfs=/tmp:rw,exec,nosuid,nodev,mode=1777,size={TMP}",
            f"--shm-size={TMP}", f"--memory={MEMORY}", f"--memory-swap={MEMORY}",
            f"--pids-limit={PROCESSES}", "--ulimit=core=0:0", "--oom-score-adj=500",
            f"--user={os.getuid()}:{os.getgid()}", f"--workdir={folder / 'checkout'}",
            *(f"--mount=type=bind,source={path},target={path}" for path in mounts),
        ]  # fmt: skip
        began = _uptime()
        ended = subprocess.run(
            ["docker", "--host", self._host, "run", *options, self._image, *SAY],
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise BenchmarkError(f"docker run failed: {ended.stderr.strip()}")
        return _said(ended.stdout) - began, _uptime() - began


class _Ours:
    """The worker's executor, followed as a run follows it."""

    def __init__(self, host, image, folder):
        from worker.executors.docker import DockerExecutor

        self._executor = DockerExecutor(host)
        self._image = image
        (folder / "processes").mkdir()

    def run(self, folder, number):
        """Seconds to the first instruction, and until it is removed."""
        from worker.executors.base import Limits, ProcessSpec, Sandbox

        sandbox = Sandbox(
            self._image,
            folders=[folder / part for part in ("checkout", "home", "tmp")],
            tmp_size=TMP,
        )
        spec = ProcessSpec(
            argv=SAY,
            cwd=folder / "checkout",
            env={},
            lease_deadline=time.monotonic() + END_SECONDS,
            timeout=END_SECONDS,
            grace=1,
            limits=Limits(memory=MEMORY, processes=PROCESSES),
            sandbox=sandbox,
        )
        began = _uptime()
        handle = self._executor.start(spec, folder / "processes" / str(number))
        output, offset, status = b"", 0, None
        while True:
            status = self._executor.poll(handle)
            chunks, offset = self._executor.read_output(handle, offset)
            output += b"".join(chunk.data for chunk in chunks)
            if status and not chunks:
                break
            time.sleep(0.01)
        self._executor.cleanup(handle)
        ended = _uptime()
        if status.exit_code != 0:
            raise BenchmarkError(f"a container ended with {status}")
        return _said(output.decode()) - began, ended - began
