"""Tensors on their way from the memory of a processor to that of a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def staged(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the processor on `device`; where that is the processor, the tensor itself.

    A GPU reads it from pinned memory, while this thread goes on: torch keeps that memory until it has been read.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
