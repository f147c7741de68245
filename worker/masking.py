"""Finding secret values in what a run prints and says; ``[secret NAME]`` comes in their place.

A value, and each line of it, is looked for in the forms in which programs print it: as it is, in
JSON, in a URL, in HTML, quoted for a shell or by Python's repr; the whole value also in base64
(both alphabets, at each of the three alignments it may have inside longer data, wrapped into lines
or not). Any other transformation is not recognised: masking protects against accidents, not against
a program that wants to give a secret away.

One pass finds all forms of all values: a regular expression made of the first six bytes of each
form, folded into a tree, stops at the few places where one may begin; there the forms are compared,
longest first. Where two overlap, both are covered. A stream holds back the end of what it was fed
as long as it may be the beginning of a form, so it makes no difference how output is cut into
chunks.
"""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

#: Shorter values hit innocent text. The control plane refuses them.
MIN_LENGTH = 6
#: Characters that some encoder of URLs leaves as they are: RFC 3986, paths, JavaScript's two.
_URL_SAFE = ("", "/", "!'()*", ";,/?:@&=+$!'()*#")
_LINE_END = b"(?:\r?\n)?"
#: A stretch of base64 with its line ends is at most so many times as long as without.
_MAX_SPREAD = 3


class _Match(NamedTuple):
    """What stands at one place: where it ends (0: nothing), its name, whether more may follow."""

    end: int
    name: str
    pending: bool


def plain_forms(text: str) -> Iterator[str]:
    """The ways in which a value stands in output whose line ends are its own."""
    yield text
    yield text.replace("\n", "\r\n")
    for ascii_only in (True, False):
        quoted = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield quoted
        yield quoted.replace("/", "\\/")
    for safe in _URL_SAFE:
        for encoded in (quote(text, safe=safe), quote_plus(text, safe=safe)):
            yield encoded
            yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
    yield html.escape(text)
    yield html.escape(text, quote=False)
    yield repr(text)[1:-1]
    yield text.replace("'", "'\\''")


