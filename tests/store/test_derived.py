"""Files that follow from what is committed are replaced where they hold something else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from kt_batch.errors import StorageError
from kt_batch.store import derived
from kt_batch.store.derived import put_derived_file
from kt_batch.store.local import LocalLocation
from kt_batch.store.s3 import RangeReader, S3Location


@pytest.mark.parametrize("largest", [derived.LARGEST_PUT, 6])  # of a single put; the content has 7 bytes
@pytest.mark.parametrize("before", [None, b"", b"other", b"content", b"content and more"])
def test_a_derived_file_holds_the_content_whatever_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None, largest: int
) -> None:
    monkeypatch.setattr(derived, "LARGEST_PUT", largest)
    location, path = LocalLocation(tmp_path / "library"), tmp_path / "file"
    path.write_bytes(b"content")
    if before is not None:
        location.put_if_absent("index/file", before)
    assert put_derived_file(location, "index/file", path) == (hashlib.sha256(b"content").hexdigest(), 7)
    assert location.read_bytes("index/file") == b"content"
    assert location.list() == ["index/file"]
    assert location.list_temporary() == {}


def test_a_derived_file_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    location, path = LocalLocation(tmp_path / "library"), tmp_path / "file"
    path.write_bytes(b"content")
    put_derived_file(location, "file", path)
    before = (tmp_path / "library/file").stat()
    put_derived_file(location, "file", path)
    after = (tmp_path / "library/file").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_driver_that_keeps_replacing_a_file_is_one_sentence(tmp_path: Path) -> None:
    class Contested(LocalLocation):
        def delete(self, name: str) -> None:
            super().delete(name)
            self.put_if_absent(name, b"theirs")

    location, path = Contested(tmp_path / "library"), tmp_path / "file"
    path.write_bytes(b"ours")
    location.put_if_absent("file", b"theirs")
    with pytest.raises(StorageError, match=r"^'file' at '[^\n]*' keeps being replaced by another driver\.$"):
        put_derived_file(location, "file", path)


def test_content_that_is_there_is_compared_by_its_size_first_and_in_few_requests(tmp_path: Path) -> None:
    requests: list[int] = []

    class Counting(LocalLocation):
        def read_range(self, name: str, start: int, length: int) -> bytes:
            requests.append(start)
            return super().read_range(name, start, length)

        def open(self, name: str) -> BinaryIO:
            return cast(BinaryIO, RangeReader(cast(S3Location, self), name))

    location, path = Counting(tmp_path / "library"), tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    location.put_if_absent("file", bytes(2 << 20))
    put_derived_file(location, "file", path)
    assert requests == []
    put_derived_file(location, "file", path)
    assert requests == [0]
