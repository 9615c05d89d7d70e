"""kt_batch: image translation by example, with every output pixel led back to its source image."""

import ctypes
import os
import sys

__version__ = "0.1.0"

# Threads that wait for their part of a product must sleep, not spin: on cores shared with other workers spinning takes
# the time of those they wait for. libgomp reads this when torch is first imported, hence here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of one feature map for the next instead of asking the kernel for zeroed pages.

    By default every tensor of more than 32 MB is mapped anew, and touching fresh pages costs several times the
    arithmetic of a ReLU or a pooling (docs/decisions/0006).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TOP_PAD, 1 << 26)


_keep_freed_memory()
