"""One contract for the stores of artifacts: a folder, and S3 over real HTTP.

What only a network can do wrong, and what S3 keeps of a broken upload, is asked of S3 alone.
"""

import gc
import hashlib
import io
import os
import subprocess
import sys
import urllib.request
from datetime import datetime, timedelta, timezone
from unittest.mock import patch

from odoo.addons.odooops.worker.storage.base import (
    NotInStore,
    ObjectConflict,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
    content_disposition,
)
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore
from odoo.addons.odooops.worker.storage.parts import PARALLEL, PART_SIZE, part_size_for
from odoo.addons.odooops.worker.storage.s3 import S3Settings, S3Store

from .s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from .worker_common import ADDON, FolderCase

SIZES = (0, 1, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE)
LATER = datetime.now(timezone.utc) + timedelta(days=1)


class Broken(io.RawIOBase):
    """A source that breaks after a part and a half."""

    def __init__(self, error):
        super().__init__()
        self.left, self.error = PART_SIZE + PART_SIZE // 2, error

    def read(self, size=-1):
        if not self.left:
            raise self.error
        size = min(size, self.left, 1 << 20)
        self.left -= size
        return bytes(size)


class Contract:
    """The tests that both stores pass; ``self.store`` is one that is empty."""

    def put(self, key, data, **more):
        return self.store.put(key, io.BytesIO(data), **more)

    def test_what_goes_in_comes_out(self):
        for size in SIZES:
            with self.subTest(size=size):
                data = os.urandom(size)
                stored = self.put(f"project/1/{size}", data)
                self.assertEqual(stored.size_bytes, size)
                self.assertEqual(stored.checksum, hashlib.sha256(data).hexdigest())
                self.assertEqual(stored.url, self.store.url_of(f"project/1/{size}"))
                with self.store.open(stored.url) as stream:
                    self.assertEqual(stream.read(), data)
                target = io.BytesIO()
                self.assertEqual(self.store.fetch(stored.url, target), stored)
                self.assertEqual(target.getvalue(), data)
                info = self.store.stat(stored.url)
                self.assertEqual((info.key, info.size_bytes), (f"project/1/{size}", size))
                self.assertIn(info.checksum, (None, stored.checksum))
                self.assertLess(abs(info.modified - datetime.now(timezone.utc)).seconds, 60)

    def test_the_same_again_is_fine_and_something_else_is_refused(self):
        # Rule: R-18
        for size in (10, PART_SIZE + 1):
            data = os.urandom(size)
            stored = self.put(f"a/1/{size}", data)
            self.assertEqual(self.put(f"a/1/{size}", data), stored)
            for other in (data[:-1] + bytes([data[-1] ^ 1]), data + b"x", b""):
                with self.assertRaises(ObjectConflict):
                    self.put(f"a/1/{size}", other)
            with self.store.open(stored.url) as stream:
                self.assertEqual(stream.read(), data)

    def test_what_is_not_there_is_missing_and_may_be_deleted(self):
        url = self.store.url_of("a/1/nothing")
        for ask in (self.store.stat, self.store.open):
            with self.assertRaises(ObjectMissing):
                ask(url)
        self.store.delete(url)
        stored = self.put("a/1/b", b"x")
        self.store.delete(stored.url)
        self.store.delete(stored.url)
        with self.assertRaises(ObjectMissing):
            self.store.stat(stored.url)

    def test_everything_is_listed_but_what_is_the_store_s_own(self):
        for key in ("a/1/x", "a/2/y", "b-c/3/deep/er/z"):
            self.put(key, key.encode())
        self.store.owner("me")
        self.store.check()
        listed = {info.key: (info.url, info.size_bytes) for info in self.store.list()}
        expected = {
            key: (self.store.url_of(key), len(key)) for key in ("a/1/x", "a/2/y", "b-c/3/deep/er/z")
        }
        self.assertEqual(listed, expected)

    def test_a_source_that_breaks_leaves_nothing_behind(self):
        with self.assertRaises(ZeroDivisionError):
            self.store.put("a/1/x", Broken(ZeroDivisionError()))
        self.assertEqual(list(self.store.list()), [])
        self.assertEqual(self.store.abort_uploads(LATER), 0)

    def test_keys_and_addresses_of_elsewhere_are_refused(self):
        for key in ("../x", "/etc/passwd", "a//b", "a/./b", "ü", "a b", "", "a" * 513):
            with self.assertRaises(NotInStore):
                self.put(key, b"x")
        for url in ("s3://elsewhere/x", "filesystem:../x", "http://x/y", f"s3://{BUCKET}x/y"):
            for ask in (self.store.stat, self.store.open, self.store.delete):
                with self.assertRaises(NotInStore):
                    ask(url)

    def test_the_first_owner_stays(self):
        self.assertEqual(self.store.owner("first"), "first")
        self.assertEqual(self.store.owner("second"), "first")
        self.assertEqual(self.store.owner("first"), "first")

    def test_large_files_need_little_memory(self):
        """100 MB up and down in a process of its own, whose memory is its own."""
        program = f"""
import io, sys
sys.path.insert(0, {str(ADDON)!r})
{self.open_store}
class Source(io.RawIOBase):
    left = 100 << 20
    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        return b"x" * size
class Sink:
    def write(self, data):
        return len(data)
def peak():
    # Not ru_maxrss, which begins with what the parent has had: growth would not show below that.
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
store.put("warm/1/up", io.BytesIO(b"x"))
before = peak()
stored = store.put("large/1/file", Source())
assert stored.size_bytes == 100 << 20
assert store.fetch(stored.url, Sink()) == stored
print(peak() - before)
"""
        process = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertLess(int(process.stdout), 64 << 20)


