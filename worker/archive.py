"""A folder as one compressed tar file, made while it is being read: no copy lies on the disk.

The same folder gives the same bytes: members are sorted, owners are left out, and the compressed
stream holds no time of its own.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20
_LEVEL = 6
_GZIP = 16 + zlib.MAX_WBITS


class TarGz(io.RawIOBase):
    """The archive as a stream. Links that lead out of the folder, and devices, are left out."""

    def __init__(self, folder: Path, open_file: Callable[[Path], BinaryIO]) -> None:
        super().__init__()
        self._pieces = _compressed(_tar(folder, open_file))
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        pieces, total = [self._left], len(self._left)
        while size < 0 or total < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            pieces.append(piece)
            total += len(piece)
        data = b"".join(pieces)
        if size < 0:
            size = len(data)
        self._left = data[size:]
        return data[:size]


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    for piece in pieces:
        data = compressor.compress(piece)
        if data:
            yield data
    yield compressor.flush()


def _tar(folder: Path, open_file: Callable[[Path], BinaryIO]) -> Iterator[bytes]:
    for path in _members(folder):
        info = _describe(path, f"{folder.name}/{path.relative_to(folder).as_posix()}", folder)
        if info is None:
            continue
        if not info.isreg():
            yield _header(info)
            continue
        with open_file(path) as source:
            info.size = os.fstat(source.fileno()).st_size
            yield _header(info)
            yield from _content(source, info)
    # Two empty blocks end an archive, which is a multiple of 20 blocks.
    yield bytes(tarfile.RECORDSIZE)


def _members(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *names]):
            yield Path(place, name)


def _describe(path: Path, name: str, folder: Path) -> tarfile.TarInfo | None:
    facts = path.lstat()
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(facts.st_mode) & 0o777
    info.mtime = int(facts.st_mtime)
    if stat.S_ISREG(facts.st_mode):
        return info
    if stat.S_ISDIR(facts.st_mode):
        info.type = tarfile.DIRTYPE
        return info
    if stat.S_ISLNK(facts.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        is_inside = path.resolve().is_relative_to(folder.resolve())
        return info if is_inside and not os.path.isabs(info.linkname) else None
    return None


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(source: BinaryIO, info: tarfile.TarInfo) -> Iterator[bytes]:
    left = info.size
    while left:
        chunk = source.read(min(_CHUNK, left))
        if not chunk:
            raise OSError(errno.EIO, f"{info.name} became shorter while it was read")
        left -= len(chunk)
        yield chunk
    yield bytes(-info.size % tarfile.BLOCKSIZE)
