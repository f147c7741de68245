"""Rows of measurements, the targets they are held against, and the file that keeps them.

Every row is written to the results file as soon as it is there, so that an interrupted run
leaves what it has measured.
"""

import json
from dataclasses import asdict, dataclass, field

MET, NOT_MET, NOT_MEASURED = "met", "not met", "not measured"


@dataclass(frozen=True)
class Target:
    """A bound for the rows that name it. ``measure`` says which of their numbers is bound."""

    sentence: str
    measure: str  # "ratio" or "value"
    least: float | None = None
    most: float | None = None
    stretch: float | None = None  # a least that nobody has promised

    def verdict(self, row):
        number = getattr(row, self.measure)
        if number is None:
            return NOT_MEASURED
        if self.least is not None and number < self.least:
            return NOT_MET
        if self.most is not None and number > self.most:
            return NOT_MET
        if self.stretch is not None:
            return f"{MET}; stretch {self.stretch:g} {MET if number >= self.stretch else NOT_MET}"
        return MET


TARGETS = {
    "cycle_graphile": Target(
        "audited life cycle ≥ 0.3 × graphile-worker unbatched (stretch 0.6)",
        "ratio", least=0.3, stretch=0.6,
    ),
    "cycle_procrastinate": Target("audited life cycle ≥ 3 × procrastinate", "ratio", least=3),
    "claim_growth": Target(
        "claim p99 with 5 M finished and 100 k queued ≤ 1.3 × that with 1 k queued, none finished",
        "ratio", most=1.3,
    ),
    "log_ingest": Target(
        "log ingest with full-text index ≥ 0.3 × plain COPY into an unindexed copy of the table",
        "ratio", least=0.3,
    ),
    "log_page": Target(
        "a page of 500 lines at any offset of a 1 M-line run ≤ 30 ms", "value", most=30
    ),
    "log_search": Target("a rare word in 5 M lines ≤ 200 ms", "value", most=200),
    "artifact_upload": Target("upload of 2 GB ≥ 0.9 × plain boto3", "ratio", least=0.9),
    "artifact_download": Target(
        "download of 2 GB, its SHA-256 known at the end, ≥ 0.9 × plain boto3, which knows none",
        "ratio", least=0.9,
    ),
    "artifact_memory": Target(
        "memory by which a process grows that stores and fetches 2 GB < 64 MiB", "value", most=64
    ),
    "output_lost": Target("50,000 lines/s for 30 s: none is lost", "value", most=0),
    "output_run": Target(
        "50,000 lines/s for 30 s: from its start to its end, log stored, the run takes"
        " ≤ 1.1 × the same run with its output thrown away", "ratio", most=1.1,
    ),
    "docker_start": Target(
        "from the wish to the first instruction in a container ≤ 1.3 × docker run", "ratio",
        most=1.3,
    ),
    "crowd_errors": Target(
        "no serialization failure or deadlock seen by 8 workers and 8 enqueuers on one project,"
        " 60 s", "value", most=0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure. ``value`` None means that it was not measured; ``note`` then says why."""

    subject: str
    name: str
    value: float | None
    unit: str
    ratio: float | None = None
    ratio_of: str = ""
    target: str = ""
    note: str = ""

    @property
    def figure(self):
        if self.value is None:
            return NOT_MEASURED
        return f"{number(self.value)} {self.unit}".strip()

    @property
    def ratio_text(self):
        return "" if self.ratio is None else f"{number(self.ratio)} × {self.ratio_of}"

    @property
    def verdict(self):
        return TARGETS[self.target].verdict(self) if self.target else ""

    def __str__(self):
        parts = (f"{self.name}: {self.figure}", self.ratio_text, self.verdict, self.note)
        return "; ".join(part for part in parts if part)


def number(value):
    """Three figures that count, and no more than are known."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


@dataclass
class Report:
    """All rows of one run of the benchmarks."""

    command: str
    date: str
    machine: dict
    scale: dict  # what the numbers of runs, rounds and seconds were
    rows: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    complete: bool = False
    file: object = None

    def add(self, row):
        self.rows.append(row)
        self.save()
        return row

    def add_problems(self, subject, problems):
        """Invariants that did not hold; one of them makes the whole run fail."""
        self.problems += [f"{subject}: {problem}" for problem in problems]
        self.save()

    def save(self):
        if self.file:
            content = {**asdict(self), "file": None}
            self.file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file):
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in content.pop("rows")]
        return cls(**{**content, "rows": rows, "file": None})

    def by_subject(self):
        """Rows in lists by subject, both in the order of measuring."""
        subjects = {}
        for row in self.rows:
            subjects.setdefault(row.subject, []).append(row)
        return subjects

    def judged(self):
        """For each target: (its sentence, the row's numbers, the verdict)."""
        for key, target in TARGETS.items():
            rows = [row for row in self.rows if row.target == key]
            if not rows:
                yield target.sentence, "", NOT_MEASURED
            for row in rows:
                measured = row.ratio_text if target.measure == "ratio" else row.figure
                yield target.sentence, measured, row.verdict

    def text(self):
        """For a terminal."""
        lines = []
        for subject, rows in self.by_subject().items():
            lines += ["", subject, *(f"  {row}" for row in rows)]
        lines += ["", "Targets"]
        lines += [
            f"  {verdict:12}  {sentence}{f': {measured}' if measured else ''}"
            for sentence, measured, verdict in self.judged()
        ]
        lines += ["", *(f"INVARIANT BROKEN: {problem}" for problem in self.problems)]
        lines.append(
            f"Invariants: {len(self.problems)} broken" if self.problems else "Invariants: all hold"
        )
        return "\n".join(lines)
