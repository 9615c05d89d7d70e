"""Routed patches of an index build: records of one size by cluster, so that any clusters are one range of a file.

A file `routed/<sha256>` begins with the number of records of each of K clusters, little-endian uint64. Its records
follow, cluster after cluster: a patch id of 12 bytes and the Haar packet, `(4, C)` little-endian float16. A reader that
knows the counts needs no footer, and one request for adjacent clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import DamagedError
from kt_batch.store import layout
from kt_batch.store.indexes import put_blob, put_file, read_blob
from kt_batch.store.locations import Location
from kt_batch.store.scratch import scratch_file
from kt_batch.store.units import READERS

COUNT = np.dtype("<u8")
SHA256_BYTES = 32
REQUEST = 32 << 20  # bytes of records that are read at a time

Records = NDArray[Any]  # of `record_type`


def record_type(channels: int) -> np.dtype[Any]:
    """Return the type of a record: `patch_id` (12,) uint8 and `packet` (4, C) float16, without padding."""
    return np.dtype([("patch_id", "u1", (12,)), ("packet", "<f2", (4, channels))])


class RecordSorter:
    """Sorts records by cluster through a scratch file, with one batch of them in memory at a time."""

    def __init__(self, path: Path, clusters: int, channels: int) -> None:
        """Take the scratch file, which need not exist, and the numbers of clusters and channels."""
        self._path, self._kind = path, record_type(channels)
        self._batches: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # counts and first rows, `(clusters,)`
        self.counts = np.zeros(clusters, np.int64)  # of all batches
        path.touch()

    def add(self, records: Records, labels: NDArray[np.int64]) -> None:
        """Append records and the cluster of each, from 0 on."""
        counts = np.bincount(labels, minlength=len(self.counts))
        with self._path.open("ab") as file:
            file.write(records[np.argsort(labels, kind="stable")].data)
        self._batches.append((counts, self.counts.sum() + counts.cumsum() - counts))
        self.counts += counts

    def batches(self, cluster: int) -> Iterator[bytes]:
        """Yield the bytes of the records of a cluster, batch by batch, in the order in which they were added."""
        width = self._kind.itemsize
        with self._path.open("rb") as file:
            for counts, first in self._batches:
                if counts[cluster]:
                    file.seek(int(first[cluster]) * width)
                    yield file.read(int(counts[cluster]) * width)

    def records(self, cluster: int) -> Iterator[Records]:
        """Yield the records of a cluster, batch by batch, in the order in which they were added."""
        for data in self.batches(cluster):
            yield np.frombuffer(data, self._kind)


@contextmanager
def record_sorter(location: Location, clusters: int, channels: int) -> Iterator[RecordSorter]:
    """Yield a sorter with a scratch file, which is removed afterwards. Raises StorageError."""
    with scratch_file(location, ".sorting") as path:
        yield RecordSorter(path, clusters, channels)


def put_routed(build: Location, sorter: RecordSorter) -> tuple[str, int]:
    """Store the counts and the records of a sorter by content.

    Returns:
        SHA-256 and number of bytes.

    Raises:
        StorageError: They cannot be written.
    """
    with scratch_file(build, ".routed") as path:
        with path.open("wb") as file:
            file.write(sorter.counts.astype(COUNT).tobytes())
            for cluster in range(len(sorter.counts)):
                file.writelines(sorter.batches(cluster))
        return put_file(build, layout.ROUTED, path)


@dataclass(frozen=True)
class RoutedFiles:
    """All routed files of a build, and where their clusters are.

    names: SHA-256 of each of P files. counts: Records of each cluster in each file, `(P, K)` int64.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    @classmethod
    def find(cls, build: Location, outputs: Sequence[tuple[str, int]], clusters: int, channels: int) -> RoutedFiles:
        """Read the counts of files, of which SHA-256 and bytes are given. Raises DamagedError and StorageError."""

        def counts(output: tuple[str, int]) -> NDArray[np.int64]:
            return _read_counts(build, *output, clusters, record_type(channels).itemsize)

        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(counts, outputs))
        return cls(tuple(name for name, _ in outputs), np.array(found, np.int64).reshape(-1, clusters))

    def put(self, build: Location) -> str:
        """Store names and counts by content, for the workers that pack, and return the SHA-256."""
        data = b"".join(map(bytes.fromhex, self.names)) + self.counts.astype(COUNT).tobytes()
        return put_blob(build, layout.CLUSTERS, data)[0]

    @classmethod
    def get(cls, build: Location, sha256: str, clusters: int) -> RoutedFiles:
        """Read what `put` stored. Raises DamagedError and StorageError."""
        data = read_blob(build, layout.CLUSTERS, sha256)
        files, rest = divmod(len(data), SHA256_BYTES + COUNT.itemsize * clusters)
        if rest:
            raise DamagedError(f"'{layout.blob_path(layout.CLUSTERS, sha256)}' at '{build.uri}' is cut off.")
        names = [data[start : start + SHA256_BYTES].hex() for start in range(0, files * SHA256_BYTES, SHA256_BYTES)]
        counts = np.frombuffer(data, COUNT, offset=files * SHA256_BYTES).reshape(files, clusters)
        return cls(tuple(names), counts.astype(np.int64))

    def read(
        self, build: Location, file: int, first: int, last: int, channels: int
    ) -> Iterator[tuple[Records, NDArray[np.int64]]]:
        """Yield the records of adjacent clusters of one file and the cluster of each record.

        It takes one request for REQUEST bytes; a file without such records takes none.

        Args:
            build: The build.
            file: The number of the file.
            first: The first cluster.
            last: The last cluster.
            channels: C.

        Raises:
            DamagedError: The file is shorter than its counts say.
            MissingError, StorageError: It is gone, or cannot be read.
        """
        kind = record_type(channels)
        labels = np.repeat(np.arange(first, last + 1), self.counts[file, first : last + 1])
        name = layout.blob_path(layout.ROUTED, self.names[file])
        start = COUNT.itemsize * self.counts.shape[1] + int(self.counts[file, :first].sum()) * kind.itemsize
        most = max(1, REQUEST // kind.itemsize)
        for row in range(0, len(labels), most):
            length = min(most, len(labels) - row) * kind.itemsize
            data = build.read_range(name, start + row * kind.itemsize, length)
            if len(data) != length:
                raise DamagedError(f"'{name}' at '{build.uri}' is shorter than its counts say; remove that folder.")
            yield np.frombuffer(data, kind), labels[row : row + most]


def _read_counts(build: Location, sha256: str, size: int, clusters: int, width: int) -> NDArray[np.int64]:
    """Return the records of each cluster of a file of `size` bytes."""
    name = layout.blob_path(layout.ROUTED, sha256)
    head = COUNT.itemsize * clusters
    counts = np.frombuffer(build.read_range(name, 0, head).ljust(head, b"\xff"), COUNT)
    most = size // width
    if (counts > most).any() or head + int(counts.sum()) * width != size:
        raise DamagedError(f"'{name}' at '{build.uri}' has other counts than records; remove that folder.")
    return counts.astype(np.int64)
