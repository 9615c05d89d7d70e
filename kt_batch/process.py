"""Settings of a whole process that computes: how idle threads wait, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>


def tune_process() -> None:
    """Let idle threads sleep, and keep freed memory for the next tensor.

    Every entry point calls this before it imports torch. Importing kt_batch does not: a program that uses kt_batch as a
    library calls it first thing in `main`, or keeps its own settings. Results are the same either way.

    - `OMP_WAIT_POLICY=PASSIVE`, unless the environment sets it: threads that wait for a product must not spin on cores
      that other workers share (docs/decisions/0003). libgomp reads this once, when torch is first imported.
    - glibc keeps up to 1 GiB of freed memory: fresh pages for every tensor cost more than the arithmetic of a ReLU
      (docs/decisions/0006).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TOP_PAD, 1 << 26)


def return_freed_memory() -> None:
    """Return large freed blocks to the system at once, for the rest of the process.

    The reverse of `tune_process`, for work that must stay below a limit: what was freed is not there for a block of
    another size, so that the peak would be that of several stages together. Results are the same either way.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 22)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 24)
        libc.mallopt(_M_TOP_PAD, 1 << 20)
    import pyarrow as pa  # after the settings of `tune_process`, like torch

    pa.set_memory_pool(pa.system_memory_pool())


def return_all_freed_memory() -> None:
    """Return what was freed until now to the system; the settings of this process stay as they are."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
