"""What a run keeps: patterns, archives, test reports, and what they must not do."""

import io
import os
import tarfile
import threading

from odoo.addons.odooops.worker.archive import TarGz
from odoo.addons.odooops.worker.artifacts import ArtifactRecorder, Finder, Limits, find_files
from odoo.addons.odooops.worker.errors import RunError
from odoo.addons.odooops.worker.junit_report import MAX_SLOWEST, Report, ReportError
from odoo.addons.odooops.worker.storage.base import StoreUnavailable
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore
from odoo.addons.odooops.worker.workflow import validate_config, with_defaults

from .worker_common import FolderCase


def opened(path):
    return path.open("rb")


class TestArchives(FolderCase):
    def archive(self, folder):
        return TarGz(folder, opened).read()

    def test_a_folder_becomes_the_same_archive_each_time(self):
        folder = self.folder / "out"
        (folder / "deep").mkdir(parents=True)
        (folder / "b.txt").write_bytes(b"b" * 1_500_000)
        (folder / "deep" / ("ü" * 60)).write_text("long name")
        (folder / "empty").write_text("")
        (folder / "in").symlink_to("b.txt")
        (folder / "out").symlink_to("../../etc/passwd")
        (folder / "absolute").symlink_to(folder / "b.txt")
        os.mkfifo(folder / "pipe")
        data = self.archive(folder)
        self.assertEqual(data, self.archive(folder))
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            names = archive.getnames()
            self.assertEqual(names[:2], ["out/b.txt", "out/deep"])
            self.assertEqual(
                set(names),
                {"out/b.txt", "out/deep", f"out/deep/{'ü' * 60}", "out/empty", "out/in"},
            )
            self.assertEqual(archive.extractfile("out/b.txt").read(), b"b" * 1_500_000)
            self.assertEqual({member.uid for member in archive}, {0})

    def test_it_is_read_piece_by_piece(self):
        folder = self.folder / "out"
        folder.mkdir()
        (folder / "noise").write_bytes(os.urandom(5 << 20))
        stream = TarGz(folder, opened)
        pieces = iter(lambda: stream.read(100_000), b"")
        sizes = [len(piece) for piece in pieces]
        self.assertEqual(set(sizes[:-1]), {100_000})


class TestFinder(FolderCase):
    def test_a_folder_is_one_archive_or_its_files(self):
        (self.folder / "out" / "deep").mkdir(parents=True)
        (self.folder / "out" / "deep" / "a").write_text("a")
        found = list(find_files(self.folder, [{"path": "out", "archive": True}, {"path": "**"}]))
        self.assertEqual([item.key for item in found], ["out.tar.gz", "out/deep/a"])

    def test_the_checkout_itself_is_its_files_or_one_archive(self):
        (self.folder / "out").mkdir()
        (self.folder / "out" / "a").write_text("a")
        for path in (".", "./", "**"):
            found = [item.key for item in find_files(self.folder, [{"path": path}])]
            self.assertEqual(found, ["out/a"])
        whole, *rest = find_files(self.folder, [{"path": ".", "archive": True}])
        self.assertEqual((whole.key, whole.path, rest), ("checkout.tar.gz", self.folder, []))
        found = find_files(self.folder, [{"path": "**", "archive": True}])
        self.assertEqual([item.key for item in found], ["checkout.tar.gz", "out.tar.gz"])

    def test_a_pattern_that_finds_only_what_was_found_has_matched(self):
        (self.folder / "a").write_text("a")
        finder = Finder(self.folder)
        for path, count, has_matched in (("a", 1, True), ("*", 0, True), ("b*", 0, False)):
            self.assertEqual(len(list(finder.find({"path": path}))), count)
            self.assertEqual(finder.has_matched, has_matched)

    def test_folders_behind_links_are_not_archived(self):
        (self.folder / "work").mkdir()
        (self.folder / "secret").mkdir()
        (self.folder / "work" / "link").symlink_to("../secret")
        found = find_files(self.folder / "work", [{"path": "link", "archive": True}])
        self.assertEqual(list(found), [])


class Away(FilesystemStore):
    """A store that cannot be reached the first times."""

    failures = 2

    def put(self, key, source, content_type=None):
        if self.failures:
            source.read(10)
            self.failures -= 1
            raise StoreUnavailable("It is away.")
        return super().put(key, source, content_type)


class TestRecorder(FolderCase):
    def recorder(self, store=None, **limits):
        limits = Limits(**{"file_bytes": 100, "run_bytes": 150, "patience": 30.0, **limits})
        store = store or FilesystemStore(self.folder / "store")
        return ArtifactRecorder(store, None, (1, 1), "demo", limits)

    def file(self, size):
        path = self.folder / f"file-{size}"
        path.write_bytes(b"x" * size)
        return path

    def test_limits_hold_for_each_file_and_for_all(self):
        recorder = self.recorder()
        with self.assertRaisesRegex(RunError, "Artifact big exceeds"):
            recorder.store("big", self.file(101))
        recorder.store("a", self.file(100))
        with self.assertRaisesRegex(RunError, "With b the artifacts of the run exceed"):
            recorder.store("b", self.file(51))
        recorder.store("c", self.file(50))
        recorder.store("run.log.gz", self.file(500), is_limited=False)
        found = {path.name for path in (self.folder / "store").rglob("*") if path.is_file()}
        self.assertEqual(found, {"a", "c", "run.log.gz"})

    def test_an_archive_stops_growing_at_the_limit(self):
        (self.folder / "out").mkdir()
        (self.folder / "out" / "noise").write_bytes(os.urandom(5000))
        with self.assertRaisesRegex(RunError, "exceeds"):
            self.recorder(file_bytes=4000, run_bytes=9000).store("out.tar.gz", self.folder / "out")

    def test_an_upload_ends_when_the_run_does(self):
        stopped = threading.Event()
        stopped.set()

        def check():
            if stopped.is_set():
                raise RunError("canceled", "Canceled.")

        with self.assertRaisesRegex(RunError, "Canceled"):
            self.recorder().store("a", self.file(10), check=check)
        self.assertEqual([p for p in (self.folder / "store").rglob("*") if p.is_file()], [])

    def test_a_store_that_is_away_is_waited_for(self):
        store = Away(self.folder / "store")
        stored = self.recorder(store).store("a", self.file(10))
        with store.open(stored.url) as stream:
            self.assertEqual(stream.read(), b"x" * 10)
        store.failures = 99
        with self.assertRaises(RunError) as caught:
            self.recorder(store, patience=0).store("b", self.file(11))
        self.assertEqual(caught.exception.code, "store_unavailable")


class TestReports(FolderCase):
    def report(self, *texts):
        report = Report()
        for number, text in enumerate(texts):
            path = self.folder / f"{number}.xml"
            path.write_bytes(text.encode() if isinstance(text, str) else text)
            report.add_file(path)
        return report

    def test_results_of_several_files_add_up(self):
        report = self.report(
            '<testsuites><testsuite><testcase classname="p.T" name="a" time="0.5"/>'
            '<testcase classname="p.T" name="b" time="2" file="p.py" line="7">'
            '<failure message="no">trace</failure><system-out>x</system-out></testcase>'
            "</testsuite></testsuites>",
            '<testsuite><testcase name="c" time="1,000.5">'
            "<error>first line\nmore</error></testcase>"
            '<testcase name="d"><skipped message="no browser"/></testcase></testsuite>',
        )
        self.assertEqual(
            report.counts, {"total": 4, "passed": 1, "failed": 1, "errors": 1, "skipped": 1}
        )
        first, second = report.failed
        self.assertEqual((first["name"], first["message"], first["line"]), ("T.b", "no", 7))
        self.assertTrue(second["message"].startswith("first line"))
        self.assertEqual([test["name"] for test in report.slowest()], ["c", "T.b", "T.a"])

    def test_only_the_slowest_are_named(self):
        cases = "".join(f'<testcase name="t{n}" time="{n}"/>' for n in range(100))
        slowest = self.report(f"<testsuite>{cases}</testsuite>").slowest()
        self.assertEqual(len(slowest), MAX_SLOWEST)
        self.assertEqual(slowest[0], {"name": "t99", "seconds": 99.0})

    def test_what_is_no_report_is_refused(self):
        bomb = (
            '<?xml version="1.0"?><!DOCTYPE t [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
            "<testsuite><testcase name='&b;'/></testsuite>"
        )
        for text, words in (
            (bomb, "document type"),
            ('<!DOCTYPE t SYSTEM "file:///etc/passwd"><testsuite/>', "document type"),
            ("<html/>", "its root is html"),
            ("<testsuite>", "not well-formed"),
            ("", "not well-formed"),
            (b"\xff\xfe\x00", "not well-formed"),
            ("<testsuite>" * 60, "nested too deeply"),
        ):
            with self.subTest(text=text[:40]), self.assertRaisesRegex(ReportError, words):
                self.report(text)

    def test_odd_numbers_count_as_none(self):
        (test,) = self.report(
            '<testsuite><testcase name="a" time="nan" line="x"><failure/></testcase></testsuite>'
        ).failed
        self.assertEqual(test["line"], 0)


class TestConfig(FolderCase):
    def test_the_settings_of_artifacts_are_checked(self):
        entry = {"path": "a", "archive": True, "optional": True, "when": "on_failure"}
        self.assertEqual(validate_config("test", {"junit": "*.xml", "artifacts": [entry]}), [])
        self.assertIsNone(with_defaults({})["junit"])
        for config, path in (
            ({"junit": "../x.xml"}, "junit"),
            ({"artifacts": [{"path": "a", "when": "never"}]}, "artifacts[0].when"),
            ({"artifacts": [{"path": "a", "archive": "yes"}]}, "artifacts[0].archive"),
        ):
            self.assertEqual([p.path for p in validate_config("test", config)], [path])
