"""Matrix products that are fast on this machine: bfloat16, float32 by oneDNN, 8-bit integers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch

from kt_batch.kernels.integers import has_integer_products, integer_products


def bfloat16_is_fast(device: str) -> bool:
    """Return whether products in bfloat16 are faster than in float32 on `device` (`cpu`, `cuda`).

    A processor without bfloat16 instructions emulates them, hundreds of times slower than float32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch 2.11 has no get_capabilities; float32 is safe everywhere.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@dataclass
class _Usage:
    """Reference count of `quick_products`, its device, and the precision of the process before the first use."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    count: int = 0
    device: str = "cpu"
    before: str = "highest"


_USAGE = _Usage()


@contextmanager
def quick_products(device: str = "cpu") -> Iterator[None]:
    """Give the matrix products of this process, on all threads, the precision `quick_precision`.

    "medium" allows oneDNN to round float32 to bfloat16. With AVX-512 and without AMX it does not round, and on
    processors that MKL does not target it is more than twice as fast. oneDNN compiles a kernel for every shape, in
    about a millisecond, so callers use few shapes. On a GPU (device `cuda`) the precision is "highest", since a GPU
    does round.

    Several threads may use it at a time. A result that must have the same bits everywhere is always computed inside, or
    while no other thread can be inside.

    Raises:
        RuntimeError: It is in use for another device.
    """
    with _USAGE.lock:
        if _USAGE.count == 0:
            _USAGE.device, _USAGE.before = device, torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest" if device == "cuda" else quick_precision())
        elif _USAGE.device != device:
            raise RuntimeError(f"Products for {device} cannot be made while others are made for {_USAGE.device}.")
        _USAGE.count += 1
    try:
        yield
    finally:
        with _USAGE.lock:
            _USAGE.count -= 1
            if _USAGE.count == 0:
                torch.set_float32_matmul_precision(_USAGE.before)


@cache
def quick_precision() -> str:
    """Return the fastest precision whose float32 products are not rounded here: "medium" or "highest".

    It is measured once: "medium" must give a matrix product and a batched product without rounding.
    """
    x = torch.full((2, 128, 128), 1 + 2.0**-10, device="cpu")  # rounds to 1 in bfloat16; its sums need no rounding
    ones = torch.ones(2, 128, 128, device="cpu")
    with _USAGE.lock:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            products = (torch.mm(x[0], ones[0]), torch.bmm(x, ones))
        finally:
            torch.set_float32_matmul_precision(before)
    return "highest" if any(bool(product.ne(128 + 2.0**-3).any()) for product in products) else "medium"


@cache
def quick_integers() -> bool:
    """Return whether this processor multiplies 8-bit integers exactly, about four times as fast as float32.

    Without such instructions 16-bit sums may overflow, and little is gained.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    able = capabilities.get("avx512_vnni") or capabilities.get("amx_int8")
    # Without oneDNN torch computes the products one by one.
    if not (able and torch.backends.mkldnn.is_available() and has_integer_products()):
        return False
    x = torch.full((128, 128), 127, dtype=torch.int8, device="cpu")
    return all(bool(integer_products(x, y).eq(127 * 128 * int(y[0, 0])).all()) for y in (x, -x))
