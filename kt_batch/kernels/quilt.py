"""A patchwork of large pieces of source images for the parts of a picture where it has no form of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.neighbour_field import Field, Gallery
from kt_batch.kernels.smooth import quick_mean

PIECE = 6  # cells along the side of a piece
AGAIN = 0.05  # of cosine, what a piece loses that has been used once


def smoothed(gallery: Gallery) -> Gallery:
    """Return a gallery whose keys are the means around each cell: they tell tone and colour and no form."""
    radius = PIECE // 3  # twice is nearly the mean over a piece, without its edges
    maps = (key.permute(2, 0, 1) for key in _maps(gallery, gallery.keys))
    keys = [quick_mean(quick_mean(each, radius), radius).permute(1, 2, 0).contiguous() for each in maps]
    return Gallery.of(keys, _maps(gallery, gallery.values))


def quilt(queries: Tensor, tones: Gallery, wanted: Tensor) -> Field:
    """Return matches that copy whole pieces of the source images, each like the picture in tone and colour.

    The picture is cut into squares of PIECE cells. Square after square, in reading order, takes the piece whose cells
    are all like the square's mean: the mean of their cosines decides, so that a piece with a thing in it loses to one
    of brushwork alone. A piece that has been used, or overlaps one, loses AGAIN for it, in proportion to the overlap.

    Args:
        queries: Cells `(h, w, C)`.
        tones: The source images, `smoothed`.
        wanted: `(h - 1, w - 1)` bool, the patches that need a match; other matches mean nothing.
    """
    directions, places = _pieces(tones)
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
    return Field(source, torch.minimum(row, tones.heights[source] - 2), torch.minimum(col, tones.widths[source] - 2))


def _pieces(tones: Gallery) -> tuple[Tensor, Tensor]:
    """Return the mean direction of the cells of all pieces, `(m, C)`, and their places `(m, 3)`.

    The dot product of a mean direction with a direction is the mean of the cells' cosines. A place is a source, and
    the first row and column.
    """
    directions, places = [], []
    for number, key in enumerate(_maps(tones, tones.keys)):
        height, width = key.shape[:2]
        rows = torch.arange(max(height - PIECE, 1), device=key.device)
        cols = torch.arange(max(width - PIECE, 1), device=key.device)
        cells = F.normalize(key, dim=2).permute(2, 0, 1)[None]
        mean = F.avg_pool2d(cells, (min(PIECE + 1, height), min(PIECE + 1, width)), 1)[0]
        directions.append(mean[:, : len(rows), : len(cols)].flatten(1).T)
        row, col = torch.meshgrid(rows, cols, indexing="ij")
        places.append(torch.stack([torch.full_like(row, number), row, col], dim=2).flatten(0, 1))
    return torch.cat(directions), torch.cat(places)


def _overlap(places: Tensor, piece: Tensor) -> Tensor:
    """Return the share of each piece that another one covers, `(m,)`."""
    away = (places[:, 1:] - piece[1:]).abs()
    return (places[:, 0] == piece[0]) * (1 - away / PIECE).clamp(min=0).prod(1)


def _maps(gallery: Gallery, cells: Tensor) -> list[Tensor]:
    """Return the cells `(h, w, C)` of each source image."""
    sizes = zip(gallery.starts.tolist(), gallery.heights.tolist(), gallery.widths.tolist(), strict=True)
    return [cells[start : start + high * wide].view(high, wide, -1) for start, high, wide in sizes]