class TestFilesystemStore(Contract, FolderCase):
    def setUp(self):
        super().setUp()
        (self.folder / "store").mkdir()
        self.store = FilesystemStore(self.folder / "store")
        self.open_store = (
            "from worker.storage.filesystem import FilesystemStore\n"
            f"store = FilesystemStore({str(self.folder / 'store')!r})"
        )

    def test_a_store_that_is_not_there_says_nothing_of_its_files(self):
        with self.assertRaises(StorageError) as caught:
            FilesystemStore(self.folder / "unmounted").stat("filesystem:a/1/x")
        self.assertNotIsInstance(caught.exception, ObjectMissing)

    def test_parts_of_a_killed_upload_are_removed_when_they_are_old(self):
        self.put("a/1/x", b"x")
        part = self.store.root / "a" / "1" / f".{'0' * 32}.part"
        part.write_bytes(b"half")
        self.assertEqual([info.key for info in self.store.list()], ["a/1/x"])
        self.assertEqual(self.store.abort_uploads(datetime.now(timezone.utc) - timedelta(1)), 0)
        self.assertEqual(self.store.abort_uploads(LATER), 1)
        self.assertFalse(part.exists())

    def test_file_systems_without_hard_links_will_do(self):
        with patch("os.link", side_effect=PermissionError(1, "Operation not permitted")):
            stored = self.put("a/1/x", b"x")
            self.assertEqual(self.put("a/1/x", b"x"), stored)
            with self.assertRaises(ObjectConflict):
                self.put("a/1/x", b"y")


