"""A colour map as text of a `.cube` file, the 3D lookup table that Adobe, DaVinci Resolve and ffmpeg read."""

from __future__ import annotations

from typing import Literal

import numpy as np

from kt_batch.kernels.quadratic import reference_map

CubeSize = Literal[17, 33, 65]


def cube(coefficients: np.ndarray, size: CubeSize, title: str = "kt-batch retouch") -> str:
    """Return the `.cube` text of a quadratic map, sRGB to sRGB, clipped to [0, 1].

    Args:
        coefficients: `(10, 3)`.
        size: Points along each axis.
        title: One line; double quotes in it become single ones, characters beyond ASCII question marks.
    """
    steps = np.linspace(0, 1, size)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # red changes fastest
    colours = reference_map(np.stack([red, green, blue], axis=-1).reshape(-1, 3), coefficients)
    safe = " ".join(title.replace('"', "'").encode("ascii", "replace").decode().split())
    head = [f'TITLE "{safe}"', f"LUT_3D_SIZE {size}", "DOMAIN_MIN 0.0 0.0 0.0", "DOMAIN_MAX 1.0 1.0 1.0"]
    lines = [f"{r:.7f} {g:.7f} {b:.7f}" for r, g, b in colours.tolist()]
    return "\n".join([*head, *lines]) + "\n"
