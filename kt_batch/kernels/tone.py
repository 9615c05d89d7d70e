"""A painted picture that can be read: neither much darker nor much flatter than its photograph."""

from __future__ import annotations

from torch import Tensor

from kt_batch.kernels.colour import luminance

DARKER = 0.3  # by this much the mean luminance may fall
CONTRAST = 0.42  # of the photograph's deviation of luminance, a picture keeps
STRETCH = 2.0  # most that contrast is enlarged
POWER = 0.7  # least power of the luminance: more lifts halos and the blue of blacks
CHROMA = (0.6, 1.25)  # least and most that chroma is multiplied with the luminance of its pixel
SMALLEST = 1e-3  # luminance below which a gain is that of this luminance
HALVINGS = 24  # of the interval in which the exponent is looked for


def readable(picture: Tensor, photograph: Tensor) -> Tensor:
    """Lift a picture that is much darker than its photograph, and stretch one that is much flatter.

    A painting with a black ground makes a photograph black, and one in pale colours makes it fog. The lift is a power
    of the luminance, so that black and white stay; the stretch is linear around the mean. A bright picture is never
    darkened: paper is white.

    Args:
        picture: `(3, H, W)` RGB in [0, 1].
        photograph: Of the same size.

    Returns:
        `(3, H, W)` in [0, 1]; the picture itself where it is neither.
    """
    light, seen = luminance(picture), luminance(photograph)
    lifted = _lifted(light, float(seen.mean()) - DARKER)
    wanted = CONTRAST * float(seen.std(correction=0))
    stretch = min(max(wanted / max(float(lifted.std(correction=0)), SMALLEST), 1.0), STRETCH)
    if lifted is light and stretch == 1.0:
        return picture
    mean = lifted.mean()
    new = (lifted - mean) * stretch + mean
    gain = (new / light.clamp(min=SMALLEST)).clamp(*CHROMA)
    return (new + (picture - light) * gain).clamp(0, 1)


def _lifted(light: Tensor, least: float) -> Tensor:
    """Return luminance `(H, W)` to the greatest power from POWER to 1 whose mean reaches `least`."""
    if float(light.mean()) >= least or float(light.max()) <= SMALLEST:
        return light
    low, high = POWER, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float((light**middle).mean()) >= least:
            low = middle
        else:
            high = middle
    return light**low
