"""A PATH for the tests of shell scripts."""

import shutil
import sys


def make_path(folder, programs):
    """A folder in which only these programs are found, as a PATH; None when one is not installed.

    :param folder: Path to be made
    """
    folder.mkdir()
    for name in programs:
        found = sys.executable if name == "python3" else shutil.which(name)
        if not found:
            return None
        # By a wrapper: some programs look at the name of the link they are called by.
        (folder / name).write_text(f'#!/bin/sh\nexec "{found}" "$@"\n')
        (folder / name).chmod(0o755)
    return str(folder)
