"""Find the Odoo modules of a checkout and decide which of them a run installs.

Manifests are read as data, never executed. Whatever is asked here is answered from the checkout and
from what the Odoo installation reports about itself (``odoo.py``); nothing is installed yet.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RunError

MANIFEST = "__manifest__.py"
#: Folders below the checkout in which modules are looked for: <checkout>/a/b/c/<module> at most.
MAX_DEPTH = 4
#: Folders that hold links to, copies of or packaging for modules, not modules.
SKIPPED_FOLDERS = frozenset({"setup", "node_modules", "__pycache__"})
MODULE_NAME = re.compile(r"[A-Za-z0-9_]{1,256}")
_MAX_MANIFEST_BYTES = 1 << 18


@dataclasses.dataclass(frozen=True)
class Addon:
    """One module of the repository."""

    name: str
    path: Path
    #: where it lies in the checkout, with / between the parts; "." for a repository that is one
    #: module
    folder: str
    depends: tuple[str, ...] = ()
    version: str = ""
    installable: bool = True
    #: files named by data and demo in the manifest
    data: tuple[str, ...] = ()
    #: why the manifest cannot be used ("file:line: reason"), None when it can
    problem: str | None = None


def find_addons(checkout: Path, root_name: str = "") -> dict[str, Addon]:
    """Return the modules of a checkout by name, also those that are not installable or broken.

    Of modules with the same name the one nearest to the root counts. Links out of the checkout are
    not followed.

    :param root_name: the name of the module if the repository itself is one: its folder has no name
        of its own
    """
    checkout = checkout.resolve()
    found: dict[str, Addon] = {}
    seen = {checkout}
    level = [checkout]
    for _depth in range(MAX_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            if (folder / MANIFEST).is_file():
                name = root_name if folder == checkout else folder.name
                if MODULE_NAME.fullmatch(name):
                    found.setdefault(name, _read_addon(name, folder, checkout))
                continue
            deeper += _subfolders(folder, checkout, seen)
        level = deeper
    return found


def _subfolders(folder: Path, checkout: Path, seen: set[Path]) -> list[Path]:
    """Return the folders to look into, each real folder once."""
    result = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS or not entry.is_dir():
            continue
        path = Path(entry.path)
        real = path.resolve()
        if real not in seen and real.is_relative_to(checkout):
            seen.add(real)
            result.append(path)
    return result


def _read_addon(name: str, path: Path, checkout: Path) -> Addon:
    folder = path.relative_to(checkout).as_posix()
    try:
        manifest = read_manifest(path / MANIFEST, f"{folder}/{MANIFEST}".removeprefix("./"))
    except ManifestError as error:
        return Addon(name=name, path=path, folder=folder, problem=str(error))
    return Addon(
        name=name,
        path=path,
        folder=folder,
        # Every module but base depends on base, said or not.
        depends=tuple(manifest.get("depends") or ("base",)),
        version=str(manifest.get("version") or ""),
        installable=bool(manifest.get("installable", True)),
        data=(*manifest.get("data", ()), *manifest.get("demo", ())),
    )


class ManifestError(ValueError):
    """A manifest cannot be used; the message is "file:line: reason"."""


def read_manifest(path: Path, shown: str) -> dict[str, Any]:
    """Return the manifest as a dictionary.

    :param shown: the file's name in messages
    :raises ManifestError: when it is unreadable, no dictionary of literals, or a list in it is none
    """
    line = 1
    try:
        with path.open("rb") as stream:
            source = stream.read(_MAX_MANIFEST_BYTES + 1)
        if len(source) > _MAX_MANIFEST_BYTES:
            raise ManifestError(
                f"{shown}:1: the manifest is larger than {_MAX_MANIFEST_BYTES} bytes"
            )
        manifest = ast.literal_eval(source.decode("utf-8-sig").strip())
    except ManifestError:
        raise
    except SyntaxError as error:
        raise ManifestError(f"{shown}:{error.lineno or line}: {error.msg}") from error
    except (ValueError, TypeError, RecursionError, MemoryError, OSError) as error:
        match = re.search(r"on line (\d+)", str(error))
        line = int(match[1]) if match else 1
        reason = "the manifest must be a dictionary of plain values"
        reason = str(error) if isinstance(error, (OSError, UnicodeError)) else reason
        raise ManifestError(f"{shown}:{line}: {reason}") from error
    if not isinstance(manifest, dict):
        raise ManifestError(f"{shown}:1: the manifest is no dictionary")
    for key in ("depends", "data", "demo"):
        value = manifest.get(key, [])
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise ManifestError(f"{shown}:1: “{key}” must be a list of strings")
    return manifest


def selected_modules(
    config: Mapping[str, Any], addons: Mapping[str, Addon], odoo_modules: Collection[str]
) -> list[str]:
    """Return the modules the run is about: those named by its config, else all installable ones.

    ``modules`` of the config wins over ``MODULES`` (names between commas or spaces) of its ``env``.
    Odoo's own modules may be named too.

    :raises RunError: no_addons, unknown_module or syntax_error
    """
    named = list(config.get("modules") or [])
    if not named:
        named = [
            name for name in re.split(r"[,\s]+", config.get("env", {}).get("MODULES", "")) if name
        ]
    if named:
        _require_known(named, addons, odoo_modules)
        return list(dict.fromkeys(named))
    for addon in addons.values():
        if addon.problem:
            raise RunError("syntax_error", f"{addon.problem}.")
    installable = sorted(name for name, addon in addons.items() if addon.installable)
    if not installable:
        found = "holds no Odoo module" if not addons else "holds no installable Odoo module"
        raise RunError(
            "no_addons", f"The repository {found} (looked {MAX_DEPTH} folders deep for {MANIFEST})."
        )
    return installable


def _require_known(
    names: Iterable[str], addons: Mapping[str, Addon], odoo_modules: Collection[str]
) -> None:
    """Raise unknown_module for the first name that is nowhere or marked as not installable."""
    for name in names:
        if name in addons and not addons[name].problem and not addons[name].installable:
            raise RunError(
                "unknown_module", f"Module “{name}” is marked as not installable in its manifest."
            )
        if name not in addons and name not in odoo_modules:
            known = ", ".join(sorted(addons)[:20]) or "no module"
            raise RunError(
                "unknown_module",
                f"Module “{name}” is neither in the repository nor in Odoo."
                f" The repository holds: {known}.",
            )


def closure(
    modules: Sequence[str],
    addons: Mapping[str, Addon],
    odoo_modules: Mapping[str, Sequence[str]],
    odoo_version: str,
) -> list[str]:
    """Return the modules with everything they depend on, dependencies first.

    :param odoo_modules: name -> depends of the modules of the Odoo installation
    :raises RunError: missing_dependency, or syntax_error for a manifest that cannot be read
    """
    ordered: dict[str, None] = {}
    path: list[str] = []
    # Depth first with a stack of our own: the depth of dependencies is the repository's, not ours.
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(modules)]
    while stack:
        name, done = stack.pop()
        if done:
            path.pop()
            ordered[name] = None
            continue
        if name in ordered:
            continue
        if name in path:
            circle = " → ".join([*path[path.index(name) :], name])
            raise RunError(
                "missing_dependency", f"Modules depend on each other in a circle: {circle}."
            )
        depends = _depends(name, path[-1] if path else None, addons, odoo_modules, odoo_version)
        path.append(name)
        stack.append((name, True))
        stack += [(dependency, False) for dependency in reversed(depends)]
    return list(ordered)


def _depends(
    name: str,
    needed_by: str | None,
    addons: Mapping[str, Addon],
    odoo_modules: Mapping[str, Sequence[str]],
    odoo_version: str,
) -> Sequence[str]:
    addon = addons.get(name)
    if addon and addon.problem:
        raise RunError("syntax_error", f"{addon.problem}.")
    if addon and addon.installable:
        return () if name == "base" else addon.depends
    if name in odoo_modules:
        return odoo_modules[name]
    where = (
        "is not installable"
        if addon
        else f"is neither in the repository nor in Odoo {odoo_version}"
    )
    raise RunError(
        "missing_dependency", f"Module “{needed_by}” depends on “{name}”, which {where}."
    )


def checksum(path: Path) -> str:
    """Return the SHA-256 (hex) over names and contents of a module's files."""
    digest = hashlib.sha256()
    for file in module_files(path):
        relative = file.relative_to(path).as_posix()
        digest.update(f"{relative}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def module_files(path: Path) -> list[Path]:
    """Return the regular files of a module, sorted, without byte code, hidden files and links."""
    files = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = [name for name in subfolders if name[0] != "." and name != "__pycache__"]
        for name in names:
            file = Path(folder, name)
            if (
                name[0] != "."
                and not name.endswith(".pyc")
                and not file.is_symlink()
                and file.is_file()
            ):
                files.append(file)
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def root_module_name(config: Mapping[str, Any], repository_url: str) -> str:
    """Return the name for a repository that itself is a module.

    It is the last part of its URL, unless the config names only others: then the first of these.
    """
    names = config.get("modules") or re.split(r"[,\s]+", config.get("env", {}).get("MODULES", ""))
    last = repository_url.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".git")
    candidate = re.sub(r"\W", "_", last, flags=re.ASCII)
    if candidate in names:
        return candidate
    return next((name for name in names if MODULE_NAME.fullmatch(name)), candidate)
