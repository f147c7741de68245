"""All settings of a worker in one typed object, read from the command line and the environment.

The environment variable of ``--work-dir`` is ``ODOOOPS_WORK_DIR``, and so on; the command line
wins. A wrong value stops the start with a sentence. Passwords belong into the environment or a
password file: a command line can be read by everybody.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ENV_PREFIX = "ODOOOPS_"
#: Folder of the folders that are not given.
HOME = Path("~/.local/share/odooops")
KINDS = ("daemon", "scheduled")
STOP_WAYS = ("finish", "handover")
LOG_LEVELS = ("debug", "info", "warning", "error")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,59}")
_KEY_PREFIX = re.compile(
    r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*"
)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


class SettingsError(Exception):
    """A setting is wrong; the message is a sentence that names it."""


def _setting(default: Any, read: Callable[[str], Any], help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"read": read, "help": help_text})


def _number(low: float, high: float, kind: type = float) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise SettingsError(f"must be {what} from {low:g} to {high:g}")
        return value

    return read


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise SettingsError(f"must be one of {', '.join(choices)}")
        return text

    return read


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise SettingsError("must be the path of a folder")
    return Path(text).expanduser().absolute()


def _url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", text):
        raise SettingsError("must be an address like https://odoo.example.com")
    return text


def _file(text: str) -> Path:
    # It is read for each run, so that a rotation needs no restart; Odoo makes it with the first
    # secret, so it need not exist yet.
    if not text or "\0" in text:
        raise SettingsError("must be the path of a file")
    return Path(text).expanduser().absolute()


def _folder(text: str) -> Path:
    path = _path(text)
    if not path.is_dir():
        raise SettingsError(f"must be a folder that exists, and {path} is none")
    return path


def _ca_bundle(text: str) -> str:
    if text and not Path(text).expanduser().is_file():
        raise SettingsError("must be a file that exists")
    return str(Path(text).expanduser().absolute()) if text else ""


def _prefix(text: str) -> str:
    if text.strip("/") and not _KEY_PREFIX.fullmatch(text.strip("/")):
        raise SettingsError("must be a path of letters, digits and . _ -")
    return text.strip("/")


def _endpoint(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/@]+/?", text):
        raise SettingsError("must be like https://s3.example.com, without a path or a password")
    return text


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(_folder(part) for part in text.split(",") if part.strip())


def _labels(text: str) -> tuple[str, ...]:
    labels = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise SettingsError(
                f"holds {label!r}, which is not a label (letters, digits and . _ : -)"
            )
    return labels


def _command(text: str) -> tuple[str, ...]:
    try:
        argv = tuple(shlex.split(text))
    except ValueError as error:
        raise SettingsError(f"is not a command: {error}") from error
    if not argv:
        raise SettingsError("must be a command")
    return argv


def _flag(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise SettingsError(f"must be one of {', '.join(_TRUE + _FALSE[1:])}")
    return text.lower() in _TRUE


@dataclasses.dataclass(frozen=True)
class Settings:
    """One worker's settings. Times are seconds."""

    #: Where the control plane is. Empty: the PG* variables.
    dsn: str = _setting("", str, "libpq connection string of the control plane's database")
    #: Odoo's address, for a host that does not reach the database. Takes the place of dsn.
    control_url: str = _setting("", _url, "address of Odoo, for a host without its database")
    #: Where the token of this host is kept; ``register`` writes it.
    token_file: Path = _setting(HOME / "worker-token", _path, "file with this host's worker token")
    #: Of a server with several databases.
    control_database: str = _setting("", str, "database of that Odoo, where it has several")
    #: Authority of the server's certificate, when it is not a public one.
    control_ca: str = _setting("", str, "file with the authority of that Odoo's certificate")
    #: Where the databases of runs are made. Its role needs CREATEDB and CREATEROLE.
    runs_dsn: str = _setting("", str, "libpq connection string of the server for run databases")
    #: The file store of artifacts; all workers and Odoo must see the same files. Over HTTP it is
    #: not used, as the control plane stores files then.
    artifacts: Path = _setting(HOME / "artifacts", _path, "folder of the artifact store")
    #: What opens the secrets of projects; without it a run that needs some fails and says so.
    secrets_key: Path | None = _setting(None, _file, "file with the keys of the secrets")
    #: A bucket in place of the file store; credentials come from where boto3 looks for them.
    s3_bucket: str = _setting("", str, "S3 bucket of the artifact store, in place of the folder")
    #: One per control plane: each removes what it does not know.
    s3_prefix: str = _setting("", _prefix, "prefix of all keys in the bucket")
    s3_endpoint: str = _setting("", _endpoint, "address of the S3 server, when it is not AWS")
    s3_region: str = _setting("", str, "region of the bucket")
    s3_path_style: bool = _setting(False, _flag, "address the bucket as a path of the server")
    s3_ca_bundle: str = _setting("", _ca_bundle, "file of CA certificates of the S3 server")
    s3_profile: str = _setting("", str, "profile of the AWS configuration on this host")
    #: What one run may store. The complete log does not count.
    artifact_limit_mb: int = _setting(
        10_240, _number(1, 5_242_880, int), "MiB one artifact may have"
    )
    run_artifacts_limit_mb: int = _setting(
        51_200, _number(1, 52_428_800, int), "MiB all artifacts of a run may have"
    )
    #: Uploads are tried again for so long.
    store_seconds: float = _setting(
        120.0, _number(0, 3600), "how long to try to reach the artifact store"
    )
    #: Private folders of runs, removed at their end. Needs room for checkouts and filestores.
    work_dir: Path = _setting(HOME / "work", _path, "folder for the work directories of runs")
    #: How many runs at the same time.
    capacity: int = _setting(2, _number(1, 100, int), "how many runs at the same time (1 to 100)")
    #: What this worker offers; a run that asks for more goes to another one.
    labels: tuple[str, ...] = _setting(
        (), _labels, "labels this worker offers, separated by commas"
    )
    #: The operator's consent to processes without isolation.
    allow_process: bool = _setting(False, _flag, "run the steps as local processes, not isolated")
    #: Of all caches of runs on this host; the longest unused go first. 0: no caches.
    cache_limit_mb: int = _setting(
        10_240, _number(0, 52_428_800, int), "MiB of caches kept for runs (0: none)"
    )
    #: Of them those of one project, so that its runs cannot push all others out.
    cache_project_limit_mb: int = _setting(
        5_120, _number(1, 52_428_800, int), "MiB of caches kept for the runs of one project"
    )
    #: Whether to run workflows that name a tool in containers.
    docker: bool = _setting(False, _flag, "run workflows that name a tool in Docker containers")
    #: The engine, on this host as it shares the work directory. Empty: DOCKER_HOST, or the usual.
    docker_host: str = _setting("", str, "address of the Docker engine, unix:///path")
    #: Limits of a step, as far as its tool says nothing else. 0: none.
    run_memory_mb: int = _setting(4096, _number(0, 1 << 24, int), "memory of a container in MiB")
    run_cpus: float = _setting(0.0, _number(0, 1024), "processors of a container (0: all)")
    run_processes: int = _setting(1024, _number(0, 1 << 22, int), "processes of a step")
    run_output_mb: int = _setting(1024, _number(0, 1 << 20, int), "output of a step in MiB")
    #: Of the server that a run's service is. Empty: PATH, then Debian's folders, the newest first.
    postgres_programs: Path | None = _setting(
        None, _folder, "folder of the programs initdb and postgres, for services"
    )
    #: Only of a worker that runs as root, which PostgreSQL does not.
    postgres_user: str = _setting("postgres", str, "user of services' PostgreSQL servers, for root")
    #: How runs start Odoo.
    odoo: tuple[str, ...] = _setting((), _command, "command that starts Odoo")
    #: Addons of that Odoo beside its own.
    odoo_addons: tuple[Path, ...] = _setting((), _folders, "Odoo's further addons folders (commas)")
    #: End as soon as the queue has nothing for this worker and nothing runs.
    until_idle: bool = _setting(False, _flag, "end when there is nothing to do")
    #: daemon, or scheduled when Odoo's scheduled action started it.
    kind: str = _setting("daemon", _choice(*KINDS), "daemon or scheduled")
    #: Between two heartbeats. The lease lasts 60, so several may be lost.
    heartbeat_seconds: float = _setting(10.0, _number(0.1, 20), "seconds between heartbeats")
    #: Between two looks into an empty queue; a notification comes sooner.
    poll_seconds: float = _setting(1.0, _number(0.05, 60), "seconds between looks into the queue")
    #: Between two sweeps for runs whose worker is gone.
    reap_seconds: float = _setting(15.0, _number(0.1, 300), "seconds between sweeps for lost runs")
    #: Between two collections of run databases and work directories nobody owns.
    garbage_seconds: float = _setting(
        300.0, _number(1, 86400), "seconds between removing leftovers"
    )
    #: Processes are killed so long before the lease ends (a third of the lease at most).
    kill_margin_seconds: float = _setting(15.0, _number(1, 60), "safety margin before a lease ends")
    #: From SIGINT to SIGKILL when a run is canceled.
    cancel_grace_seconds: float = _setting(10.0, _number(0, 300), "grace of a canceled run")
    #: What the first SIGTERM means for running work: let it end, or leave it to the next worker on
    #: this work directory.
    on_stop: str = _setting(
        "finish", _choice(*STOP_WAYS), "what SIGTERM means for running work: finish or handover"
    )
    #: How long a stopping worker waits for its runs.
    drain_seconds: float = _setting(
        3600.0, _number(0, 86400), "how long to wait for runs at the end"
    )
    #: Of the output of one run; what comes after it is cut, with a line that says so.
    log_limit_mb: int = _setting(512, _number(1, 100_000, int), "MiB of output kept of a run")
    #: Of log lines of one run that wait for the control plane; more are left out, with a line that
    #: says so. The complete log has them.
    spool_limit_mb: int = _setting(
        256, _number(1, 100_000, int), "MiB of log lines of a run that may wait on disk"
    )
    #: Of the worker's own log, on stderr.
    log_level: str = _setting("info", _choice(*LOG_LEVELS), "level of the worker's own log")

    def to_json(self) -> str:
        """All of it for another process of this worker. It may hold passwords."""
        return json.dumps(dataclasses.asdict(self), default=lambda path: {"path": str(path)})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings ``to_json`` wrote."""

        def plain(value: Any) -> Any:
            if isinstance(value, list):
                return tuple(map(plain, value))
            return Path(value["path"]) if isinstance(value, dict) else value

        return cls(**{name: plain(value) for name, value in json.loads(text).items()})

    @property
    def has_runs_server(self) -> bool:
        """Whether there is a server for databases of runs: over HTTP there need not be one."""
        is_told = any(name in os.environ for name in ("PGHOST", "PGSERVICE", "PGDATABASE"))
        return bool(self.runs_dsn or not self.control_url or is_told)


def option_of(name: str) -> str:
    """``work_dir`` → ``--work-dir``."""
    return "--" + name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting. Options that are not given stay None."""
    for field in dataclasses.fields(Settings):
        help_text = f"{field.metadata['help']} [{ENV_PREFIX}{field.name.upper()}]"
        if field.default not in (None, "", (), False):
            help_text += f" (default: {field.default})"
        kind: dict[str, Any] = {"metavar": field.name.upper()}
        if isinstance(field.default, bool):
            kind = {"action": "store_const", "const": "1"}
        text = help_text.replace("%", "%%")
        parser.add_argument(option_of(field.name), dest=field.name, default=None, help=text, **kind)


