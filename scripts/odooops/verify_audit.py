#!/usr/bin/env python3
"""Verify an exported event trail of OdooOps, without its server and without PostgreSQL.

    verify_audit.py --key KEY [--key KEY ...] [--seen NUMBER:HASH ...] [EXPORT]

    EXPORT  file from /ops/audit/export; without it, or as -, standard input
    --key   public key you trust: a PEM file, or its fingerprint (64 hex digits)
    --seen  a checkpoint you noted at an earlier time; it must still be there

One line per problem, notes on what is not covered, and last `N passed, N failed`. Exit code 0:
the trail is as it was signed. 1: it is not. 2: usage, or no export.
Needs Python 3.10 and the package `cryptography`. What this proves: docs/audit.md.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# Exports of the first format knew no retention: no lines of kind expiry.
FORMATS = ("odooops audit 1", "odooops audit 2")
# An event may be committed so much later than it was written; see docs/audit.md.
TOLERANCE = timedelta(minutes=15)
EVENT_TYPES = ("state_change", "error", "warning", "info")
HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
STATEMENT_FIELDS = (
    *("database_uuid", "number", "timestamp", "prev_hash"),
    *("run_count", "event_count", "root", "key_id"),
)
# What the statement holds besides since its second version.
EXPIRY_IN_STATEMENT = ("expiry_number", "expiry_hash")
EXPIRY_FIELDS = (
    *("number", "timestamp", "prev_hash", "range_from", "range_to", "checkpoint_number"),
    *("run_count", "event_count", "root", "user_id"),
)


class Malformed(Exception):
    """A line of the export is not as docs/audit.md describes it."""


class Usage(Exception):
    """The program cannot begin: exit code 2."""


def sha256_hex(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def event_hash(run_id, event):
    """The hash that the event must have. Only the last fact may hold line breaks."""
    facts = (
        "odooops event 1",
        event["prev_hash"] or "",
        str(run_id),
        str(event["seq"]),
        event["event_type"],
        event["timestamp"],
        event["payload"],
        event["message"],
    )
    return sha256_hex("\n".join(facts))


def statement_of(checkpoint):
    """The text that was signed."""
    version = checkpoint.get("version", 1)
    names = STATEMENT_FIELDS + (EXPIRY_IN_STATEMENT if version > 1 else ())
    facts = [f"{name} {known(checkpoint[name])}" for name in names]
    return "\n".join([f"odooops checkpoint {version}", *facts, ""])


def expiry_statement(expiry):
    """The text of a record of retention, whose hash the next checkpoint signs."""
    facts = [f"{name} {known(expiry[name])}" for name in EXPIRY_FIELDS]
    return "\n".join(["odooops expiry 1", *facts, ""])


def known(value):
    return "" if value is None else value


def root_of(projects):
    return sha256_hex("".join(f"{project_id} {root}\n" for project_id, root in projects))


def load_key(pem):
    """The public key and its fingerprint.

    :raise ValueError: not an Ed25519 key in PEM
    """
    key = serialization.load_pem_public_key(pem.encode("utf-8"))
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 key")
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key, hashlib.sha256(der).hexdigest()


def is_signed(key, statement, signature):
    try:
        key.verify(base64.b64decode(signature, validate=True), statement.encode("utf-8"))
    except (InvalidSignature, ValueError):
        return False
    return True


def field(line, name, kind, pattern=None, is_optional=False):
    value = line.get(name)
    if value is None and is_optional:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Malformed(f"{name} is missing or of another type")
    if pattern and not pattern.fullmatch(value):
        raise Malformed(f"{name} is {ascii(value[:80])}")
    return value


def time_of(text):
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError as error:
        raise Malformed(f"timestamp is {ascii(text)}") from error


def check_event(line):
    """The event, when each of its facts has the form in which it is hashed."""
    for name in ("run_id", "seq"):
        field(line, name, int)
    if field(line, "event_type", str) not in EVENT_TYPES:
        raise Malformed(f"event_type is {ascii(line['event_type'][:80])}")
    field(line, "timestamp", str, TIMESTAMP)
    field(line, "message", str)
    if "\n" in field(line, "payload", str):
        raise Malformed("payload holds a line break")
    field(line, "prev_hash", str, HASH, is_optional=True)
    field(line, "hash", str, HASH)
    return line


def check_checkpoint(line):
    for name in ("number", "run_count", "event_count"):
        field(line, name, int)
    field(line, "database_uuid", str, re.compile(r"[\w-]*", re.ASCII))
    field(line, "timestamp", str, TIMESTAMP)
    field(line, "prev_hash", str, HASH, is_optional=True)
    for name in ("root", "key_id", "hash"):
        field(line, name, str, HASH)
    for name in ("public_key", "signature"):
        field(line, name, str)
    if field({"version": 1, **line}, "version", int) not in (1, 2):
        raise Malformed(f"version is {line['version']}")
    if line.get("version") == 2:
        field(line, "expiry_number", int)
        field(line, "expiry_hash", str, HASH, is_optional=True)
    check_projects(line)
    return line


def check_projects(line):
    numbers = []
    for project_id, root in field(line, "projects", list):
        field({"project_id": project_id, "root": root}, "project_id", int)
        field({"root": root}, "root", str, HASH)
        numbers.append(project_id)
    if numbers != sorted(set(numbers)):
        raise Malformed("projects are not in order")


def check_expiry(line):
    for name in ("number", "checkpoint_number", "run_count", "event_count", "user_id"):
        field(line, name, int)
    for name in ("timestamp", "range_from", "range_to"):
        field(line, name, str, TIMESTAMP)
    field(line, "prev_hash", str, HASH, is_optional=True)
    for name in ("root", "hash"):
        field(line, name, str, HASH)
    check_projects(line)
    return line


def check_run(line):
    for name in ("project_id", "run_id"):
        field(line, name, int)
    field(line, "event_seq", int, is_optional=True)
    field(line, "event_hash", str, HASH, is_optional=True)
    numbers = []
    for number, seq, value in field(line, "heads", list):
        field({"number": number}, "number", int)
        field({"event_seq": seq}, "event_seq", int)
        field({"event_hash": value}, "event_hash", str, HASH)
        numbers.append(number)
    if numbers != sorted(set(numbers)):
        raise Malformed("heads are not in order")
    expired = field(line, "expired", list, is_optional=True)
    if expired is not None:
        number, seq, value = expired
        field({"expired": number}, "expired", int)
        field({"expired": seq}, "expired", int)
        field({"expired": value}, "expired", str, HASH)
    return line


class Verifier:
    """Takes the lines of an export one after the other. Memory grows with the number of
    checkpoints and records of retention, not with runs or events."""

    def __init__(self, trusted, seen, write):
        self.trusted = trusted
        self.seen = dict(seen)
        self.write = write
        self.passed = self.failed = 0
        self.counts = {"checkpoint": 0, "expiry": 0, "run": 0, "event": 0}
        self.uncovered = 0
        self.uncovered_runs = 0
        self.checkpoints = {}  # number: (time, hash)
        self.roots = {}  # project id: {checkpoint number: root}
        self.last = None  # the checkpoint before
        self.signed = {}  # number of a record of retention: its hash, as a checkpoint signs it
        self.expiries = {}  # number: the record
        self.last_expiry = None  # the record before
        self.expired_runs = 0
        self.expired_events = 0
        self.expiry_roots = {}  # as the roots, of the records
        self.expiry_digests = {}
        self.project_id = None
        self.digests = {}  # checkpoint number: hash over the heads of the project so far
        self.run = None
        self.ended = False
        self.takers = {
            "checkpoint": self.take_checkpoint,
            "expiry": self.take_expiry,
            "run": self.take_run,
            "event": self.take_event,
            "end": self.take_end,
        }

    def problem(self, where, what):
        self.failed += 1
        self.write(f"{where}: {what}")

    def judge(self, where, problems):
        """Count one thing that was checked, and name what is wrong with it."""
        for what in problems:
            self.problem(where, what)
        if not problems:
            self.passed += 1

    def take_header(self, line):
        if line.get("kind") != "export" or line.get("format") not in FORMATS:
            raise Usage(f"this is no export of the formats {', '.join(FORMATS)}")
        self.header = line
        project = line.get("project")
        self.scope = None if project is None else field(project, "id", int)

    def take(self, line):
        kind = field(line, "kind", str)
        if kind not in self.takers or self.ended:
            raise Malformed(f"a line of kind {ascii(kind[:80])} does not belong here")
        if kind in self.counts:
            self.counts[kind] += 1
        self.takers[kind](line)

    # -- checkpoints --

    def take_checkpoint(self, line):
        where = f"checkpoint {line.get('number') if isinstance(line.get('number'), int) else '?'}"
        if self.project_id is not None or self.expiries:
            self.problem(where, "out of order: it comes after what it signs")
            return
        try:
            checkpoint = check_checkpoint(line)
        except (Malformed, ValueError, TypeError) as error:
            self.problem(where, f"altered: {error}")
            return
        self.judge(where, [*self.link_problems(checkpoint), *self.content_problems(checkpoint)])
        number = checkpoint["number"]
        self.checkpoints[number] = (time_of(checkpoint["timestamp"]), checkpoint["hash"])
        for project_id, root in checkpoint["projects"]:
            if self.scope in (None, project_id):
                self.roots.setdefault(project_id, {})[number] = root
        if checkpoint.get("version", 1) > 1 and checkpoint["expiry_number"]:
            self.signed[checkpoint["expiry_number"]] = checkpoint["expiry_hash"]
        self.last = checkpoint

    def link_problems(self, checkpoint):
        number, before = checkpoint["number"], self.last
        expected = before["number"] + 1 if before else 1
        if number > expected:
            yield f"missing: checkpoint {expected} before it"
        elif number < expected:
            yield f"out of order: it comes after checkpoint {before['number']}"
        if checkpoint["prev_hash"] != (before and before["hash"]):
            yield "broken link: prev_hash is not the hash of the checkpoint before"
        if before and checkpoint["timestamp"] < before["timestamp"]:
            yield "backdated: it is older than the checkpoint before"
        if checkpoint["database_uuid"] != self.header.get("database_uuid"):
            yield "foreign: it is a checkpoint of another database"

    def content_problems(self, checkpoint):
        statement = statement_of(checkpoint)
        if sha256_hex(statement) != checkpoint["hash"]:
            yield "altered: the content does not give the hash"
        if root_of(checkpoint["projects"]) != checkpoint["root"]:
            yield "altered: the projects do not give the root"
        try:
            key, key_id = load_key(checkpoint["public_key"])
        except ValueError as error:
            yield f"altered: the public key cannot be read ({ascii(str(error))})"
            return
        if not is_signed(key, statement, checkpoint["signature"]):
            yield "altered: the signature does not fit"
        if key_id != checkpoint["key_id"]:
            yield "altered: the fingerprint is not that of its public key"
        if key_id not in self.trusted:
            yield f"foreign key: signed by {key_id}, which is not trusted"

    # -- records of retention --

    def take_expiry(self, line):
        where = f"expiry {line.get('number') if isinstance(line.get('number'), int) else '?'}"
        if self.project_id is not None:
            self.problem(where, "out of order: it comes after the runs")
            return
        try:
            expiry = check_expiry(line)
        except (Malformed, ValueError, TypeError) as error:
            self.problem(where, f"altered: {error}")
            return
        self.judge(where, [*self.expiry_problems(expiry)])
        number = expiry["number"]
        self.expiries[number] = expiry
        for project_id, root in expiry["projects"]:
            if self.scope in (None, project_id):
                self.expiry_roots.setdefault(project_id, {})[number] = root
        self.last_expiry = expiry

    def expiry_problems(self, expiry):
        number, before = expiry["number"], self.last_expiry
        if number != (before["number"] + 1 if before else 1):
            yield f"missing: the records before it, after {before['number'] if before else 0}"
        if expiry["prev_hash"] != (before and before["hash"]):
            yield "broken link: prev_hash is not the hash of the record before"
        if sha256_hex(expiry_statement(expiry)) != expiry["hash"]:
            yield "altered: the content does not give the hash"
        if root_of(expiry["projects"]) != expiry["root"]:
            yield "altered: the projects do not give the root"
        if self.signed.get(number, expiry["hash"]) != expiry["hash"]:
            yield "altered: a checkpoint signs another record of this number"

    def excuse(self):
        """The signed record by which the events of the run are gone; None when there is none."""
        if self.run["expired"] is None or self.seq:
            return None
        number, seq, value = self.run["expired"]
        if number not in self.expiries or number > max(self.signed, default=0):
            return None
        return number, seq, value

    # -- runs and events --

    def take_run(self, line):
        self.finish_run()
        try:
            run = check_run(line)
        except (ValueError, TypeError) as error:
            raise Malformed(f"a run's heads cannot be read ({error})") from error
        project_id, run_id = run["project_id"], run["run_id"]
        if project_id != self.project_id:
            if self.project_id is not None and project_id < self.project_id:
                self.problem(f"project {project_id}", "out of order")
            self.finish_project()
            self.project_id = project_id
            if self.scope not in (None, project_id):
                self.problem(f"run {run_id}", f"foreign: it belongs to project {project_id}")
        elif run_id <= self.run_id:
            self.problem(f"run {run_id}", f"out of order: it comes after run {self.run_id}")
        run.setdefault("expired", None)
        self.run, self.run_id = run, run_id
        if run["expired"]:
            number, seq, value = run["expired"]
            digest = self.expiry_digests.setdefault(number, hashlib.sha256())
            digest.update(f"{run_id} {seq} {value}\n".encode())
        self.heads = [(number, seq, value) for number, seq, value in run["heads"]]
        self.next_head = 0
        self.seq, self.hash, self.found_uncovered = 0, None, False
        for number, seq, value in self.heads:
            digest = self.digests.setdefault(number, hashlib.sha256())
            digest.update(f"{run_id} {seq} {value}\n".encode())

    def take_event(self, line):
        run_id, seq = line.get("run_id"), line.get("seq")
        where = f"run {run_id}, event {seq}" if is_number(run_id) and is_number(seq) else "event ?"
        if self.run is None or run_id != self.run_id:
            self.problem(where, "out of order: it does not follow its run")
            return
        try:
            event = check_event(line)
            time = time_of(event["timestamp"])
        except Malformed as error:
            self.problem(where, f"altered: {error}")
            self.seq = seq if is_number(seq) else self.seq
            self.hash = line.get("hash")
            return
        self.judge(where, [*self.event_problems(event), *self.coverage_problems(event, time)])
        self.seq, self.hash = seq, event["hash"]

    def event_problems(self, event):
        seq = event["seq"]
        if seq > self.seq + 1:
            yield f"missing: the events after {self.seq}"
        elif seq <= self.seq:
            yield f"out of order: it comes after event {self.seq}"
        if event["prev_hash"] != self.hash:
            yield "broken link: prev_hash is not the hash of the event before"
        if event_hash(self.run_id, event) != event["hash"]:
            yield "altered: the content does not give the hash"

    def coverage_problems(self, event, time):
        """Against the checkpoints: the one that holds it, and the one before, which does not."""
        while self.next_head < len(self.heads) and self.heads[self.next_head][1] < event["seq"]:
            yield from self.missing_head()
        holder = None
        if self.next_head < len(self.heads):
            holder, seq, value = self.heads[self.next_head]
            if seq == event["seq"]:
                self.next_head += 1
                if value != event["hash"]:
                    yield f"altered: checkpoint {holder} holds another event"
        elif self.checkpoints:
            self.uncovered += 1
            self.uncovered_runs += not self.found_uncovered
            self.found_uncovered = True
        before = self.last["number"] if holder is None and self.last else (holder or 0) - 1
        if before in self.checkpoints and time < self.checkpoints[before][0] - TOLERANCE:
            yield f"backdated: checkpoint {before} is newer and does not hold it"

    def missing_head(self):
        """A head whose event did not come."""
        number, seq, _value = self.heads[self.next_head]
        self.next_head += 1
        if seq > self.seq:
            yield f"missing: event {seq}, which checkpoint {number} holds"
        elif seq < 1:
            yield f"altered: checkpoint {number} holds an event {seq}"

    def finish_run(self):
        if self.run is None:
            return
        run, problems, excuse = self.run, [], self.excuse()
        while self.next_head < len(self.heads):
            number, seq, value = self.heads[self.next_head]
            self.next_head += 1
            if not excuse or (seq, value) != excuse[1:] and seq >= excuse[1]:
                problems.append(("event", seq, f"missing: checkpoint {number} holds it"))
        if excuse:
            self.expired_runs += 1
            self.expired_events += excuse[1]
            if excuse[1:] not in [head[1:] for head in self.heads]:
                what = f"altered: expiry {excuse[0]} names an event that no checkpoint holds"
                problems.append(("event", excuse[1], what))
            if run["event_seq"] is not None and (run["event_seq"], run["event_hash"]) != excuse[1:]:
                what = f"altered: expiry {excuse[0]} holds another event as the last"
                problems.append(("event", run["event_seq"], what))
        elif run["event_seq"] is None:
            problems.append(("run", None, "missing: the run was deleted"))
        elif (run["event_seq"], run["event_hash"]) != (self.seq, self.hash):
            what = f"missing: the run's row names it as the last, the events end with {self.seq}"
            problems.append(("event", run["event_seq"], what))
        for kind, seq, what in problems:
            where = f"run {self.run_id}" + (f", event {seq}" if kind == "event" else "")
            self.problem(where, what)
        self.passed += not problems
        self.run = None

    def finish_project(self):
        """The heads of the project's runs must give what each checkpoint says of it, and the runs
        whose events are gone what each record of retention says."""
        if self.project_id is None:
            return
        self.compare_roots("checkpoint", "heads", self.roots, self.digests)
        self.compare_roots("expiry", "expired runs", self.expiry_roots, self.expiry_digests)
        self.digests, self.expiry_digests = {}, {}

    def compare_roots(self, kind, parts, roots, digests):
        roots = roots.pop(self.project_id, {})
        for number in sorted({*roots, *digests}):
            digest = digests.get(number)
            self.judge(
                f"{kind} {number}",
                []
                if digest and digest.hexdigest() == roots.get(number)
                else [f"altered: the {parts} of project {self.project_id} do not give its root"],
            )

    def take_end(self, line):
        self.finish_run()
        self.finish_project()
        self.project_id = None
        self.ended = True
        problems = [
            f"cut: {count} lines of kind {kind}, not {line.get(f'{kind}_count')}"
            for kind, count in self.counts.items()
            if line.get(f"{kind}_count", 0) != count
        ]
        self.judge("export", problems)

    def finish(self):
        """What can be said only after the last line."""
        if not self.ended:
            self.problem("export", "truncated: its last line is missing; what follows was not read")
            return
        for kind, left in (("checkpoint", self.roots), ("expiry", self.expiry_roots)):
            for project_id, roots in sorted(left.items()):
                for number in roots:
                    self.problem(f"{kind} {number}", f"missing: all runs of project {project_id}")
        for number in self.signed.keys() - self.expiries.keys():
            self.problem(f"expiry {number}", "missing: a checkpoint signs it")
        for number, value in self.seen.items():
            found = self.checkpoints.get(number, (None, None))[1]
            self.judge(
                f"checkpoint {number}",
                [] if found == value else ["replaced: it is not the one that was noted"],
            )

    def notes(self):
        for number, expiry in self.expiries.items():
            yield (
                f"expiry {number} of {expiry['timestamp']} by user {expiry['user_id']}: events of"
                f" {expiry['run_count']} runs queued from {expiry['range_from']} to"
                f" {expiry['range_to']}, all projects"
            )
        if self.expired_runs:
            yield (
                f"expired: {self.expired_events} events of {self.expired_runs} runs are gone by"
                " signed records of retention; what they said cannot be verified any more"
            )
        if not self.last:
            yield "there is no checkpoint: nothing is covered, the hashes prove consistency only"
            return
        last = self.last
        yield f"last checkpoint {last['number']}:{last['hash']} of {last['timestamp']}: note it,"
        yield f"  and give it as --seen {last['number']}:{last['hash']} next time"
        yield (
            f"not covered: {self.uncovered} events of {self.uncovered_runs} runs are newer than"
            " their last checkpoint; they are consistent, but no signature proves them yet"
        )


def is_number(value):
    return isinstance(value, int) and not isinstance(value, bool)


def verify(stream, trusted, seen, write):
    """Read an export from a binary stream and report by ``write``; returns the Verifier.

    :raise Usage: this is no export
    """
    verifier = Verifier(trusted, seen, write)
    for position, data in enumerate(stream, start=1):
        try:
            line = json.loads(data.decode("utf-8"))
            if not isinstance(line, dict):
                raise Malformed("this is no object")
            if position == 1:
                verifier.take_header(line)
            else:
                verifier.take(line)
        except (Malformed, ValueError, RecursionError) as error:
            if position == 1:
                raise Usage(f"this is no export: {error}") from error
            verifier.problem(f"line {position}", f"cannot be read: {ascii(str(error)[:200])}")
    if not hasattr(verifier, "header"):
        raise Usage("this is no export: it is empty")
    verifier.finish()
    return verifier


def trusted_fingerprint(text):
    if HASH.fullmatch(text.lower()):
        return text.lower()
    try:
        return load_key(Path(text).read_text(encoding="utf-8"))[1]
    except (OSError, ValueError) as error:
        raise Usage(f"--key {text}: {error}") from error


def seen_checkpoint(text):
    number, _colon, value = text.partition(":")
    if not number.isdigit() or not HASH.fullmatch(value):
        raise Usage(f"--seen {text}: must be NUMBER:HASH")
    return int(number), value


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("export", nargs="?", default="-")
    parser.add_argument("--key", action="append", required=True)
    parser.add_argument("--seen", action="append", default=[])
    options = parser.parse_args(arguments)
    out = sys.stdout
    try:
        trusted = {trusted_fingerprint(text) for text in options.key}
        seen = [seen_checkpoint(text) for text in options.seen]
        with sys.stdin.buffer if options.export == "-" else open(options.export, "rb") as stream:
            verifier = verify(stream, trusted, seen, lambda line: out.write(line + "\n"))
    except (Usage, OSError) as error:
        sys.stderr.write(f"verify_audit.py: {error}\n")
        return 2
    for note in verifier.notes():
        out.write(f"note: {note}\n")
    out.write(f"{verifier.passed} passed, {verifier.failed} failed\n")
    return 1 if verifier.failed else 0


if __name__ == "__main__":
    sys.exit(main())
