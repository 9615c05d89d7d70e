"""kt_batch: image translation by example, with every output pixel led back to its source image."""

__version__ = "0.1.0"