def read_settings(
    options: argparse.Namespace,
    environment: Mapping[str, str],
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from options, then environment, then ``defaults``, then the class.

    Raises ``SettingsError`` with a sentence for the first wrong value.
    """
    values = dict(defaults or {})
    for field in dataclasses.fields(Settings):
        name = f"{ENV_PREFIX}{field.name.upper()}"
        text = getattr(options, field.name, None)
        source = option_of(field.name)
        if text is None and name in environment:
            text, source = environment[name], name
        if text is None:
            continue
        try:
            values[field.name] = field.metadata["read"](text)
        except SettingsError as error:
            raise SettingsError(f"{source} {error}; it is {text!r}.") from error
    for name in ("artifacts", "work_dir", "token_file"):
        path = Path(values.get(name) or getattr(Settings, name))
        values[name] = path.expanduser().absolute()
    values["odoo"] = values.get("odoo") or find_odoo()
    values["runs_dsn"] = values.get("runs_dsn") or values.get("dsn", "")
    return Settings(**values)


def find_odoo() -> tuple[str, ...]:
    """The command that starts Odoo: a script beside this Python or in PATH, else the module."""
    beside = Path(sys.executable).with_name("odoo")
    script = str(beside) if beside.is_file() else shutil.which("odoo") or shutil.which("odoo-bin")
    return (sys.executable, script) if script else (sys.executable, "-m", "odoo")


def parse(
    argv: Sequence[str], defaults: Mapping[str, Any] | None = None, prog: str | None = None
) -> Settings:
    """Settings of a command line; a wrong one ends the program with exit code 2 and a sentence."""
    parser = argparse.ArgumentParser(prog=prog, description="Execute the runs of an OdooOps queue.")
    add_arguments(parser)
    try:
        return read_settings(parser.parse_args(argv), os.environ, defaults)
    except SettingsError as error:
        parser.error(str(error))
