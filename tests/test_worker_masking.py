"""No form of a secret gets through, however the output is cut; everything else does."""

import base64
import html
import json
import string
import time
import unittest
from urllib.parse import quote, quote_plus

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from odoo.addons.odooops.worker.control.base import Artifact, Refused
from odoo.addons.odooops.worker.control.masked import MaskedControlPlane
from odoo.addons.odooops.worker.logs import OutputParser
from odoo.addons.odooops.worker.masking import Masker

unhurried = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

#: Few letters, so that values overlap and hold each other; and what encoders change.
tricky = st.text(alphabet="abAB01", min_size=6, max_size=12)
any_value = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    min_size=6,
    max_size=40,
).filter(lambda value: len(value.strip()) >= 6)
lines_value = st.lists(
    st.text(alphabet=string.ascii_letters + "+/= \"'", min_size=1, max_size=30),
    min_size=2,
    max_size=5,
).map("\n".join)
value = st.one_of(tricky, any_value, lines_value.filter(lambda text: len(text.strip()) >= 6))

SHOWN = (
    str,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    quote,
    quote_plus,
    lambda text: quote(text, safe=""),
    lambda text: quote(text, safe="").lower() if text.isascii() and text == text.lower() else text,
    html.escape,
    lambda text: repr(text)[1:-1],
    lambda text: text.replace("'", "'\\''"),
)


