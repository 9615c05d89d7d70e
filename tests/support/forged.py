"""Indexes on disk that a stranger has written: whatever is wrong in them, all hashes and sizes in index.json fit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.errors import DamagedError
from kt_batch.index.index import Index, leaf_statistics
from kt_batch.index.leaf_statistics import write_leaves
from kt_batch.index.shards import FORMAT
from kt_batch.store import layout
from kt_batch.store.indexes import LEAVES_FORMAT, IndexSummary, ShardRef, index_digest

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], Tensors | None]


def write_index(folder: Path, index: Index, *, with_leaves: bool = False) -> IndexSummary:
    """Write an index of patches without a fifth bit as a library holds it; return its summary.

    It is of format 3, or with the file of its leaves of format 5.
    """
    shards = [put_shard(folder, save(shard.tensors(), {"format": FORMAT})) for shard in index.shards]
    config = IndexConfig()
    digest = index_digest(config, "0" * 16)
    tree = index.tree.to_bytes()
    put(folder / layout.tree_path(digest), tree)
    summary = IndexSummary(
        digest=digest,
        config=config,
        snapshot="0" * 16,
        layer="relu3_1",
        channels=index.channels,
        patches=index.count,
        kept=index.count,
        leaves=index.tree.leaves,
        tree_sha256=sha256(tree),
        tree_bytes=len(tree),
        members_sha256="0" * 64,
        shards=tuple(shards),
        numerics={},
    )
    if with_leaves:
        path = folder / layout.leaves_path(digest)
        write_leaves(path, leaf_statistics(index.shards))
        summary = forge_leaves(folder, summary.model_copy(update={"format": LEAVES_FORMAT}), path.read_bytes())
    put(folder / layout.index_summary_path(digest), summary.model_dump_json().encode())
    return summary


def forge_tree(folder: Path, summary: IndexSummary, data: bytes) -> IndexSummary:
    """Replace the tree and its hash."""
    put(folder / layout.tree_path(summary.digest), data)
    return summary.model_copy(update={"tree_sha256": sha256(data), "tree_bytes": len(data)})


def forge_leaves(folder: Path, summary: IndexSummary, data: bytes) -> IndexSummary:
    """Replace the file of the leaves and its hash."""
    put(folder / layout.leaves_path(summary.digest), data)
    return summary.model_copy(update={"leaves_sha256": sha256(data), "leaves_bytes": len(data)})


def forge_shard(folder: Path, summary: IndexSummary, data: bytes) -> IndexSummary:
    """Replace the first shard and its hash."""
    return summary.model_copy(update={"shards": (put_shard(folder, data), *summary.shards[1:])})


def changed(data: bytes, change: Change, metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file with other tensors: those that `change` returns, or has changed in place."""
    tensors = {name: tensor.clone() for name, tensor in load(data).items()}
    after = change(tensors)
    kept = tensors if after is None else after
    return save({name: tensor.contiguous() for name, tensor in kept.items()}, metadata)


def with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a safetensors file with another header over the same bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def put_shard(folder: Path, data: bytes) -> ShardRef:
    put(folder / layout.shard_path(sha256(data)), data)
    return ShardRef(sha256=sha256(data), bytes=len(data))


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fill(name: str, value: float, at: int | slice = slice(None)) -> Change:
    """Return the change that sets some or all values of a tensor."""

    def change(tensors: Tensors) -> None:
        tensors[name][at] = value

    return change


def alter(name: str, function: Callable[[Tensor], Tensor]) -> Change:
    """Return the change that replaces a tensor by a function of it."""
    return lambda tensors: tensors | {name: function(tensors[name])}


def retype(name: str, dtype: torch.dtype) -> Change:
    """Return the change that gives a tensor another type."""
    return alter(name, lambda tensor: tensor.to(dtype))


def cut(name: str, dim: int = 0) -> Change:
    """Return the change that takes the last row or column off a tensor."""
    return alter(name, lambda tensor: tensor.narrow(dim, 0, tensor.shape[dim] - 1))


def drop(name: str) -> Change:
    """Return the change that leaves a tensor out."""
    return lambda tensors: {other: tensor for other, tensor in tensors.items() if other != name}


def add(name: str, tensor: Tensor) -> Change:
    """Return the change that adds a tensor."""
    return lambda tensors: tensors | {name: tensor}


IN_PLACE = ("cut", "emptied", "extended", "written to")


def change_in_place(path: Path, how: str) -> None:
    """Change a file in one of the ways IN_PLACE, as somebody does while others have it mapped."""
    match how:
        case "cut":
            os.truncate(path, 5000)
        case "emptied":
            os.truncate(path, 0)
        case "extended":
            os.truncate(path, path.stat().st_size + 1)
        case _:
            with path.open("r+b") as file:
                file.write(b"\0")


def refused(call: Callable[[], object]) -> str:
    """Return the one sentence with which damage is refused."""
    with pytest.raises(DamagedError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 2000
    return message
