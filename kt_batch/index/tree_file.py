"""Write the file of a tree whose centres no process holds: they come from a file of their own.

Of 12.6 GB for 800 million patches, all but some 300 MB are centres.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from kt_batch.index.tensors import ROWS
from kt_batch.index.tree import Tree

_TYPES = {torch.int64: "I64", torch.float32: "F32"}  # as safetensors names them


def append_centres(file: BinaryIO, centres: Tensor) -> None:
    """Write centres `(n, D)` float32 to a file of centres, in the order of the nodes of the tree."""
    file.writelines(part.contiguous().numpy().data for part in centres.split(ROWS))


def write_tree(path: Path, tree: Tree, centres: Path) -> None:
    """Write the bytes that `Tree.to_bytes` returns of a tree with centres.

    Args:
        path: Where they are written.
        tree: Without centres, as `join_nodes` and `grow_nodes` return it.
        centres: The file with the centres of all its nodes, as `append_centres` wrote them.
    """
    tensors: dict[str, Tensor] = {field.name: getattr(tree, field.name) for field in fields(tree)}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    shapes["centres"] = [len(tree.leaf), len(tree.spread)]
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # that of safetensors
    header, end = {}, 0
    for name in order:
        start, end = end, end + math.prod(shapes[name]) * tensors[name].dtype.itemsize
        header[name] = {"dtype": _TYPES[tensors[name].dtype], "shape": shapes[name], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file, centres.open("rb") as source:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            if name == "centres":
                shutil.copyfileobj(source, file, 1 << 20)
            else:
                file.write(tensors[name].contiguous().numpy().data)
