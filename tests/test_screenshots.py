"""The pictures of the documents come out of the console in a real browser."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from PIL import Image

from odoo.tests import HttpCase, new_test_user, tagged
from odoo.tests.common import get_db_name

from ..devtools import screenshots
from .document_commands import ROOT
from .played_worker import Worker, make_workflow

LOGIN = "picture_platform"
SIZE = (1440, 900)
#: A page that has not been drawn has one or two; what is antialiased has hundreds.
COLOURS = 100


def forget_memory_limit():
    """Odoo bounds the addresses of its process; a browser reserves more than that."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def colours(path):
    """How many colours a picture has, and its format and size."""
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(image.width * image.height)
        return len(found), image.format, image.size


@tagged("post_install", "-at_install")
class TestScreenshots(HttpCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        new_test_user(cls.env, login=LOGIN, groups="odooops.group_platform_admin")
        cls.workflow = make_workflow(cls.env, "Picture shop")

    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(dir=os.environ.get("ODOOOPS_TEST_DIR")))
        self.addCleanup(shutil.rmtree, self.folder)

    def fail_a_run(self):
        self.workflow.queue_run(git_ref="broken-booking")
        run_id = Worker(self.registry).fail_next_run()
        self.env.invalidate_all()
        return run_id

    def take(self):
        """What `make screenshots` starts, against this server; what it said."""
        server = {
            "ODOOOPS_URL": self.base_url(),
            "ODOOOPS_DB": get_db_name(),
            "ODOOOPS_LOGIN": LOGIN,
            "ODOOOPS_PASSWORD": LOGIN,
        }
        with self.allow_requests(all_requests=True):
            ended = subprocess.run(
                [sys.executable, "-B", "-m", "devtools.screenshots", "--folder", self.folder],
                cwd=ROOT,
                env={**os.environ, **server},
                capture_output=True,
                text=True,
                timeout=300,
                preexec_fn=forget_memory_limit,
                check=False,
            )
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        return ended.stdout.splitlines()

    def test_the_pictures_of_the_documents_are_taken(self):
        if not any(map(shutil.which, screenshots.BROWSERS)):
            raise unittest.SkipTest("there is no Chromium")
        run_id = self.fail_a_run()
        self.assertEqual(run_id, self.env["ops.run"].search([("status", "=", "failed")])[:1].id)
        told = self.take()
        files = sorted(self.folder.iterdir())
        self.assertEqual(sorted(told), [str(file) for file in files])
        self.assertEqual({file.stem for file in files}, set(screenshots.PICTURES))
        for file in files:
            count, kind, size = colours(file)
            self.assertEqual((kind, size), ("PNG", SIZE), file.name)
            self.assertGreater(count, COLOURS, f"{file.name} is blank")
        self.assertNotEqual(*(file.read_bytes() for file in files))

    def test_the_folder_of_pictures_holds_those_and_no_others(self):
        kept = {file.stem: file for file in screenshots.IMAGES.glob("*.png")}
        self.assertEqual(set(kept), set(screenshots.PICTURES))
        for name, file in kept.items():
            count, kind, size = colours(file)
            self.assertEqual((kind, size), ("PNG", SIZE), name)
            self.assertGreater(count, COLOURS, name)

    def test_a_blank_picture_is_known_as_such(self):
        blank = self.folder / "blank.png"
        Image.new("RGB", SIZE, "white").save(blank)
        self.assertLessEqual(colours(blank)[0], COLOURS)
