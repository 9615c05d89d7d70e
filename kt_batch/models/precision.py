"""Where bfloat16 is worth using."""

from __future__ import annotations

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
