"""A patchwork of large pieces of source images for the parts of a picture where it has no form of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.neighbour_field import Field, Gallery

PIECE = 6  # cells along the side of a piece
AGAIN = 0.05  # of cosine, what a piece loses that has been used once
EVEN = 0.3  # share of a source's pieces that may be taken: those that vary least. Others hold eyes, hands, windows


def quilt(queries: Tensor, gallery: Gallery, wanted: Tensor) -> Field:
    """Return matches that copy whole pieces of the source images, each like the picture in tone and colour.

    The picture is cut into squares of PIECE cells. Square after square, in reading order, takes the piece whose cells
    are all like the square's mean: the mean of their cosines decides. Only the EVEN share of each source's pieces that
    vary least are asked, so that brushwork alone is copied. A piece that has been used, or overlaps one, loses AGAIN
    for it, in proportion to the overlap.

    Args:
        queries: Cells `(h, w, C)`.
        gallery: The source images.
        wanted: `(h - 1, w - 1)` bool, the patches that need a match; other matches mean nothing.
    """
    directions, places = _pieces(gallery)
    used = torch.zeros(len(places), device=queries.device)
    parts = [torch.zeros(wanted.shape, dtype=torch.int64, device=queries.device) for _ in range(3)]
    for top in range(0, wanted.shape[0], PIECE):
        for left in range(0, wanted.shape[1], PIECE):
            square = (slice(top, top + PIECE), slice(left, left + PIECE))
            here = wanted[square]
            if not here.any():
                continue
            tone = F.normalize(queries[:-1, :-1][square][here].mean(0), dim=0)
            best = places[(directions @ tone - AGAIN * used).argmax()]
            used += _overlap(places, best)
            rows, cols = (torch.arange(length, device=queries.device) for length in here.shape)
            source, row, col = best
            for part, values in zip(parts, (source, row + rows[:, None], col + cols[None]), strict=True):
                part[square] = values
    source, row, col = parts
    last_row, last_col = gallery.heights[source] - 2, gallery.widths[source] - 2
    return Field(source, torch.minimum(row, last_row), torch.minimum(col, last_col))


def _pieces(gallery: Gallery) -> tuple[Tensor, Tensor]:
    """Return the mean direction of the cells of the pieces that may be taken, `(m, C)`, and their places `(m, 3)`.

    The dot product of a mean direction with a direction is the mean of the cells' cosines. A place is a source, and
    the first row and column.
    """
    directions, places = [], []
    for number, key in enumerate(_keys(gallery)):
        cells = key.permute(2, 0, 1)
        mean = _piece_means(F.normalize(cells, dim=0))
        variance = _piece_means(cells.square().mean(0, keepdim=True))[0] - _piece_means(cells).square().mean(0)
        row, col = torch.meshgrid(*(torch.arange(size, device=key.device) for size in mean.shape[1:]), indexing="ij")
        place = torch.stack([torch.full_like(row, number), row, col], dim=2)
        even = variance <= variance.flatten().kthvalue(max(1, round(EVEN * variance.numel()))).values
        directions.append(mean[:, even].T)
        places.append(place[even])
    return torch.cat(directions), torch.cat(places)


def _piece_means(maps: Tensor) -> Tensor:
    """Return the means `(n, rows, columns)` of maps `(n, h, w)` over all pieces; a small map is one piece."""
    height, width = maps.shape[1:]
    window = (min(PIECE + 1, height), min(PIECE + 1, width))
    rows, cols = max(height - PIECE, 1), max(width - PIECE, 1)
    return F.avg_pool2d(maps[None], window, 1)[0, :, :rows, :cols]


def _overlap(places: Tensor, piece: Tensor) -> Tensor:
    """Return the share of each piece that another one covers, `(m,)`."""
    away = (places[:, 1:] - piece[1:]).abs()
    return (places[:, 0] == piece[0]) * (1 - away / PIECE).clamp(min=0).prod(1)


def _keys(gallery: Gallery) -> list[Tensor]:
    """Return the keys `(h, w, C)` of each source image."""
    sizes = zip(gallery.starts.tolist(), gallery.heights.tolist(), gallery.widths.tolist(), strict=True)
    return [gallery.keys[start : start + high * wide].view(high, wide, -1) for start, high, wide in sizes]
