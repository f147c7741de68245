"""`static/description/index.html`: README.rst as Odoo's list of apps shows it.

Odoo serves nothing but `static/`: pictures of the documents are left out there, and links into the
repository are told as the paths they are.
"""

from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree, publish_from_doctree
from docutils.writers.html5_polyglot import Writer

README = Path(__file__).resolve().parent.parent / "README.rst"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
</head>
<body>
<section class="oe_container">
<h1><img src="icon.png" alt="" width="48" height="48"> {title}</h1>
{body}
</section>
</body>
</html>
"""
SETTINGS = {
    # Nothing outside of the text has a say in what it becomes.
    "_disable_config": True,
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 2,
    "halt_level": 2,
    "initial_header_level": 2,
    "smart_quotes": False,
    "embed_stylesheet": False,
    "stylesheet_path": None,
}


def render():
    """The page, as text.

    :raise docutils.utils.SystemMessage: the README is no valid reStructuredText
    """
    tree = publish_doctree(README.read_text(encoding="utf-8"), settings_overrides=SETTINGS)
    for image in list(tree.findall(nodes.image)):
        image.parent.remove(image)
    for link in list(tree.findall(nodes.reference)):
        if "://" not in link["refuri"]:
            link.replace_self(nodes.literal(text=link["refuri"]))
    # Targets of links that are no longer there.
    for target in list(tree.findall(nodes.target)):
        target.parent.remove(target)
    for literal in tree.findall(nodes.literal):
        literal["classes"].append("code")
    title = tree["title"]
    html = publish_from_doctree(tree, writer=Writer(), settings_overrides=SETTINGS).decode()
    body = html.partition("<main")[2].partition(">")[2].partition("</main>")[0]
    body = body.partition("</h1>")[2].strip()
    return PAGE.format(title=title, body=body)