def base64_forms(text: str) -> Iterator[bytes]:
    """What base64 of any data that holds ``text`` has in it: the characters it alone decides."""
    data = text.encode()
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * before + data)
        decided = encoded[skipped : (before + len(data)) * 8 // 6]
        yield decided
        yield decided.translate(bytes.maketrans(b"+/", b"-_"))


def _variants(texts: Iterable[str]) -> set[str]:
    """The texts as they are and without the blanks around them, as far as they are long enough."""
    variants = {variant for text in texts for variant in (text, text.strip())}
    return {variant for variant in variants if len(variant) >= MIN_LENGTH}


def _tree(words: Iterable[bytes], joint: bytes) -> list[bytes]:
    """Regular expressions for ``words`` with ``joint`` between their characters, one for each first
    character: standing side by side they let the search skip every other character at once."""
    branches: dict[int, list[bytes]] = {}
    for word in words:
        if word:
            branches.setdefault(word[0], []).append(word[1:])
    expressions = []
    for first, rest in sorted(branches.items()):
        tails = _tree(rest, joint)
        expression = re.escape(bytes([first]))
        if tails:
            tail = tails[0] if len(tails) == 1 else b"(?:" + b"|".join(tails) + b")"
            expression += joint + tail
        expressions.append(expression)
    return expressions


class _Forms:
    """All forms of all values, ready for searching. Never changed once it is made."""

    def __init__(self, plain: dict[bytes, str], wrapped: dict[bytes, str]) -> None:
        self.plain, self.wrapped = plain, wrapped
        self._plain_by_head = self._by_head(plain)
        self._wrapped_by_head = self._by_head(wrapped)
        self._beginnings = self._begun(self._plain_by_head)
        self._wrapped_beginnings = self._begun(self._wrapped_by_head)
        self._patterns: dict[bytes, re.Pattern[bytes]] = {}
        heads = [
            *_tree(self._plain_by_head, b""),
            *_tree(self._wrapped_by_head, _LINE_END),
        ]
        self._head = re.compile(b"|".join(heads))

    @staticmethod
    def _by_head(forms: Iterable[bytes]) -> dict[bytes, list[bytes]]:
        """First six bytes → forms, the longest first."""
        heads: dict[bytes, list[bytes]] = {}
        for form in sorted(forms, key=len, reverse=True):
            heads.setdefault(form[:MIN_LENGTH], []).append(form)
        return heads

    @staticmethod
    def _begun(heads: Iterable[bytes]) -> set[bytes]:
        return {head[:length] for head in heads for length in range(1, MIN_LENGTH)}

    def may_hold(self, data: bytes) -> bool:
        """Whether a form may begin in ``data``; false is certain and quickly said."""
        return self._head.search(data) is not None

    def mask(self, data: bytes, final: bool) -> tuple[bytes, bytes]:
        """``data`` without its secrets, and the end of it that must wait for what follows."""
        if final and not self.may_hold(data):
            return data, b""
        out: list[bytes] = []
        done = position = 0
        hold = len(data)
        begin = end = 0
        name = ""
        while found := self._head.search(data, position):
            at = found.start()
            if end > done and at >= end:
                out += (data[done:begin], _marker(name))
                done = end
            match = self._longest(data, at, final)
            if match.pending:
                hold = begin if end > done and at < end else at
                break
            if match.end and end > done:
                end = max(end, match.end)
            elif match.end:
                begin, end, name = at, match.end, match.name
            position = at + 1
        else:
            hold = len(data) if final else self._begun_at(data, done)
            if begin < hold < end:
                hold = begin
        if end > done and end <= hold:
            out += (data[done:begin], _marker(name))
            done = end
        out.append(data[done:hold])
        return b"".join(out), data[hold:]

    def _longest(self, data: bytes, at: int, final: bool) -> _Match:
        """The longest form that stands at ``at``, or that a longer one may yet stand there."""
        best = _Match(0, "", False)
        left = len(data) - at
        for form in self._plain_by_head.get(data[at : at + MIN_LENGTH], ()):
            if data.startswith(form, at):
                best = _Match(at + len(form), self.plain[form], False)
                break
            if not final and left < len(form) and form.startswith(data[at:]):
                return _Match(0, "", True)
        head = _unwrapped(data[at : at + MIN_LENGTH * _MAX_SPREAD])[:MIN_LENGTH]
        for form in self._wrapped_by_head.get(head, ()):
            if found := self._pattern(form).match(data, at):
                if found.end() > best.end:
                    best = _Match(found.end(), self.wrapped[form], False)
                break
            if not final and left < len(form) * _MAX_SPREAD:
                tail = data[at:]
                if form.startswith(_unwrapped(tail)) and _is_wrapped(tail):
                    return _Match(0, "", True)
        return best

    def _pattern(self, form: bytes) -> re.Pattern[bytes]:
        pattern = self._patterns.get(form)
        if pattern is None:
            joined = _LINE_END.join(re.escape(bytes([byte])) for byte in form)
            pattern = self._patterns[form] = re.compile(joined)
        return pattern

    def _begun_at(self, data: bytes, done: int) -> int:
        """Where, at the end of ``data``, the first few bytes of a form stand; else its length."""
        for at in range(max(done, len(data) - MIN_LENGTH * _MAX_SPREAD), len(data)):
            tail = data[at:]
            if tail in self._beginnings:
                return at
            if _unwrapped(tail) in self._wrapped_beginnings and _is_wrapped(tail):
                return at
        return len(data)


def _unwrapped(data: bytes) -> bytes:
    return data.translate(None, b"\r\n")


def _is_wrapped(data: bytes) -> bool:
    """Whether no line of ``data`` is empty, as in wrapped base64."""
    return data[:1] not in (b"\r", b"\n") and b"\n\n" not in data and b"\n\r" not in data


def _marker(name: str) -> bytes:
    return f"[secret {name}]".encode() if name else b"[secret]"


class MaskedStream:
    """One stream of bytes on its way; see ``Masker.stream``."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What of the stream can be shown by now."""
        if self._masker.forms is None:
            return data
        shown, self._rest = self._masker.forms.mask(self._rest + data, final=False)
        return shown

    def idle(self) -> bytes:
        """What was held back only because its last characters begin some form, when nothing has
        followed for a while: whole lines shall show up without waiting for the next one."""
        if self._rest.endswith(b"\n") and len(_unwrapped(self._rest)) < MIN_LENGTH:
            return self.flush()
        return b""

    def flush(self) -> bytes:
        """The rest, when the stream has ended."""
        rest, self._rest = self._rest, b""
        if not rest or self._masker.forms is None:
            return rest
        return self._masker.forms.mask(rest, final=True)[0]


class Masker:
    """Hides the values it was given. Values under six characters are left alone."""

    def __init__(self) -> None:
        self.forms: _Forms | None = None
        self._lock = threading.Lock()

    def add(self, value: str, name: str = "") -> None:
        """Hide ``value``, and each line of it that is long enough, from now on."""
        with self._lock:
            plain = dict(self.forms.plain) if self.forms else {}
            wrapped = dict(self.forms.wrapped) if self.forms else {}
            for text in _variants((value, *value.splitlines())):
                for form in plain_forms(text):
                    plain.setdefault(form.encode(), name)
            for text in _variants((value,)):
                for form in base64_forms(text):
                    wrapped.setdefault(form, name)
            if plain:
                self.forms = _Forms(plain, wrapped)

    def may_hold(self, text: str) -> bool:
        """Whether ``text`` may hold a value; false is certain and quickly said."""
        return self.forms is not None and self.forms.may_hold(text.encode("utf-8", "replace"))

    def mask(self, text: str) -> str:
        """``text`` with ``[secret NAME]`` in place of every value."""
        if self.forms is None:
            return text
        data = text.encode("utf-8", "surrogatepass")
        if not self.forms.may_hold(data):
            return text
        return self.forms.mask(data, final=True)[0].decode("utf-8", "replace")

    def mask_json(self, value: Any) -> Any:
        """A copy of ``value`` (JSON) with every text and key in it masked."""
        if self.forms is None:
            return value
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, dict):
            return {self.mask(str(key)): self.mask_json(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mask_json(item) for item in value]
        return value

    def stream(self) -> MaskedStream:
        """A stream of bytes whose chunks may cut values anywhere."""
        return MaskedStream(self)
