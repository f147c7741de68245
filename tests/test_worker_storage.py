"""The file store and the collection of artifacts: whole files, true checksums, no way out."""

import hashlib
import io
import os

from odoo.addons.odooops.worker.artifacts import find_files, guess_content_type
from odoo.addons.odooops.worker.storage.base import StorageError, check_key
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore

from .worker_common import FolderCase


class Broken(io.RawIOBase):
    """A source that breaks after some bytes."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def read(self, size=-1):
        self.reads += 1
        if self.reads > 1:
            raise OSError(5, "Input/output error")
        return b"half"


class TestFilesystemStore(FolderCase):
    def setUp(self):
        super().setUp()
        self.store = FilesystemStore(self.folder / "store")

    def test_what_was_stored_comes_back_with_its_checksum(self):
        data = os.urandom(3_000_000)
        stored = self.store.put("project/1/dump.zip", io.BytesIO(data))
        self.assertEqual(stored.url, "filesystem:project/1/dump.zip")
        self.assertEqual(stored.size_bytes, len(data))
        self.assertEqual(stored.checksum, hashlib.sha256(data).hexdigest())
        with self.store.open(stored.url) as stream:
            self.assertEqual(stream.read(), data)

    def test_a_failed_upload_leaves_nothing_behind(self):
        with self.assertRaises(StorageError):
            self.store.put("project/1/dump.zip", Broken())
        self.assertEqual([p for p in (self.folder / "store").rglob("*") if p.is_file()], [])

    def test_keys_that_lead_elsewhere_are_refused(self):
        for key in ("/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "", "a b", "a\n", "x" * 513):
            with self.assertRaises(StorageError):
                check_key(key)
            with self.assertRaises(StorageError):
                self.store.open("filesystem:" + key)

    def test_links_inside_the_store_are_not_followed(self):
        outside = self.folder / "outside"
        outside.mkdir()
        (outside / "secret").write_text("secret")
        self.store.root.mkdir()
        (self.store.root / "link").symlink_to(outside)
        (self.store.root / "file").symlink_to(outside / "secret")
        for url in ("filesystem:link/secret", "filesystem:file"):
            with self.assertRaises(StorageError):
                self.store.open(url)
        with self.assertRaises(StorageError):
            self.store.put("link/new", io.BytesIO(b"x"))
        with self.assertRaises(StorageError):
            self.store.put("file", io.BytesIO(b"x"))
        self.assertEqual((outside / "secret").read_text(), "secret")

    def test_deleting_twice_is_fine_and_empty_folders_go_too(self):
        url = self.store.put("project/1/a", io.BytesIO(b"x")).url
        self.store.delete(url)
        self.store.delete(url)
        self.assertEqual(list(self.store.root.iterdir()), [])


class TestFindFiles(FolderCase):
    def found(self, *patterns):
        return {f.key: f.path for f in find_files(self.folder, [{"path": p} for p in patterns])}

    def test_patterns_find_files_and_folders_once(self):
        (self.folder / "logs" / "deep").mkdir(parents=True)
        for name in ("odoo.log", "logs/a b.log", "logs/deep/c.log"):
            (self.folder / name).write_text(name)
        expected = {"odoo.log", "logs/a_b.log", "logs/deep/c.log"}
        self.assertEqual(set(self.found("*.log", "logs", "**/*.log")), expected)

    def test_links_out_of_the_folder_and_special_files_are_left_out(self):
        (self.folder / "passwd").symlink_to("/etc/passwd")
        (self.folder / "etc").symlink_to("/etc")
        (self.folder / "inside.txt").write_text("x")
        (self.folder / "link.txt").symlink_to("inside.txt")
        os.mkfifo(self.folder / "pipe")
        self.assertEqual(
            list(self.found("passwd", "etc/*", "etc", "pipe", "*.txt")), ["inside.txt"]
        )

    def test_two_names_that_become_one_key_stay_two_artifacts(self):
        (self.folder / "a b").write_text("1")
        (self.folder / "a+b").write_text("2")
        self.assertEqual(set(self.found("*")), {"a_b", "a_b-2"})

    def test_content_types_are_guessed_by_the_name(self):
        self.assertEqual(guess_content_type("run.log.gz"), "application/gzip")
        self.assertEqual(guess_content_type("odoo.log"), "text/plain")
        self.assertEqual(guess_content_type("junit.xml").rpartition("/")[2], "xml")
        self.assertEqual(guess_content_type("strange"), "application/octet-stream")