class S3Case(FolderCase):
    """A bucket of a real HTTP server; each test has a prefix of its own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = S3Server()
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        super().setUp()
        # Whatever the developer's shell holds is no part of a test.
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            self.enterContext(patch.dict(os.environ))
            del os.environ[name]
        self.settings = S3Settings(
            bucket=BUCKET,
            prefix=self.id().rpartition(".")[2],
            endpoint=self.server.endpoint,
            path_style=True,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
        )
        self.store = S3Store(self.settings)
        self.server.trouble(damage=0, damage_silently=0, cut=0, busy=0)


class TestS3Store(Contract, S3Case):
    def setUp(self):
        super().setUp()
        self.open_store = (
            "from worker.storage.s3 import S3Settings, S3Store\n"
            f"settings = {dict(vars(self.settings))!r}\n"
            "store = S3Store(S3Settings(**settings))"
        )

    def assertNothingLeft(self):
        self.assertEqual(list(self.store.list()), [])
        self.assertEqual(self.store.abort_uploads(LATER), 0)

    def test_the_store_itself_knows_the_checksum(self):
        for size in (10, 2 * PART_SIZE):
            stored = self.put(f"a/1/{size}", os.urandom(size))
            self.assertEqual(self.store.stat(stored.url).checksum, stored.checksum)

    def test_a_file_that_was_never_opened_closes_quietly(self):
        url = self.put("a/1/x", b"bytes").url
        self.store.delete(url)
        said = []
        # Python from 3.13 on says there what goes wrong while it clears away.
        with patch.object(sys, "unraisablehook", said.append):
            with self.assertRaises(ObjectMissing), self.store.open(url):
                self.fail("It is not there.")
            gc.collect()
        self.assertEqual(said, [])

    def test_bytes_that_are_altered_on_their_way_are_refused(self):
        # Rule: R-18
        for size in (10, 2 * PART_SIZE):
            self.server.trouble(damage=1)
            with self.assertRaises(StoreUnavailable) as caught:
                self.put("a/1/x", os.urandom(size))
            self.assertIn("other bytes than were sent", str(caught.exception))
            self.assertNothingLeft()

    def test_bytes_that_the_store_alters_are_found_out(self):
        for size in (10, 2 * PART_SIZE):
            self.server.trouble(damage_silently=1)
            with self.assertRaisesRegex(StorageError, "altered"):
                self.put("a/1/x", os.urandom(size))
            self.assertNothingLeft()

    def test_a_short_trouble_is_not_noticed(self):
        for number, trouble in enumerate(({"cut": 2}, {"busy": 2})):
            for size in (10, 3 * PART_SIZE):
                data = os.urandom(size)
                self.server.trouble(**trouble)
                stored = self.put(f"a/{number}/{size}", data)
                self.assertEqual(max(self.server.trouble()[name] for name in trouble), 0)
                with self.store.open(stored.url) as stream:
                    self.assertEqual(stream.read(), data)

    def test_a_lasting_trouble_fails_and_leaves_nothing(self):
        for trouble in ("cut", "busy"):
            for size in (10, 3 * PART_SIZE):
                self.server.trouble(**{trouble: 1000})
                with self.assertRaises(StoreUnavailable):
                    self.put("a/1/x", os.urandom(size))
                self.server.trouble(**{trouble: 0})
                self.assertNothingLeft()

    def test_a_server_that_is_away_is_said_to_be_away(self):
        server = S3Server()
        store = S3Store(S3Settings(**{**vars(self.settings), "endpoint": server.endpoint}))
        store.check()
        server.stop()
        with self.assertRaises(StoreUnavailable) as caught:
            store.put("a/1/x", io.BytesIO(b"x"))
        self.assertIn("cannot be reached", str(caught.exception))

    def test_unfinished_uploads_are_removed_when_they_are_old(self):
        self.store._client.create_multipart_upload(
            Bucket=BUCKET, Key=f"{self.settings.prefix}/a/1/x"
        )
        self.assertEqual(self.store.abort_uploads(datetime.now(timezone.utc) - timedelta(1)), 0)
        self.assertEqual(self.store.abort_uploads(LATER), 1)
        self.assertEqual(self.store.abort_uploads(LATER), 0)

    def test_two_that_store_other_bytes_at_once_do_not_overwrite(self):
        """The second look comes with the upload itself: the first finds nothing."""
        for size in (10, 2 * PART_SIZE):
            ours, theirs = os.urandom(size), os.urandom(size)
            stored = self.put(f"a/1/{size}", theirs)
            head = self.store._head
            with patch.object(
                self.store, "_head", side_effect=lambda url, head=head: head(url)
            ) as h:
                h.side_effect = [None, head(stored.url)]
                with self.assertRaises(ObjectConflict):
                    self.put(f"a/1/{size}", ours)
            self.assertEqual(self.store.stat(stored.url).checksum, stored.checksum)
            self.assertEqual(self.store.abort_uploads(LATER), 0)

    def test_wrong_settings_say_what_to_do_and_no_secret(self):
        other = self.folder / "other-ca.pem"
        certificate, key = make_certificate(self.folder, "server")
        make_certificate(self.folder, "other-ca")
        secure = S3Server(certificate, key)
        self.addCleanup(secure.stop)
        good = {**vars(self.settings), "endpoint": secure.endpoint, "ca_bundle": str(certificate)}
        S3Store(S3Settings(**good)).check()
        for change, words in (
            ({"access_key": "AKIAWRONG"}, "access key"),
            ({"bucket": "nothing-here"}, "no bucket nothing-here"),
            ({"ca_bundle": ""}, "not trusted"),
            ({"ca_bundle": str(other)}, "not trusted"),
            ({"ca_bundle": "/nowhere.pem"}, "/nowhere.pem is not there"),
            ({"profile": "nobody"}, "no AWS profile nobody"),
            ({"endpoint": "http://127.0.0.1:9"}, "cannot be reached"),
            ({"access_key": "", "secret_key": ""}, "AWS_ACCESS_KEY_ID"),
        ):
            with (
                self.subTest(change=change),
                patch.dict(os.environ, AWS_EC2_METADATA_DISABLED="true"),
            ):
                with self.assertRaises(StorageError) as caught:
                    S3Store(S3Settings(**{**good, **change})).check()
                self.assertIn(words, str(caught.exception))
                self.assertNotIn(SECRET_KEY, str(caught.exception))
                self.assertNotIn("AKIA", str(caught.exception))
        self.assertNotIn(SECRET_KEY, repr(self.settings))

    def test_a_presigned_address_gives_name_and_type_and_ends(self):
        stored = self.put("a/1/x.txt", b"content", content_type="text/html")
        name = 'Prüfung "1".txt'
        url = self.store.presign(stored.url, name, "text/plain", False, 2)
        self.assertNotIn(SECRET_KEY, url)
        with urllib.request.urlopen(url) as reply:
            self.assertEqual(reply.read(), b"content")
            self.assertEqual(reply.headers["Content-Type"], "text/plain")
            self.assertEqual(
                reply.headers["Content-Disposition"],
                'attachment; filename="Pr_fung _1_.txt";'
                " filename*=UTF-8''Pr%C3%BCfung%20%221%22.txt",
            )
        self.assertIn("X-Amz-Expires=2&", url)

    def test_a_reader_goes_on_where_the_connection_broke(self):
        data = os.urandom(3 << 20)
        stored = self.put("a/1/x", data)
        with self.store.open(stored.url) as stream:
            self.assertEqual(stream.read(1 << 20), data[: 1 << 20])
            stream.raw._body._raw_stream._fp.fp.raw._sock.shutdown(2)
            self.assertEqual(stream.read(), data[1 << 20 :])

    def test_more_ranges_than_go_side_by_side_come_in_their_order(self):
        data = os.urandom((PARALLEL + 1) * PART_SIZE + 1)
        stored, target = self.put("a/1/x", data), io.BytesIO()
        self.assertEqual(self.store.fetch(stored.url, target), stored)
        self.assertTrue(target.getvalue() == data, "other bytes came back")

    def test_a_range_of_another_length_than_asked_for_is_refused(self):
        stored = self.put("a/1/x", os.urandom(100))
        for length in (99, 101):
            reply = {"Body": io.BytesIO(bytes(length))}
            with (
                patch.object(self.store._client, "get_object", return_value=reply),
                self.assertRaisesRegex(StorageError, f"asked for 100 .* sent {length}"),
            ):
                self.store.fetch(stored.url, io.BytesIO())


class TestNames(FolderCase):
    def test_names_in_headers(self):
        for name, expected in (
            ("a.txt", 'attachment; filename="a.txt"'),
            ("a\r\nb/c", 'attachment; filename="a__b_c"'),
            ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
            ("日本", "attachment; filename=\"__\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC"),
            ("", 'attachment; filename="artifact"'),
        ):
            self.assertEqual(content_disposition(name), expected)
        self.assertEqual(content_disposition("a", inline=True), 'inline; filename="a"')

    def test_parts_grow_with_the_file(self):
        self.assertEqual(part_size_for(None), PART_SIZE)
        self.assertEqual(part_size_for(10_000 * PART_SIZE), PART_SIZE)
        self.assertEqual(part_size_for(10_000 * PART_SIZE + 1), PART_SIZE + (1 << 20))
        self.assertGreaterEqual(part_size_for(5 << 40) * 10_000, 5 << 40)


def make_certificate(folder, name):
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / f"{name}.pem", folder / f"{name}.key"
