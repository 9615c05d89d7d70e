"""The shapes and types of tensors in a file, checked before anything is computed with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from kt_batch.errors import DamagedError

ROWS = 16384  # whose values are checked at a time
LONGEST_NAME = 80  # of a foreign tensor, in an error

_FAULTS = (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OverflowError)

# Name -> type and shape. A dimension is a number, or a word: all dimensions with the same word have the same size.
Layout = dict[str, tuple[torch.dtype, tuple[int | str, ...]]]


def load_tensors(data: bytes, where: str) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file. Raises DamagedError, a sentence about `where`."""
    try:
        return load(data)
    except _FAULTS as error:
        raise DamagedError(f"{where} cannot be read: {error}.") from error


def map_tensors(path: Path, where: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, mapped and not read. Raises DamagedError as `load_tensors`."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (*_FAULTS, OSError) as error:
        raise DamagedError(f"{where} cannot be read: {error}.") from error


def check_tensors(tensors: Mapping[str, Tensor], layout: Layout, where: str) -> dict[str, int]:
    """Check that tensors are exactly those of a layout.

    Args:
        tensors: Tensors by name.
        layout: What is expected.
        where: The subject of the sentence of an error.

    Returns:
        The size of each dimension that has a word; all are at least 1.

    Raises:
        DamagedError: A tensor is missing, superfluous, or of another type or shape.
    """
    sizes: dict[str, int] = {}
    for name in sorted(tensors.keys() ^ layout.keys()):
        state = "unknown" if name in tensors else "missing"
        raise DamagedError(f"{where} cannot be read: {name[:LONGEST_NAME]!r} is {state}.")
    for name, (dtype, shape) in layout.items():
        tensor = tensors[name]
        expected = tuple(d if isinstance(d, int) else sizes.get(d, d) for d in shape)
        fits = tensor.ndim == len(shape) and all(
            size == e if isinstance(e, int) else size >= 1 for size, e in zip(tensor.shape, expected, strict=True)
        )
        if tensor.dtype != dtype or not fits:
            raise DamagedError(
                f"{where} cannot be read: {name!r} is {_described(tensor.dtype, tensor.shape)}, not "
                f"{_described(dtype, expected)}."
            )
        sizes |= {d: size for d, size in zip(shape, tensor.shape, strict=True) if isinstance(d, str)}
    return sizes


def check_between(tensor: Tensor, low: float, high: float, what: str) -> None:
    """Check that all values of a tensor are finite and plausible, so that no arithmetic overflows.

    Args:
        tensor: Any floats; ROWS of them are looked at together.
        low: The least value allowed.
        high: The largest value allowed.
        what: The beginning of the sentence of an error.

    Raises:
        DamagedError: Some value is not.
    """
    for part in tensor.split(ROWS):
        least, largest = (value.item() for value in part.aminmax()) if part.numel() else (low, high)
        if not (math.isfinite(least) and math.isfinite(largest)):  # aminmax passes NaN on
            raise DamagedError(f"{what} with NaN or infinity; allowed are finite values.")
        if least < low or largest > high:
            raise DamagedError(
                f"{what} with values from {least:.3g} to {largest:.3g}; allowed are {low:g} to {high:g}."
            )


def _described(dtype: torch.dtype, shape: torch.Size | tuple[int | str, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} ({', '.join(map(str, shape))})"
