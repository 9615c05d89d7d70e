"""Tell the kernel about mapped tensors: that they are read here and there, and which part is read next.

By default it reads some hundred kilobytes around every page that is missing. A search wants the few bytes of a patch:
where memory is short, the rest pushes out what other queries need. Without Linux nothing is told. Advice changes no
result, so its failure is none.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable
from functools import cache

from torch import Tensor

_RANDOM, _WILL_NEED = 1, 3  # <sys/mman.h>, of all Linux machines


def read_at_random(tensors: Iterable[Tensor]) -> None:
    """Tell that contiguous mapped tensors are read here and there, so that only missing pages are read."""
    for tensor in tensors:
        _advise(tensor, _RANDOM)


def read_soon(tensor: Tensor) -> None:
    """Tell that a contiguous part of a mapped tensor is read next, so that its pages are read together."""
    _advise(tensor, _WILL_NEED)


def _advise(tensor: Tensor, advice: int) -> None:
    if sys.platform != "linux" or tensor.nbytes == 0:
        return
    begin = tensor.data_ptr()
    first = begin - begin % mmap.PAGESIZE
    _libc().madvise(first, begin + tensor.nbytes - first, advice)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc
