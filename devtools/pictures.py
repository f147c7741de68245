"""`make screenshots`: the pictures of `docs/images`, from the demo as it runs."""

import subprocess

from . import lifecycle, paths, processes, services, venv


def pictures(arguments):
    """Start the demo unless it runs, take the pictures, stop what was started."""
    paths.prepare_local()
    was_running = processes.recorded(services.SERVER)
    lifecycle.up([])
    try:
        venv.ensure(["test"])
        argv = [str(venv.python()), "-B", "-m", "devtools.screenshots", *arguments]
        return subprocess.run(argv, cwd=paths.ROOT, check=False).returncode
    finally:
        if not was_running:
            lifecycle.down([])
