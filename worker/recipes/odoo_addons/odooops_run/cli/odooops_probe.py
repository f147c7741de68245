"""The command ``odooops_probe DATA_DIR``: what this Odoo installation offers, as JSON."""

import json
import os
import platform
import shutil
import site
import sys

from odoo import release
from odoo.cli import Command
from odoo.modules.module import (
    Manifest,
    MissingDependency,
    check_python_external_dependency,
    initialize_sys_path,
)
from odoo.tools import config
from odoo.tools.config import configmanager

#: Before the JSON on standard output, which other code may write to as well.
MARK = "odooops_probe:"


class OdooopsProbe(Command):
    """Tell versions, modules and the external dependencies that are missing, as JSON."""

    name = "odooops_probe"

    def run(self, args):
        """Write what the worker's ``Installation`` holds."""
        (data_dir,) = args
        own = self._own_addons()
        config["data_dir"] = data_dir
        config["addons_path"] = [*config["addons_path"], *own]
        initialize_sys_path()
        manifests = Manifest.all_addon_manifests()
        answer = {
            "odoo_version": release.version,
            "series": ".".join(str(part) for part in release.version_info[:2]),
            "python": sys.executable,
            "python_version": platform.python_version(),
            "packages": self._package_folders(),
            "python_path": os.environ.get("PYTHONPATH", ""),
            "addons_path": own,
            "modules": {
                manifest.name: list(manifest.raw_value("depends") or ["base"])
                for manifest in manifests
                if manifest.raw_value("installable") is not False
            },
            "missing": [
                {"module": manifest.name, "kind": kind, "name": name}
                for manifest in manifests
                for kind, name in self._missing(manifest)
            ],
        }
        answer["modules"]["base"] = []
        sys.stdout.write(f"\n{MARK}{json.dumps(answer)}\n")

    def _own_addons(self):
        """Return the addons folders that its configuration file and its environment name.

        Odoo has left out what is no folder of addons, and finds its own ones without being told.
        """
        installed = configmanager()
        installed._parse_config([])
        return installed["addons_path"]

    def _package_folders(self):
        """Return the folders of installed packages this Python looks into."""
        candidates = [*site.getsitepackages(), *sys.path]
        names = ("site-packages", "dist-packages")
        return [path for path in dict.fromkeys(candidates) if path.endswith(names)]

    def _missing(self, manifest):
        """Yield (kind, name) for the external dependencies that are not there."""
        needs = manifest.raw_value("external_dependencies") or {}
        for name in needs.get("python", ()):
            try:
                check_python_external_dependency(name)
            except MissingDependency:
                yield "python", name
        for name in needs.get("bin", ()):
            if not shutil.which(name):
                yield "bin", name
