"""A picture enlarged: smooth interpolation, crisp edges, and the detail of another picture of the same things.

Every function returns some rows of the whole, and every value depends on its place alone, to the last bit. So it does
not matter into how many blocks of rows a picture is cut.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kt_batch.kernels.smooth import window_mean

MOST_SLOPE = 2.5  # length of a matrix of slopes: detail grows by no more
CALM, BLUR = (1 / 4, 2 / 4, 1 / 4), (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # binomial
REACH = 2  # rows above and below that sharpening looks at

Taps = list[tuple[Tensor, Tensor]]  # places `(n,)` int64 and their weights `(n,)` float32


def cubic_rows(picture: Tensor, size: tuple[int, int], top: int, rows: int) -> Tensor:
    """Return some rows of a picture enlarged by the cubic filter of Mitchell & Netravali (1988).

    It neither leaves steps nor rings, as sharper filters do.

    Args:
        picture: `(C, h, w)`.
        size: Height and width of the enlarged picture.
        top: The first row of the enlarged picture that is wanted.
        rows: How many.

    Returns:
        `(C, rows, width)`.
    """
    height, width = size
    down = _cubic(_places(picture.shape[1], height, top, rows, picture.device), picture.shape[1])
    return _at(picture, down, _cubic(_places(picture.shape[2], width, 0, width, picture.device), picture.shape[2]))


def linear_rows(maps: Tensor, size: tuple[int, int], top: int, rows: int) -> Tensor:
    """Return some rows of maps `(C, h, w)` enlarged by linear interpolation; arguments as in `cubic_rows`."""
    height, width = size
    down = _linear(_places(maps.shape[1], height, top, rows, maps.device), maps.shape[1])
    return _at(maps, down, _linear(_places(maps.shape[2], width, 0, width, maps.device), maps.shape[2]))


def crisp_rows(picture: Tensor, size: tuple[int, int], top: int, rows: int, amount: float) -> Tensor:
    """Return some rows of a picture enlarged by `cubic_rows` and sharpened by `crisp`; arguments as there."""
    first, end = max(0, top - REACH), min(size[0], top + rows + REACH)
    return crisp(cubic_rows(picture, size, first, end - first), amount)[:, top - first : top - first + rows]


def crisp(picture: Tensor, amount: float) -> Tensor:
    """Sharpen a picture `(C, h, w)` by `amount` of what a blur takes away.

    No value leaves the range of the pixels around it, so that edges get steeper, and no edge gets a halo.
    """
    blurred = _filtered(_filtered(picture, 1, BLUR), 2, BLUR)
    lowest, highest = (_around(_around(picture, 1, extreme), 2, extreme) for extreme in (torch.minimum, torch.maximum))
    return torch.minimum(torch.maximum(picture + amount * (picture - blurred), lowest), highest)


def calm(picture: Tensor) -> Tensor:
    """Return a picture `(C, h, w)` without its finest waves, of two pixels, in which decoders leave a lattice."""
    return _filtered(_filtered(picture, 1, CALM), 2, CALM)


def fit_slopes(source: Tensor, target: Tensor, radius: int, epsilon: float) -> Tensor:
    """Fit the linear map of colour differences that turns one picture into another, around each pixel.

    Least squares in a window, drawn to zero: where the two have nothing in common, the map is zero.

    Args:
        source: `(3, h, w)` RGB in [0, 1].
        target: `(3, h, w)`.
        radius: Of the window, which is a tent: two passes of a mean.
        epsilon: In squared units of the colours; contrasts below sqrt(epsilon) count for little.

    Returns:
        `(9, h, w)` float32: row by row, matrices of a length of at most MOST_SLOPE.
    """
    x, y = source.double(), target.double()
    mean_x, mean_y = _tent(x, radius), _tent(y, radius)
    variance = _covariance(x, x, mean_x, mean_x, radius)
    identity = torch.eye(3, dtype=x.dtype, device=x.device)
    wanted = _covariance(y, x, mean_y, mean_x, radius)
    slopes: Tensor = torch.linalg.solve(variance + epsilon * identity, wanted.mT).mT
    length = slopes.square().sum((-2, -1)).sqrt()[..., None, None]
    slopes = slopes * (MOST_SLOPE / length.clamp(min=1e-12)).clamp(max=1.0)
    return _tent(slopes.flatten(2).permute(2, 0, 1), radius).float()


def sloped(slopes: Tensor, difference: Tensor) -> Tensor:
    """Return colour differences `(3, h, w)`, each multiplied by the matrix at its place, `(9, h, w)` row by row."""
    matrix: Tensor = slopes.unflatten(0, (3, 3))
    return matrix[:, 0] * difference[0] + matrix[:, 1] * difference[1] + matrix[:, 2] * difference[2]


def _tent(x: Tensor, radius: int) -> Tensor:
    return window_mean(window_mean(x, radius), radius)


def _covariance(one: Tensor, other: Tensor, mean_one: Tensor, mean_other: Tensor, radius: int) -> Tensor:
    """Return the covariance `(h, w, 3, 3)` of the channels of two pictures in the tent around each pixel."""
    products: Tensor = _tent((one[:, None] * other).flatten(0, 1), radius).unflatten(0, (3, 3))
    return (products - mean_one[:, None] * mean_other).permute(2, 3, 0, 1)


def _places(size: int, length: int, first: int, count: int, device: torch.device) -> Tensor:
    """Return where `count` places of `length`, from `first` on, lie among the centres of `size` pixels, float64."""
    places = torch.arange(first, first + count, dtype=torch.float64, device=device)
    return (places + 0.5) * (size / length) - 0.5


def _cubic(exact: Tensor, size: int) -> Taps:
    whole = exact.floor()
    return [
        ((whole + step).long().clamp(0, size - 1), _mitchell((exact - whole - step).abs()).float())
        for step in (-1, 0, 1, 2)
    ]


def _mitchell(distance: Tensor) -> Tensor:
    """Return the filter of Mitchell & Netravali, with B and C one third, at distances `(n,)` of 0 to 2."""
    near = (7 * distance**3 - 12 * distance**2 + 16 / 3) / 6
    far = (-7 / 3 * distance**3 + 12 * distance**2 - 20 * distance + 32 / 3) / 6
    return torch.where(distance < 1, near, far)


def _linear(exact: Tensor, size: int) -> Taps:
    exact = exact.clamp(0, size - 1)
    whole = exact.floor()
    share = (exact - whole).float()
    return [(whole.long(), 1 - share), ((whole.long() + 1).clamp(max=size - 1), share)]


def _at(maps: Tensor, down: Taps, across: Taps) -> Tensor:
    """Return the weighted sums of `maps` at the taps of each row and of each column.

    Columns come first, and only of the rows that are needed: they are fewer before they are enlarged.
    """
    first = min(int(places.min()) for places, _ in down)
    end = max(int(places.max()) for places, _ in down) + 1
    columns = maps[:, first:end].transpose(1, 2).contiguous()  # whole lines are copied faster than single values
    lines = _weighted(columns, across).transpose(1, 2).contiguous()
    return _weighted(lines, [(places - first, weights) for places, weights in down])


def _weighted(maps: Tensor, taps: Taps) -> Tensor:
    """Return the weighted sum `(C, n, w)` of the lines of `maps` `(C, h, w)` at the places of each tap."""
    (places, weights), *others = taps
    total = maps.index_select(1, places).mul_(weights[:, None])
    for places, weights in others:
        total.add_(maps.index_select(1, places).mul_(weights[:, None]))
    return total


def _shifted(picture: Tensor, dim: int, reach: int) -> list[Tensor]:
    """Return the picture `(C, h, w)` moved by -reach..reach along a dimension; beyond the border, its edge goes on."""
    size = picture.shape[dim]
    before, after = picture.narrow(dim, 0, 1), picture.narrow(dim, size - 1, 1)
    wide = torch.cat([before] * reach + [picture] + [after] * reach, dim)
    return [wide.narrow(dim, step, size) for step in range(2 * reach + 1)]


def _filtered(picture: Tensor, dim: int, weights: tuple[float, ...]) -> Tensor:
    first, *others = zip(_shifted(picture, dim, len(weights) // 2), weights, strict=True)
    total = first[0] * first[1]
    for moved, weight in others:
        total += moved * weight
    return total


def _around(picture: Tensor, dim: int, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the least or the largest value of each pixel and of those beside it along a dimension."""
    before, own, after = _shifted(picture, dim, 1)
    return extreme(extreme(before, own), after)
