"""Where less than float32 is worth using, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


def bfloat16_is_fast(device: str) -> bool:
    """Whether products in bfloat16 are faster than in float32 on `device` (`cpu`, `cuda`).

    A processor without instructions for it emulates them, hundreds of times slower than float32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # get_capabilities came after torch 2.11; without it float32 is the safe answer
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@contextmanager
def quick_products() -> Iterator[None]:
    """Within, the matrix products of this process, on whichever thread, may round float32 operands to bfloat16 where
    the processor gains by it; sums stay float32. For products that only point at what is then computed exactly.

    Without such instructions the products are as outside. With AVX-512 and no AMX they are done by another library,
    which rounds nothing and is twice as fast on processors for which the first was not made.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def quick_products_round() -> bool:
    """Whether `quick_products` round on this machine: asked of two products, a matrix's and a batch's."""
    x, ones = torch.full((2, 128, 128), 1 + 2.0**-10), torch.ones(2, 128, 128)  # x rounds to 1; its sums need not round
    with quick_products():
        found = (x[0] @ ones[0], torch.bmm(x, ones))
    return any(product.ne(128 + 2.0**-3).any() for product in found)
