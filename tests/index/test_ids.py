"""Patch ids."""

from __future__ import annotations

import numpy as np

from kt_batch.index.ids import hash_ids, pack_ids, sort_order, unpack_ids

IMAGE = "0123456789abcdef"


def test_an_id_is_image_row_and_column_in_big_endian_order() -> None:
    ids = pack_ids(IMAGE, np.array([1]), np.array([258]))
    assert ids.dtype == np.uint8
    assert ids[0].tobytes().hex() == IMAGE + "0001" + "0102"


def test_an_id_decodes_to_its_image_row_and_column() -> None:
    images, rows, cols = unpack_ids(pack_ids(IMAGE, np.array([0, 65535]), np.array([65535, 300])))
    assert [image.tobytes().hex() for image in images] == [IMAGE, IMAGE]
    assert rows.tolist() == [0, 65535]
    assert cols.tolist() == [65535, 300]


def test_ids_are_sorted_as_unsigned_bytes_including_trailing_zeros() -> None:
    ids = np.concatenate(
        [
            pack_ids("ff00000000000000", np.array([0]), np.array([0])),
            pack_ids("7f00000000000000", np.array([0]), np.array([1])),
            pack_ids("7f00000000000000", np.array([0]), np.array([0])),
            pack_ids("0000000000000000", np.array([128]), np.array([0])),
            pack_ids("0000000000000000", np.array([0]), np.array([255])),
        ]
    )
    assert sort_order(ids).tolist() == [4, 3, 2, 1, 0]


def test_ids_of_every_second_row_are_sorted_too() -> None:
    ids = pack_ids(IMAGE, np.arange(6)[::-1].copy(), np.zeros(6, dtype=np.int64))[::2]
    assert sort_order(ids).tolist() == [2, 1, 0]
    assert unpack_ids(ids)[1].tolist() == [5, 3, 1]


def test_a_hash_depends_only_on_its_id_and_the_seed() -> None:
    ids = pack_ids(IMAGE, np.arange(50), np.arange(50))
    assert hash_ids(ids, 7)[10:20].tolist() == hash_ids(ids[10:20], 7).tolist()
    assert not (hash_ids(ids, 7) == hash_ids(ids, 8)).any()


def test_hashes_are_the_same_on_every_machine() -> None:
    # Pinned: the sample of a library depends on them.
    ids = pack_ids(IMAGE, np.array([0, 1]), np.array([0, 2]))
    assert [f"{value:016x}" for value in hash_ids(ids, 0)] == ["392ad55e90e633b3", "94adbddd0a11e31c"]


def test_the_smallest_hashes_are_a_fair_sample() -> None:
    # 100 x 100 patches; each quarter of the image has about a quarter of the 1,000 smallest hashes.
    rows, cols = np.divmod(np.arange(10000), 100)
    hashes = hash_ids(pack_ids(IMAGE, rows, cols), 0)
    chosen = np.argsort(hashes)[:1000]
    quarters = np.bincount((rows[chosen] >= 50) * 2 + (cols[chosen] >= 50), minlength=4)
    assert len(np.unique(hashes)) == 10000
    assert quarters.min() > 200
    assert quarters.max() < 300
