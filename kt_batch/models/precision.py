"""The fast matrix products of this machine: bfloat16, float32 by the faster library, 8-bit integers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch

from kt_batch.kernels.integers import has_integer_products, integer_products


def bfloat16_is_fast(device: str) -> bool:
    """Tell whether products in bfloat16 are faster than in float32 on `device` (`cpu`, `cuda`).

    A processor without instructions for it emulates them, hundreds of times slower than float32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # get_capabilities came after torch 2.11; without it float32 is the safe answer
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@dataclass
class _Uses:
    """Reference count of `quick_products`, its device, and the precision of the process before the first use."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    count: int = 0
    device: str = "cpu"
    before: str = "highest"


_USES = _Uses()


@contextmanager
def quick_products(device: str = "cpu") -> Iterator[None]:
    """Set the precision of matrix products to `quick_precision` for all threads of this process.

    With AVX-512 and without AMX oneDNN computes the products: it may round float32 to bfloat16, and does not. On
    processors that MKL does not support well it is more than twice as fast. It prepares itself for every new shape, in
    about a millisecond, so callers use few shapes.

    On a GPU (device `cuda`) the precision is "highest": any other rounds there.

    Several threads may use this at a time, for one device. A result that must have the same bits everywhere is computed
    within, always, or while no thread can be within.

    Raises:
        RuntimeError: Another thread uses it for another device.
    """
    with _USES.lock:
        if _USES.count == 0:
            _USES.device, _USES.before = device, torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(quick_precision() if device == "cpu" else "highest")
        elif _USES.device != device:
            raise RuntimeError(f"Products for {device} cannot be made while others are made for {_USES.device}.")
        _USES.count += 1
    try:
        yield
    finally:
        with _USES.lock:
            _USES.count -= 1
            if _USES.count == 0:
                torch.set_float32_matmul_precision(_USES.before)


@cache
def quick_precision() -> str:
    """Return torch's name of the fastest precision that does not round float32 on this machine.

    That is "medium" or "highest". One matrix product and one batched product of "medium" decide.
    """
    x = torch.full((2, 128, 128), 1 + 2.0**-10, device="cpu")  # rounds to 1 in bfloat16; its sums need no rounding
    ones = torch.ones(2, 128, 128, device="cpu")
    with _USES.lock:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            products = (torch.mm(x[0], ones[0]), torch.bmm(x, ones))
        finally:
            torch.set_float32_matmul_precision(before)
    return "highest" if any(bool(product.ne(128 + 2.0**-3).any()) for product in products) else "medium"


@cache
def quick_integers() -> bool:
    """Tell whether this processor has instructions for exact products of 8-bit integers.

    They are about four times as fast as float32. Without them sums of 16 bits may overflow, and little is gained.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    able = capabilities.get("avx512_vnni") or capabilities.get("amx_int8")
    # Without oneDNN torch computes the products one by one.
    if not (able and torch.backends.mkldnn.is_available() and has_integer_products()):
        return False
    x = torch.full((128, 128), 127, dtype=torch.int8, device="cpu")
    return all(bool(integer_products(x, y).eq(127 * 128 * int(y[0, 0])).all()) for y in (x, -x))
