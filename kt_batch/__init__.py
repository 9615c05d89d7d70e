"""kt_batch: image translation by example, with every output pixel led back to its source image."""

import os

__version__ = "0.1.0"

# Threads that wait for their part of a product must sleep, not spin: on cores shared with other workers spinning takes
# the time of those they wait for. libgomp reads this when torch is first imported, hence here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
