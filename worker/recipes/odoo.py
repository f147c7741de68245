"""The run's Odoo, as recipes use it: what it offers, how it is started, why it failed.

It is the worker's own, or that of the image in whose containers the run's processes run. Either is
asked about itself by a command that is loaded from ``RUN_ADDONS``; nothing is taken from where its
files usually lie.
"""

from __future__ import annotations

import configparser
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import RunError
from ..logs import LogLine
from .addons import Addon
from .base import Job

#: Below the run's work directory: a copy of the module that Odoo loads inside a run; it answers the
#: probe and reports test results.
RUN_ADDONS = "worker_addons"
_RUN_ADDONS_SOURCE = Path(__file__).with_name("odoo_addons")
#: Path below ``RUN_ADDONS`` → content. Read once: after an upgrade the files are others, or gone.
_RUN_FILES = {
    path.relative_to(_RUN_ADDONS_SOURCE): path.read_bytes()
    for path in _RUN_ADDONS_SOURCE.rglob("*")
    if path.is_file() and path.suffix != ".pyc"
}
RUN_MODULE = "odooops_run"
_PROBE_COMMAND = "odooops_probe"
_PROBE_MARK = "odooops_probe:"
_PROBE_TIMEOUT = 120.0
_PROBE_LIMIT = 1 << 23
_MAX_CAUSE = 500
#: Below the run's work directory: links to the repository's modules, Odoo's configuration, its
#: data.
LINKS, CONFIG, DATA = "addons", "config", "data"


@dataclasses.dataclass(frozen=True)
class Installation:
    """What Odoo tells about itself."""

    #: such as 19.0-20260101
    odoo_version: str
    #: such as 19.0
    series: str
    #: path of the Python that runs Odoo
    python: str
    python_version: str
    #: folders with the packages of that Python
    packages: tuple[str, ...]
    #: further folders of packages that its environment names (PYTHONPATH), "" for none
    python_path: str
    #: addons folders that its own configuration names
    addons_path: tuple[str, ...]
    #: installable modules on the addons path: name -> depends
    modules: Mapping[str, Sequence[str]]
    #: missing external dependencies: {module, kind: python | bin, name}
    missing: tuple[Mapping[str, str], ...]


def link_addons(job: Job, addons: Iterable[Addon]) -> Path:
    """Make one addons folder with a link to every module of the checkout, and return it.

    Odoo takes a module's name from its folder and separates addons paths by commas; links serve
    repositories of any layout, also those that are one module or have a comma in a folder's name.
    """
    folder = job.workdir / LINKS
    folder.mkdir(exist_ok=True)
    for addon in addons:
        (folder / addon.name).symlink_to(addon.path, target_is_directory=True)
    return folder


def write_run_addons(job: Job) -> None:
    """Write the worker's own module, see ``RUN_ADDONS``, before anything asks for it."""
    for name, content in _RUN_FILES.items():
        path = job.workdir / RUN_ADDONS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def addons_path(job: Job, links: Path, own: Iterable[str] = ()) -> str:
    """Return the option that gives the run's Odoo its addons.

    The repository's modules win over all others.

    :param own: the folders the installation's own configuration names
    """
    repository = [links] if any(links.iterdir()) else []
    paths = [str(path) for path in (*repository, *job.odoo_addons, *own, job.workdir / RUN_ADDONS)]
    return f"--addons-path={','.join(dict.fromkeys(paths))}"


def probe(job: Job, links: Path, env: Mapping[str, str]) -> Installation:
    """Ask the Odoo installation what it is and has.

    :raises RunError: setup_error when Odoo cannot be started
    """
    answer = job.capture(
        [*job.odoo_argv, addons_path(job, links), _PROBE_COMMAND, str(job.workdir / DATA)],
        env=env,
        timeout=_PROBE_TIMEOUT,
        cwd=job.workdir,
        limit=_PROBE_LIMIT,
    )
    line = next((li for li in answer.stdout.splitlines() if li.startswith(_PROBE_MARK)), None)
    if answer.exit_code or line is None:
        for text in answer.stderr.splitlines()[-50:]:
            job.log("error", text)
        words = [text.strip() for text in answer.stderr.splitlines() if text.strip()]
        where = f" in {job.place}" if job.image else ""
        raise RunError(
            "setup_error",
            f"Odoo cannot be started{where} by “{' '.join(job.odoo_argv)}”:"
            f" {(words or ['no output'])[-1]}",
        )
    data = json.loads(line.removeprefix(_PROBE_MARK))
    return Installation(
        odoo_version=data["odoo_version"],
        series=data["series"],
        python=data["python"],
        python_version=data["python_version"],
        packages=tuple(data["packages"]),
        python_path=data["python_path"],
        addons_path=tuple(data["addons_path"]),
        modules=data["modules"],
        missing=tuple(data["missing"]),
    )


