"""The commands of documents, run as they stand there."""

import os
import re
import subprocess
from pathlib import Path

from odoo.addons import odooops

ROOT = Path(odooops.__file__).resolve().parent


def fences(document, heading):
    """The texts of the code blocks below a heading, up to the next one of any level."""
    text = (ROOT / document).read_text(encoding="utf-8")
    below = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.M)[1]
    section = re.split(r"^#+ (?=.*\n\n)", below, maxsplit=1, flags=re.M)[0]
    found = re.findall(r"^( *)```\w*\n(.*?)^ *```$", section, flags=re.M | re.S)
    return [re.sub(rf"^{indent}", "", body, flags=re.M) for indent, body in found]


def run(commands, replaced, folder, said="", **environment):
    """Run the lines of a block by a shell that stops at the first failure; return the output.

    :param replaced: words of the document and what stands for them here
    :param said: what is typed when a program asks
    :raise AssertionError: with the output, when a command fails
    """
    for word, value in replaced.items():
        commands = re.sub(rf"(?<![A-Za-z_]){word}(?![A-Za-z_])", str(value), commands)
    ended = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env={**os.environ, **environment},
        input=said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        # No terminal: programs that ask for a password read it from stdin.
        start_new_session=True,
        check=False,
    )
    if ended.returncode:
        raise AssertionError(f"{commands}\nended with {ended.returncode}:\n{ended.stdout[-6000:]}")
    return ended.stdout
