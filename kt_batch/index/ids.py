"""Patch ids: image id (8 bytes), row, col (uint16 each), big-endian, so that ids sort by (image, row, col)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ID_BYTES = 12


def pack_ids(image_id: str, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the ids `(n, 12)` uint8 of n positions (each below 65536) of the image with this id of 16 hex digits."""
    out = np.empty((len(rows), ID_BYTES), dtype=np.uint8)
    out[:, :8] = np.frombuffer(bytes.fromhex(image_id), dtype=np.uint8)
    out[:, 8:10] = rows.astype(">u2").view(np.uint8).reshape(-1, 2)
    out[:, 10:12] = cols.astype(">u2").view(np.uint8).reshape(-1, 2)
    return out


def unpack_ids(ids: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint16]]:
    """Return the image ids `(n, 8)` uint8, rows and cols `(n,)` uint16 of ids `(n, 12)`."""
    ids = np.ascontiguousarray(ids)
    rows = np.ascontiguousarray(ids[:, 8:10]).view(">u2")[:, 0].astype(np.uint16)
    cols = np.ascontiguousarray(ids[:, 10:12]).view(">u2")[:, 0].astype(np.uint16)
    return np.ascontiguousarray(ids[:, :8]), rows, cols


def sort_order(ids: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the order `(n,)` in which ids `(n, 12)` ascend."""
    return np.argsort(np.ascontiguousarray(ids).view(f"S{ID_BYTES}")[:, 0], kind="stable")


def hash_ids(ids: NDArray[np.uint8], seed: int) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each id, for sampling: the splitmix64 finaliser over its three 32-bit words."""
    words = np.ascontiguousarray(ids).view(">u4").astype(np.uint64)
    value = np.full(len(ids), np.uint64(seed), dtype=np.uint64)
    for number in range(3):
        value = value + words[:, number] + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return value
