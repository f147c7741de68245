"""The command ``odooops_probe``: what this Odoo installation offers, as JSON."""

import json
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

#: Before the JSON on standard output, which other code may write to as well.
MARK = "odooops_probe:"


class OdooopsProbe(Command):
    """Tell versions, modules and the external dependencies that are missing, as JSON."""

    name = "odooops_probe"

    def run(self, args):
        """Write {odoo_version, series, python, python_version, packages, modules, missing}."""
        initialize_sys_path()
        manifests = Manifest.all_addon_manifests()
        answer = {
            "odoo_version": release.version,
            "series": ".".join(str(part) for part in release.version_info[:2]),
            "python": sys.executable,
            "python_version": platform.python_version(),
            "packages": self._package_folders(),
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
