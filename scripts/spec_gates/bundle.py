"""Gate 1, *bundle*: each folder below `spec/` holds its four files and no others."""

import sys

from .findings import Finding, bundles, command

FILES = ("constitution.md", "prd.md", "plan.md", "tasks.md")


def check(root):
    """Findings about files that are missing, empty or too many."""
    folder = root / "spec"
    if not bundles(root):
        return [
            Finding("spec", 1, "there is no bundle", "add spec/odooops-sh/ with its four files")
        ]
    todo = "move it into a bundle, or remove it"
    found = [
        Finding(f"spec/{each.name}", 1, "a file outside of a bundle", todo)
        for each in folder.iterdir()
        if not each.is_dir()
    ]
    for bundle in bundles(root):
        there = {each.name: each for each in (root / bundle).iterdir()}
        for name in FILES:
            if name not in there or not there[name].is_file():
                found.append(Finding(f"{bundle}/{name}", 1, "the file is missing", "write it"))
            elif not there[name].stat().st_size:
                found.append(Finding(f"{bundle}/{name}", 1, "the file is empty", "write it"))
        for name in sorted(set(there) - set(FILES)):
            todo = f"keep only {', '.join(FILES)} in a bundle"
            found.append(Finding(f"{bundle}/{name}", 1, "the bundle has a file too many", todo))
    return found


if __name__ == "__main__":
    sys.exit(command({"bundle": check}))