def decided(prefix, secret, suffix, encode):
    """What stands in base64 of longer data for the secret in its midst, and the whole."""
    data = prefix + secret.encode() + suffix
    first = -(-len(prefix) * 8 // 6)
    last = (len(prefix) + len(secret.encode())) * 8 // 6
    encoded = encode(data)
    return encoded, encoded[first:last]


def cut(data, places):
    """``data`` in chunks that end at ``places``."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def masked(masker, chunks):
    stream = masker.stream()
    return b"".join([*map(stream.feed, chunks), stream.flush()])


def masker_of(*values):
    masker = Masker()
    for number, text in enumerate(values):
        masker.add(text, f"N{number}")
    return masker


class TestMasking(unittest.TestCase):
    @unhurried
    @given(
        st.lists(value, min_size=1, max_size=4),
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(SHOWN), st.binary(max_size=20)),
            max_size=6,
        ),
        st.lists(st.integers(0, 10000), max_size=12),
    )
    def test_no_plain_form_survives_any_chunking(self, values, pieces, places):
        data, shown = b"", []
        for index, form, noise in pieces:
            text = form(values[index % len(values)]).encode()
            shown.append(text)
            data += noise + text
        result = masked(masker_of(*values), cut(data, places))
        # The marker itself may look like a value somebody has chosen.
        bare = result
        for number in range(len(values)):
            bare = bare.replace(b"[secret N%d]" % number, b"\0\0")
        for text in (*shown, *(text.encode() for text in values)):
            self.assertNotIn(text, bare)

    @unhurried
    @given(
        value,
        st.binary(max_size=7),
        st.binary(max_size=7),
        st.sampled_from((base64.b64encode, base64.urlsafe_b64encode)),
        st.one_of(st.none(), st.integers(6, 80)),
        st.sampled_from((b"\n", b"\r\n")),
        st.lists(st.integers(0, 10000), max_size=8),
    )
    def test_no_base64_survives_at_any_alignment_wrapped_or_not(
        self, secret, prefix, suffix, encode, width, end, places
    ):
        encoded, inside = decided(prefix, secret, suffix, encode)
        if width:
            rows = [encoded[start : start + width] for start in range(0, len(encoded), width)]
            encoded = end.join(rows) + end
        result = masked(masker_of(secret), cut(encoded, places))
        self.assertIn(b"[secret N0]", result)
        self.assertNotIn(inside, result.replace(end, b"").replace(b"[secret N0]", b"\0"))

    @unhurried
    @given(
        st.lists(value, min_size=1, max_size=4),
        st.binary(max_size=200),
        st.lists(st.integers(0, 10000), max_size=12),
    )
    def test_how_output_is_chunked_makes_no_difference(self, values, data, places):
        data += values[0].encode() + data
        masker = masker_of(*values)
        self.assertEqual(masked(masker, cut(data, places)), masked(masker, [data]))

    @unhurried
    @given(value, st.binary(max_size=300), st.lists(st.integers(0, 10000), max_size=12))
    def test_output_without_a_secret_arrives_as_it_is(self, secret, data, places):
        masker = masker_of(secret)
        assume(not masker.forms.may_hold(data))
        # pylint: disable-next=unreachable
        self.assertEqual(masked(masker, cut(data, places)), data)

    @unhurried
    @given(tricky, tricky, st.integers(1, 5))
    def test_where_two_secrets_overlap_both_are_covered(self, first, second, shared):
        second = first[-shared:] + second
        text = first + second[shared:]
        self.assertNotIn(second[shared:], masker_of(first, second).mask(f"<{text}>"))

    def test_the_longest_wins_and_short_values_are_left_alone(self):
        masker = masker_of("secret-x", "secret-x-longer", "short")
        self.assertEqual(
            masker.mask("secret-x-longer secret-x short"), "[secret N1] [secret N0] short"
        )

    def test_each_line_of_a_value_is_hidden_and_short_lines_with_the_whole(self):
        masker = masker_of("-----BEGIN KEY-----\nQUJDREVGRw==\nab\n-----END KEY-----\n")
        self.assertEqual(masker.mask("x QUJDREVGRw== ab"), "x [secret N0] ab")
        whole = "a\n-----BEGIN KEY-----\nQUJDREVGRw==\nab\n-----END KEY-----\nb"
        self.assertEqual(masker.mask(whole), "a\n[secret N0]b")

    def test_a_line_whose_end_begins_some_form_shows_up_when_nothing_follows(self):
        parser = OutputParser("Step", masker_of("wait-for-it"))
        self.assertEqual(parser.feed("stdout", 1, b"now d\n"), [])
        self.assertEqual([line.message for line in parser.idle(2)], ["now d"])
        parser.feed("stdout", 3, b"it is wait-for")
        self.assertEqual(parser.idle(4), [])
        self.assertEqual(parser.feed("stdout", 5, b"-it.\n")[0].message, "it is [secret N0].")

    def test_a_secret_across_the_cut_of_a_long_line_is_hidden(self):
        parser = OutputParser("Step", masker_of("hunter2hunter2"))
        lines = parser.feed("stdout", 1, b"x" * 16380 + b"hunter2hunter2\n")
        self.assertNotIn("hunter2", "".join(line.message for line in lines))

    def test_endless_line_ends_are_not_held_back(self):
        stream = masker_of("abcdefgh").stream()
        begun = base64.b64encode(b"abcdefgh")[:8]
        shown = stream.feed(begun) + stream.feed(b"\n" * 100000)
        self.assertGreater(len(shown), 99000)

    def test_masking_keeps_up_with_the_output(self):
        """50,000 lines a second is the promise for the whole way; this is a part of it."""
        masker = masker_of(*(f"{n:02}-Zq8vYk3WnL5tXc7b" for n in range(10)))
        data = b"".join(
            b"2026-11-23 14:35:57,123 17 INFO db odoo: Loading %d\n" % n for n in range(99999)
        )
        stream, began = masker.stream(), time.process_time()
        shown = b"".join(stream.feed(data[at : at + 65536]) for at in range(0, len(data), 65536))
        seconds = time.process_time() - began
        self.assertEqual(shown + stream.flush(), data)
        self.assertGreater(99999 / seconds, 60000)


class ListeningControl:
    """Remembers what would reach the control plane."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        return lambda *arguments: self.heard.append((name, arguments)) or {"success": True}


class TestMaskedControlPlane(unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.heard = ListeningControl()
        self.control = MaskedControlPlane(self.heard, masker_of("hunter2hunter2"))

    def test_nothing_that_is_sent_holds_a_secret(self):
        said = "so hunter2hunter2 it is"
        line = {"message": said, "level": "info", "metadata": {"step": said}}
        artifact = Artifact("a", "filesystem:a", "text/plain", 1, "0" * 64, metadata={said: [said]})
        self.control.append_run_logs(1, 1, 1, [line])
        self.control.add_run_event(1, 1, "info", said, {"x": {said: said}})
        self.control.add_run_artifact(1, 1, artifact)
        self.control.complete_workflow_run(1, "w", 1, 1, "exit_code", said, {"x": [said]})
        self.control.heartbeat("w", [])
        self.assertEqual(len(self.heard.heard), 5)
        self.assertNotIn("hunter2", repr(self.heard.heard))
        self.assertIn("so [secret N0] it is", repr(self.heard.heard))

    def test_a_file_named_like_a_secret_is_refused(self):
        artifact = Artifact("hunter2hunter2.log", "filesystem:x", "text/plain", 1, "0" * 64)
        self.assertIsInstance(self.control.add_run_artifact(1, 1, artifact), Refused)
        self.assertFalse(self.heard.heard)
