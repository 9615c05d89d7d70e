"""Routed patches: sorted through a file, found by counts alone, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kt_batch.errors import DamagedError
from kt_batch.store import routed
from kt_batch.store.locations import LocalLocation
from kt_batch.store.routed import Records, RoutedFiles, put_routed, record_sorter, record_type

CHANNELS, CLUSTERS = 2, 5
Batch = tuple[Records, np.ndarray]


@pytest.fixture
def build(tmp_path: Path) -> LocalLocation:
    return LocalLocation(tmp_path / "build")


def a_batch(labels: list[int], start: int = 0) -> Batch:
    """Return records whose ids and packets count upwards from `start`."""
    records = np.zeros(len(labels), record_type(CHANNELS))
    records["patch_id"][:, 10:] = (start + np.arange(len(labels))).astype(">u2").view("u1").reshape(-1, 2)
    records["packet"] = (start + np.arange(len(labels)))[:, None, None]
    return records, np.array(labels, np.int64)


def put(build: LocalLocation, batches: list[Batch]) -> tuple[str, int]:
    with record_sorter(build, CLUSTERS, CHANNELS) as sorter:
        for records, labels in batches:
            sorter.add(records, labels)
        return put_routed(build, sorter)


def found(build: LocalLocation, outputs: list[tuple[str, int]]) -> RoutedFiles:
    return RoutedFiles.find(build, outputs, CLUSTERS, CHANNELS)


def test_adjacent_clusters_are_read_from_each_file_in_the_order_they_were_added(build: LocalLocation) -> None:
    outputs = [put(build, [a_batch([3, 0, 3, 1]), a_batch([4, 1, 0], start=4)]), put(build, [a_batch([1], start=9)])]
    files = found(build, outputs)
    assert files.counts.tolist() == [[2, 2, 0, 2, 1], [0, 1, 0, 0, 0]]
    ((records, labels),) = files.read(build, 0, 1, 3, CHANNELS)
    assert records["packet"][:, 0, 0].tolist() == [3, 5, 0, 2]
    assert labels.tolist() == [1, 1, 3, 3]
    ((records, labels),) = files.read(build, 1, 0, 4, CHANNELS)
    assert records["patch_id"][:, 11].tolist() == [9]
    assert list(files.read(build, 1, 2, 4, CHANNELS)) == []


def test_the_packing_workers_find_what_the_driver_found(build: LocalLocation) -> None:
    files = found(build, [put(build, [a_batch([0, 2])]), put(build, [a_batch([4], start=2)])])
    again = RoutedFiles.get(build, files.put(build), CLUSTERS)
    assert again.names == files.names
    assert np.array_equal(again.counts, files.counts)


def test_a_long_range_is_read_in_pieces(build: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    files = found(build, [put(build, [a_batch([0, 1, 1, 2, 2, 2])])])
    monkeypatch.setattr(routed, "REQUEST", 4 * record_type(CHANNELS).itemsize)
    pieces = list(files.read(build, 0, 0, 4, CHANNELS))
    assert [labels.tolist() for _, labels in pieces] == [[0, 1, 1, 2], [2, 2]]
    assert np.concatenate([records["packet"][:, 0, 0] for records, _ in pieces]).tolist() == [0, 1, 2, 3, 4, 5]


def test_parts_without_patches_make_a_file_without_records(build: LocalLocation) -> None:
    files = found(build, [put(build, [])])
    assert files.counts.tolist() == [[0] * CLUSTERS]


@given(
    labels=arrays(np.int64, st.integers(0, 60), elements=st.integers(0, CLUSTERS - 1)),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_law_sorting_through_a_file_is_a_stable_sort(
    tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray, cuts: list[int]
) -> None:
    records, _ = a_batch(labels.tolist())
    with record_sorter(LocalLocation(tmp_path_factory.mktemp("build")), CLUSTERS, CHANNELS) as sorter:
        for part, own in zip(np.split(records, sorted(cuts)), np.split(labels, sorted(cuts)), strict=True):
            sorter.add(part, own)
        batches = [batch for cluster in range(CLUSTERS) for batch in sorter.records(cluster)]
        sorted_records = np.concatenate([records[:0], *batches])
        counts = sorter.counts.tolist()
    assert np.array_equal(sorted_records, records[np.argsort(labels, kind="stable")])
    assert counts == np.bincount(labels, minlength=CLUSTERS).tolist()


def test_no_scratch_file_remains(build: LocalLocation) -> None:
    put(build, [a_batch([0, 1])])
    assert build.list_temporary() == {}


@pytest.mark.parametrize("damage", ["cut", "counts"])
def test_a_damaged_file_is_refused_by_name(build: LocalLocation, damage: str) -> None:
    sha256, size = put(build, [a_batch([0, 1, 4])])
    path = build.root / "routed" / sha256
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:20] if damage == "cut" else b"\x05" + data[1:])
    with pytest.raises(DamagedError, match=f"'routed/{sha256}' at .* has other counts than records"):
        found(build, [(sha256, size)])


def test_a_file_that_is_cut_after_it_was_counted_is_refused(build: LocalLocation) -> None:
    output = put(build, [a_batch([0, 1, 4])])
    files = found(build, [output])
    path = build.root / "routed" / output[0]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedError, match="shorter than its counts say"):
        list(files.read(build, 0, 4, 4, CHANNELS))


def test_a_list_of_files_that_is_cut_is_refused(build: LocalLocation) -> None:
    sha256 = found(build, [put(build, [a_batch([0])])]).put(build)
    with pytest.raises(DamagedError, match="is cut off"):
        RoutedFiles.get(build, sha256, CLUSTERS + 1)
