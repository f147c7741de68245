"""Odoo's list of apps shows the README, and asks no other server for anything."""

import re
from html.parser import HTMLParser
from pathlib import Path

from odoo.tests import TransactionCase, tagged

from odoo.addons import odooops

FOLDER = Path(odooops.__file__).resolve().parent / "static" / "description"
# Elements that have no end.
VOID = {"meta", "img", "br", "hr", "col"}
# What makes a browser fetch something as soon as the page is shown.
FETCHING = {"src", "srcset", "data", "background", "poster", "action"}


class Page(HTMLParser):
    """Elements that are open, and what the page would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.fetched, self.wrong = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in FETCHING]
        self.fetched += [value for name, value in attrs if name == "href" and tag == "link"]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"{self.getpos()}: </{tag}>")


@tagged("post_install", "-at_install")
class TestAppsPage(TransactionCase):
    def test_its_elements_are_closed_and_nothing_is_fetched_from_elsewhere(self):
        text = (FOLDER / "index.html").read_text(encoding="utf-8")
        page = Page()
        page.feed(text)
        self.assertEqual((page.open, page.wrong), ([], []))
        self.assertEqual(page.fetched, ["icon.png"])
        self.assertTrue((FOLDER / "icon.png").is_file())
        self.assertFalse({"script", "iframe", "style", "link"} & set(page.seen))
        self.assertNotRegex(text, r"@import|url\(")
        links = re.findall(r'href="([^"]*)"', text)
        self.assertEqual([link for link in links if "://" not in link], [], "served by nobody")

    def test_odoo_shows_it(self):
        module = self.env["ir.module.module"].search([("name", "=", "odooops")])
        shown = module.description_html
        self.assertIn("A control plane for self-hosted Odoo", shown)
        self.assertIn("/odooops/static/description/icon.png", shown)
        self.assertIn("docs/install.md", shown)
