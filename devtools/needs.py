"""Programs that only some tests need, and which of them must be there (ODOOOPS_REQUIRE)."""

import os
import shutil

PROGRAMS = {
    # Those Odoo looks for.
    "chromium": ("google-chrome", "chromium", "chromium-browser", "google-chrome-stable"),
    "docker": ("dockerd",),
    "docker-registry": ("docker-registry",),
    "shellcheck": ("shellcheck",),
}


def required():
    """Names in ODOOOPS_REQUIRE, a comma list."""
    return [name for name in os.environ.get("ODOOOPS_REQUIRE", "").split(",") if name]


def missing_programs(names):
    """Those of the names of which no program is in PATH."""
    # Where Debian has servers; an ordinary user's PATH may be without it.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return [
        name
        for name in names
        if name in PROGRAMS and not any(shutil.which(it, path=path) for it in PROGRAMS[name])
    ]
