"""Which reference is made by what."""

from pathlib import Path

from . import apps_page, codes, methods, settings

COMMAND = "make docs"
HEADER = f"<!-- Made by `{COMMAND}` from the code; do not edit. -->"
DOCUMENTS = {
    "docs/errors.md": codes.render,
    "docs/methods.md": methods.render,
    "docs/settings.md": settings.render,
    "static/description/index.html": apps_page.render,
}


def problems():
    """Sentences about what has no words yet; with any of them nothing is written."""
    return codes.problems() + settings.problems()


def rendered():
    """The references, {file: text}."""
    return {name: f"{HEADER}\n{render()}" for name, render in DOCUMENTS.items()}


def write(root):
    """Write them below a folder; return the names of those that have changed."""
    changed = []
    for name, text in rendered().items():
        path = Path(root) / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed
