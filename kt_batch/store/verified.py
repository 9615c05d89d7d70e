"""Which files were hashed since this machine started, so that each is hashed once and not by every worker.

A file that was verified is known by its SHA-256, size, device, inode, and the times of its last change (mtime and
ctime). A write changes a time; ctime cannot be set back without the rights of root. Undetected remain a change by root,
a change that a file system does not date (two within one tick of its clock), and whatever runs as the same user and
writes to the record itself. The record is one file for each start of a machine, `verified-<boot id>`, in the user's
cache folder. Where a system has no boot id, nothing is recorded and every opening hashes.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO

from kt_batch.store.private_folder import PrivateFolder

CHUNK = 1 << 20
RECORD = re.compile(r"verified-[0-9a-f-]{36}")
KEPT_RECORDS = 32  # of other machines with the same home, or of earlier starts
LARGEST_RECORD = 16 << 20  # bytes; a larger one begins anew

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class VerifiedFiles:
    """The record in a folder; `holds` needs no lock, `add` is called with the folder's lock."""

    def __init__(self, folder: PrivateFolder) -> None:
        self._folder = folder
        self._name = record_name()
        self._lines: frozenset[bytes] = frozenset()

    def holds(self, sha256: str, file: BinaryIO) -> bool:
        """Tell whether this very file had this hash, and has not changed since."""
        line = _line(sha256, os.fstat(file.fileno()))
        if line not in self._lines:
            self._lines = self._read()
        return line in self._lines

    def add(self, sha256: str, file: BinaryIO) -> None:
        """Record that a file has this hash."""
        if self._name is None:
            return
        status = self._folder.status(self._name)
        if status is None:
            self._remove_oldest()
        elif status.st_size > LARGEST_RECORD:
            self._folder.remove(self._name)
        # The first newline ends a line that a full disk or a kill has cut.
        self._folder.append(self._name, b"\n" + _line(sha256, os.fstat(file.fileno())) + b"\n")

    def _read(self) -> frozenset[bytes]:
        file = self._folder.open(self._name) if self._name else None
        if file is None:
            return frozenset()
        with file:
            return frozenset(file.read(2 * LARGEST_RECORD).split(b"\n"))

    def _remove_oldest(self) -> None:
        dated = [(self._folder.status(name), name) for name in self._folder.names() if RECORD.fullmatch(name)]
        newest_first = sorted(((status.st_mtime_ns, name) for status, name in dated if status), reverse=True)
        for _, name in newest_first[KEPT_RECORDS - 1 :]:
            self._folder.remove(name)


def hash_of(file: BinaryIO) -> str | None:
    """Return the SHA-256 of a whole file, which is then at its beginning; None where it changed meanwhile."""
    before = os.fstat(file.fileno())
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(CHUNK):
        digest.update(block)
    file.seek(0)
    sha256 = digest.hexdigest()
    return sha256 if _line(sha256, before) == _line(sha256, os.fstat(file.fileno())) else None


def _line(sha256: str, status: os.stat_result) -> bytes:
    values = (status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join((sha256, *map(str, values))).encode()


def record_name() -> str | None:
    """Return the name of the record of this start of this machine; None where a system has no boot id."""
    try:
        name = f"verified-{_BOOT_ID.read_text().strip()}"
    except OSError:
        return None
    return name if RECORD.fullmatch(name) else None
