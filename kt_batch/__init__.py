"""Translate images by example, and lead every output pixel back to its source image.

Importing this package changes nothing in the process. Call `tune_process()` before torch is imported for the speed that
the commands have.
"""

from kt_batch.process import tune_process

__version__ = "0.1.0"
__all__ = ["__version__", "tune_process"]