def write_config(job: Job, options: Mapping[str, object]) -> Path:
    """Write the run's odoo.conf, for its owner only.

    How the database is reached stands in the environment (``PG*``), which Odoo heeds: in a
    container its host is another one.
    """
    settings: dict[str, object] = {
        # Below the connection limit of the run's role.
        "db_maxconn": 32,
        "list_db": False,
        "max_cron_threads": 0,
        "workers": 0,
        **options,
    }
    parser = configparser.RawConfigParser()
    parser["options"] = {name: str(value) for name, value in settings.items()}
    folder = job.workdir / CONFIG
    folder.mkdir(exist_ok=True)
    path = folder / "odoo.conf"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        parser.write(stream)
    return path


class Causes:
    """Listens to Odoo's log for the errors that explain why it failed."""

    _HEADER = re.compile(
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ (?P<level>[A-Z]+) \S+ (?P<logger>[^\s:]+): "
    )
    _EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(?P<name>\w+)(?:: (?P<text>.*))?$")
    _MAX_RECORDS = 20
    _MAX_LINES = 400
    # Consequences and summaries; the cause stands in another record.
    _SUMMARIES = ("odoo.tests.result", "odoo.tests.stats")

    def __init__(self, shorten: Callable[[str], str]):
        """``shorten`` turns paths of the work directory into paths of the repository."""
        self._records: list[tuple[str, list[str]]] = []
        self._open = False
        self._shorten = shorten

    def listen(self, line: LogLine) -> None:
        """Take one line of output (``on_line`` of ``Job.execute``)."""
        text = line.message
        header = self._HEADER.match(text)
        if header:
            self._open = (
                header["level"] in ("ERROR", "CRITICAL")
                and not header["logger"].startswith(self._SUMMARIES)
                and not header["logger"].endswith(".tests")
                and ".tests." not in header["logger"]
                and len(self._records) < self._MAX_RECORDS
            )
            if self._open:
                self._records.append((header["level"], [text[header.end() :]]))
        elif self._open and len(self._records[-1][1]) < self._MAX_LINES:
            self._records[-1][1].append(text)

    def sentence(self) -> str:
        """Return the cause in one line, "" when Odoo logged no error.

        A critical error is what ended Odoo; its last exception is the cause. Else the first error
        counts.
        """
        critical = [lines for level, lines in self._records if level == "CRITICAL"]
        first = [lines for _level, lines in self._records]
        chosen = (critical or first or [[]])[0]
        text = " ".join((self._exception(chosen) or (chosen or [""])[0]).split())
        text = self._shorten(text)
        return text if len(text) <= _MAX_CAUSE else text[: _MAX_CAUSE - 1] + "…"

    def _exception(self, lines: list[str]) -> str:
        """Return the last exception of a record with a traceback: "ParseError: while parsing …"."""
        starts = [
            i for i, li in enumerate(lines) if li.startswith("Traceback (most recent call last)")
        ]
        if not starts:
            return ""
        for index in range(starts[-1] + 1, len(lines)):
            if lines[index] and not lines[index].startswith(" "):
                match = self._EXCEPTION.match(lines[index])
                said = [match["text"] or ""] if match else [lines[index]]
                said += [li.strip() for li in lines[index + 1 : index + 4] if li.strip()]
                name = match["name"] if match else ""
                return f"{name}: {' '.join(said).strip()}" if name else " ".join(said)
        return ""


def run_odoo(
    job: Job,
    addons: str,
    config: Path,
    arguments: Sequence[str],
    env: Mapping[str, str],
    causes: Causes,
) -> int:
    """Start Odoo with the run's configuration, ship its output, return its exit code.

    :param addons: as ``addons_path`` returns it
    """
    # Addons and data are no lines of the configuration: an image's environment may name others, and
    # only options win over it.
    argv = [
        *job.odoo_argv, addons, f"--data-dir={job.workdir / DATA}",
        "-c", str(config), "-d", job.database.name, *arguments,
    ]  # fmt: skip
    return job.execute(argv, name="Odoo", env=env, cwd=job.workdir, on_line=causes.listen)
