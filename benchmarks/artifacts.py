"""Uploads and downloads of large artifacts beside plain boto3, on the same server, taking turns.

The server is moto in a process of its own (``tests/s3_server.py``). It costs more than either
client, so compare ratios. Each measurement is a function that returns a dict; as a program:
``python -m benchmarks.artifacts [--mib 512] [--rounds 3]``. Memory is that of a process which does
nothing else, measured after one small upload.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: A checked download is one whose SHA-256 is known at its end. Ours are; boto3 reads again.
WAYS = ("upload", "download", "checked_download")
ROOT = Path(__file__).resolve().parent.parent


def transfer(mib: int = 512, rounds: int = 3) -> dict[str, Any]:
    """Seconds (medians) of ours and of boto3, each way, and the ratio of the rates."""
    with _server() as settings, tempfile.TemporaryDirectory() as folder:
        source = _noise(Path(folder) / "source", mib)
        seconds: dict[str, list[float]] = {}
        for number in range(rounds):
            turns = ("ours", "boto3") if number % 2 else ("boto3", "ours")
            for name in turns:
                report = _in_process(name, settings, source, f"{name}/{number}/file", folder)
                for way in WAYS:
                    seconds.setdefault(f"{name}_{way}", []).append(report[way])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "mib": mib,
        "rounds": rounds,
        **{f"{name}_seconds": round(value, 3) for name, value in medians.items()},
        **{
            f"{way}_ratio": round(medians[f"boto3_{way}"] / medians[f"ours_{way}"], 3)
            for way in WAYS
        },
    }


def memory(mib: int = 512) -> dict[str, Any]:
    """MiB by which a process grows that stores and fetches one file of that size."""
    with _server() as settings, tempfile.TemporaryDirectory() as folder:
        source = _noise(Path(folder) / "source", mib)
        report = _in_process("ours", settings, source, "ours/1/file", folder)
    return {"mib": mib, "growth_mib": round(report["growth"] / (1 << 20), 1)}


@contextlib.contextmanager
def _server() -> Iterator[dict[str, Any]]:
    # By its path: the package of the tests wants an Odoo.
    spec = importlib.util.spec_from_file_location("s3_server", ROOT / "tests" / "s3_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.S3Server()
    try:
        yield {
            "bucket": module.BUCKET,
            "endpoint": server.endpoint,
            "path_style": True,
            "access_key": module.ACCESS_KEY,
            "secret_key": module.SECRET_KEY,
        }
    finally:
        server.stop()


def _noise(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    return path


def _in_process(name: str, settings: dict, source: Path, key: str, folder: str) -> dict[str, Any]:
    task = json.dumps([name, settings, str(source), key, folder])
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.artifacts", "--task", "-"],
        input=task,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(process.stderr)
    return json.loads(process.stdout)


def _do(name: str, settings: dict[str, Any], source: str, key: str, folder: str) -> dict[str, Any]:
    """One upload and one download, in this process."""
    from worker.storage.s3 import S3Settings, S3Store

    store = S3Store(S3Settings(**settings))
    store.put(f"warm/{key}", io.BytesIO(b"x"))
    target = Path(folder) / "target"
    before = _peak()
    began = time.monotonic()
    if name == "ours":
        with open(source, "rb") as file:
            stored = store.put(key, file)
        middle = time.monotonic()
        with target.open("wb") as file:
            fetched = store.fetch(stored.url, file)
        ended = time.monotonic()
        if fetched != stored:
            raise RuntimeError("other bytes came back")
    else:
        # As its defaults are: ten connections, and a CRC in place of SHA-256.
        client, bucket = _plain_client(settings), settings["bucket"]
        client.upload_file(source, bucket, key)
        middle = time.monotonic()
        client.download_file(bucket, key, str(target))
        ended = time.monotonic()
    growth = _peak() - before
    checksum = _sha256(target)
    checked = ended if name == "ours" else time.monotonic()
    if checksum != _sha256(Path(source)):
        raise RuntimeError("other bytes came back")
    store.delete(store.url_of(key))
    return {
        "upload": middle - began,
        "download": ended - middle,
        "checked_download": checked - middle,
        "growth": growth,
    }


def _plain_client(settings: dict[str, Any]) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings["endpoint"],
        region_name="us-east-1",
        aws_access_key_id=settings["access_key"],
        aws_secret_access_key=settings["secret_key"],
        config=Config(s3={"addressing_style": "path"}),
    )


def _peak() -> int:
    """Bytes this program has had in memory at most. Not ru_maxrss: a child begins with that of its
    parent, which may be larger than all that it will need."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell the peak of a process's memory")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        sys.stdout.write(json.dumps(_do(*json.load(sys.stdin))))
        return
    for result in (transfer(options.mib, options.rounds), memory(options.mib)):
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
