"""Which products are fast on this machine: bfloat16, float32 by the faster library, 8-bit integers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch

from kt_batch.kernels.integers import has_integer_products, integer_products


def bfloat16_is_fast(device: str) -> bool:
    """Whether products in bfloat16 are faster than in float32 on `device` (`cpu`, `cuda`).

    A processor without instructions for it emulates them, hundreds of times slower than float32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # get_capabilities came after torch 2.11; without it float32 is the safe answer
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@dataclass
class _Within:
    """How many are within `quick_products`, for which device, and the process's precision before the first of them."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    count: int = 0
    device: str = "cpu"
    before: str = "highest"


_WITHIN = _Within()


@contextmanager
def quick_products(device: str = "cpu") -> Iterator[None]:
    """Within, the matrix products of this process, on whichever thread, have `quick_precision`: oneDNN makes them where
    that is allowed to round float32 to bfloat16 and does not, with AVX-512 and no AMX. On processors that MKL was not
    made for it is more than twice as fast. It prepares itself for every shape (about a millisecond): few shapes, then.

    On a GPU (device `cuda`) they are "highest" within: what is allowed to round there does.

    Several threads may be within at a time, for the same device; RuntimeError for another. What must have the same bits
    wherever it is computed is computed within always, or while no thread can be.
    """
    with _WITHIN.lock:
        if _WITHIN.count == 0:
            _WITHIN.device, _WITHIN.before = device, torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(quick_precision() if device == "cpu" else "highest")
        elif _WITHIN.device != device:
            raise RuntimeError(f"Products for {device} cannot be made while others are made for {_WITHIN.device}.")
        _WITHIN.count += 1
    try:
        yield
    finally:
        with _WITHIN.lock:
            _WITHIN.count -= 1
            if _WITHIN.count == 0:
                torch.set_float32_matmul_precision(_WITHIN.before)


@cache
def quick_precision() -> str:
    """The precision, in torch's words, whose float32 products are fastest and not rounded on this machine: "medium" or
    "highest". Asked of two products of "medium", a matrix's and a batch's."""
    x = torch.full((2, 128, 128), 1 + 2.0**-10, device="cpu")  # rounds to 1 in bfloat16; its sums need no rounding
    ones = torch.ones(2, 128, 128, device="cpu")
    with _WITHIN.lock:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            found = (torch.mm(x[0], ones[0]), torch.bmm(x, ones))
        finally:
            torch.set_float32_matmul_precision(before)
    return "highest" if any(bool(product.ne(128 + 2.0**-3).any()) for product in found) else "medium"


@cache
def quick_integers() -> bool:
    """Whether this processor has instructions that make exact products of 8-bit integers, about four times as many as
    of float32. Without them sums of 16 bits may overflow, and little is gained."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    able = capabilities.get("avx512_vnni") or capabilities.get("amx_int8")
    # Without oneDNN torch computes the products one by one.
    if not (able and torch.backends.mkldnn.is_available() and has_integer_products()):
        return False
    x = torch.full((128, 128), 127, dtype=torch.int8, device="cpu")
    return all(bool(integer_products(x, y).eq(127 * 128 * int(y[0, 0])).all()) for y in (x, -x))
