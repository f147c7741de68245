"""What `output.py`, `artifacts.py` and `containers.py` measure of the worker, as rows."""

from . import artifacts as transfers
from . import containers as engine
from . import output as printing

# A target that names these sizes is judged at these sizes only.
FULL_MIB, FULL_CONTAINERS = 2048, 20
_READS_AGAIN = {"checked_download": ", which reads the file again for that"}


def output(site, rate, seconds, rounds):
    """Rows of a run that prints, and what is wrong with its log."""
    found = printing.measure(site, rate, seconds, rounds)
    is_full = (rate, seconds) == (printing.FULL_RATE, printing.FULL_SECONDS)
    lines, quiet = rate * seconds, "the same with > /dev/null"
    rows = [
        {"name": "printed by the step", "value": lines / found["step_seconds"], "unit": "lines/s",
         "note": f"{rate:,} asked for, {lines:,} in all"},
        {"name": "lost", "value": found["lost"], "unit": "lines",
         "target": "output_lost" if is_full else ""},
        {"name": "the step", "value": found["step_seconds"], "unit": "s",
         "ratio": found["step_seconds"] / found["quiet_step_seconds"], "ratio_of": quiet},
        {"name": "the run", "value": found["run_seconds"], "unit": "s",
         "ratio": found["run_seconds"] / found["quiet_run_seconds"], "ratio_of": quiet,
         "target": "output_run" if is_full else ""},
        {"name": "not yet in the database when the step ended", "value": found["backlog"],
         "unit": "lines"},
        {"name": "from the end of the step to that of the run", "value": found["flush_seconds"],
         "unit": "s", "note": f"{found['quiet_flush_seconds']:.1f} s without output"},
    ]  # fmt: skip
    return {"rows": rows, "problems": found["problems"]}


def artifacts(mib, rounds):
    """Rows of uploads and downloads beside plain boto3, and of memory."""
    found = transfers.transfer(mib, rounds)
    is_full = mib >= FULL_MIB
    targets = {"upload": "artifact_upload", "download": "artifact_download"}
    for way in transfers.WAYS:
        seconds, theirs = found[f"ours_{way}_seconds"], found[f"boto3_{way}_seconds"]
        yield {"name": way.replace("_", " "), "value": mib / seconds, "unit": "MiB/s",
               "ratio": found[f"{way}_ratio"], "ratio_of": "plain boto3",
               "target": targets.get(way, "") if is_full else "",
               "note": f"{mib:,} MiB; boto3 {mib / theirs:.0f} MiB/s{_READS_AGAIN.get(way, '')}",
               }  # fmt: skip
    grown = transfers.memory(mib)
    yield {"name": "memory that a process grows by, one file up and down",
           "value": grown["growth_mib"], "unit": "MiB",
           "target": "artifact_memory" if is_full else ""}  # fmt: skip


def containers(count):
    """Rows of starts beside `docker run`; one that says why, where there is no engine."""
    try:
        found = engine.measure(count)
    except engine.MissingEngine as error:
        yield {"name": "to the first instruction", "value": None, "unit": "ms", "note": str(error)}
        return
    for name, key, target in (
        ("to the first instruction", "start", "docker_start"),
        ("until it has ended and is removed", "whole", ""),
    ):
        ours, theirs = found[f"ours_{key}"], found[f"docker_{key}"]
        yield {"name": name, "value": ours, "unit": "ms", "ratio": ours / theirs,
               "ratio_of": "docker run", "target": target if count >= FULL_CONTAINERS else "",
               "note": f"docker run {theirs:.0f} ms, {count} of each"}  # fmt: skip
