"""For every patch of a picture, a like patch in one of a few source images, found near those of its neighbours.

Patches that lie together in a picture have matches that lie together in a source (PatchMatch, Barnes et al. 2009). A
finer level starts from the places that a coarser one found, so that no index of fine patches is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.kernels.patches import CELLS, positions

STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 2), (0, -2), (2, 0), (-2, 0))  # to neighbours, in cells
COMPLETED = 256  # queries compared with a whole gallery at a time
QUERIES = 8192  # compared at a time, so that they stay in the cache
SMALLEST = 1e-8  # length of a patch, below which its direction means nothing


@dataclass(frozen=True)
class Gallery:
    """The feature maps of s source images, cell after cell.

    keys: `(m, C)` float32, what is compared. values: `(m, V)` float32, what is transferred. lengths: `(m,)` float32,
    of the 2 x 2 patch of keys that begins at a cell; 1 where none begins. starts, heights, widths: `(s,)` int64, the
    first cell of each image, and its size in cells.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    starts: Tensor
    heights: Tensor
    widths: Tensor

    @classmethod
    def of(cls, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Gallery:
        """Put the cells `(h, w, C)` and `(h, w, V)` of the source images together."""
        sizes = torch.tensor([each.shape[:2] for each in keys], device=keys[0].device)
        counts = sizes.prod(1)
        return cls(
            torch.cat([each.flatten(0, 1) for each in keys]),
            torch.cat([each.flatten(0, 1) for each in values]),
            torch.cat([_padded_lengths(each).flatten() for each in keys]),
            counts.cumsum(0) - counts,
            sizes[:, 0].contiguous(),
            sizes[:, 1].contiguous(),
        )


@dataclass(frozen=True)
class Field:
    """A patch of a gallery for each patch of a picture. source, row, col: `(h - 1, w - 1)` int64, its first cell."""

    source: Tensor
    row: Tensor
    col: Tensor

    def finer(self, height: int, width: int) -> Field:
        """Return the field of a level with cells of half the size, `height` x `width` cells, at the same places."""
        rows = torch.arange(height - 1, device=self.row.device)
        cols = torch.arange(width - 1, device=self.row.device)
        up, left = (rows // 2).clamp(max=self.row.shape[0] - 1), (cols // 2).clamp(max=self.row.shape[1] - 1)
        source, row, col = (each[up][:, left] for each in (self.source, self.row, self.col))
        return Field(source, 2 * row + (rows % 2)[:, None], 2 * col + (cols % 2)[None])

    def where(self, wanted: Tensor, other: Field) -> Field:
        """Return these matches where `wanted` `(h - 1, w - 1)`, and those of another field elsewhere."""
        pairs = ((self.source, other.source), (self.row, other.row), (self.col, other.col))
        return Field(*(torch.where(wanted, ours, theirs) for ours, theirs in pairs))


def patch_lengths(cells: Tensor) -> Tensor:
    """Return the length of each 2 x 2 patch of cells `(h, w, C)`, as `(h - 1, w - 1)`, at least SMALLEST."""
    squares = cells.square().sum(2)
    total = squares[:-1, :-1] + squares[:-1, 1:] + squares[1:, :-1] + squares[1:, 1:]
    return total.sqrt().clamp(min=SMALLEST)


def _padded_lengths(cells: Tensor) -> Tensor:
    lengths = cells.new_ones(cells.shape[:2])
    lengths[:-1, :-1] = patch_lengths(cells)
    return lengths


def scores(queries: Tensor, gallery: Gallery, field: Field, wanted: Tensor | None = None) -> Tensor:
    """Return the cosines of patches of `queries` with their matches, `(n,)` float32.

    Args:
        queries: Cells `(h, w, C)` to compare with keys.
        gallery: The source images.
        field: A match for each patch.
        wanted: `(n,)` int64, the patches to compare, in reading order; None: all of them.
    """
    lengths = patch_lengths(queries).flatten()
    if wanted is None:
        wanted = torch.arange(len(lengths), device=queries.device)
    first, stride = _first_cells(gallery, field)
    return _cosines(queries, lengths, gallery, wanted, first[wanted], stride[wanted])


def _cosines(
    queries: Tensor, lengths: Tensor, gallery: Gallery, wanted: Tensor, first: Tensor, stride: Tensor
) -> Tensor:
    """Return the cosines of the patches `wanted`, which have these lengths, with those that begin at `first`."""
    cells, across = queries.flatten(0, 1), queries.shape[1]
    out = []
    for part, theirs, down in zip(*(each.split(QUERIES) for each in (wanted, first, stride)), strict=True):
        own = part // (across - 1) * across + part % (across - 1)
        total = torch.zeros(len(part), device=queries.device)
        for r, c in CELLS:
            matched = gallery.keys.index_select(0, theirs + r * down + c)
            total += (cells.index_select(0, own + r * across + c) * matched).sum(1)
        out.append(total / gallery.lengths[theirs])
    return torch.cat(out) / lengths[wanted] if out else lengths[wanted]


def _first_cells(gallery: Gallery, field: Field) -> tuple[Tensor, Tensor]:
    """Return the first cell of each match, and the step from it to the cell below, `(n,)` each."""
    stride = gallery.widths[field.source]
    return (gallery.starts[field.source] + field.row * stride + field.col).flatten(), stride.flatten()


def improve(
    queries: Tensor, gallery: Gallery, field: Field, directions: Tensor, radius: int, passes: int
) -> tuple[Field, Tensor]:
    """Return better matches than `field` has, and their scores `(n,)`.

    First the places around each match are tried, up to `radius` cells away; then, `passes` times, the places to which
    the matches of the neighbours point. A match is replaced by a better one only, so the first of equal ones stays.

    Args:
        queries: Cells `(h, w, C)`.
        gallery: The source images.
        field: The matches to begin with.
        directions: `(C, K)` float32, orthonormal. A place must be better in these alone before all C channels are
            compared.
        radius: In cells.
        passes: How often the neighbours are asked.
    """
    start = inside(gallery, field)
    search = _Search(queries, gallery, directions, start)
    window = range(-radius, radius + 1)
    for down, right in ((d, r) for d in window for r in window if d or r):
        search.offer(Field(start.source, start.row + down, start.col + right))
    for _ in range(passes):
        for down, right in STEPS:
            best = search.best
            source, row, col = (torch.roll(each, (down, right), (0, 1)) for each in (best.source, best.row, best.col))
            search.offer(Field(source, row + down, col + right))
    return search.best, search.scores


class _Search:
    """The best matches so far of all patches, and their cosines in a few directions."""

    def __init__(self, queries: Tensor, gallery: Gallery, directions: Tensor, start: Field) -> None:
        self._gallery = gallery
        self._ours = _unit_patches(queries @ directions)[:-1, :-1].flatten(0, 1)
        self._theirs = _unit_keys(gallery, directions)
        self.best = start
        self._places = _first_cells(gallery, start)[0]
        every = torch.arange(len(self._places), device=queries.device)
        self._near = self._compare(every, self._places)
        self._queries, self._lengths = queries, patch_lengths(queries).flatten()
        self.scores = scores(queries, gallery, start)

    def offer(self, other: Field) -> None:
        """Take the better one of two matches for each patch; where they are the same, nothing is computed."""
        other = inside(self._gallery, other)
        places, strides = _first_cells(self._gallery, other)
        wanted = (places != self._places).nonzero()[:, 0]
        near = self._compare(wanted, places[wanted])
        likely = near > self._near[wanted]
        wanted, near = wanted[likely], near[likely]
        new = _cosines(self._queries, self._lengths, self._gallery, wanted, places[wanted], strides[wanted])
        better = new > self.scores[wanted]
        won = wanted[better]
        self.scores[won], self._near[won], self._places[won] = new[better], near[better], places[won]
        merged = [each.flatten().clone() for each in (self.best.source, self.best.row, self.best.col)]
        for ours, theirs in zip(merged, (other.source, other.row, other.col), strict=True):
            ours[won] = theirs.flatten()[won]
        self.best = Field(*(each.view(self.best.row.shape) for each in merged))

    def _compare(self, patches: Tensor, places: Tensor) -> Tensor:
        parts = zip(patches.split(QUERIES), places.split(QUERIES), strict=True)
        found = [(self._ours.index_select(0, a) * self._theirs.index_select(0, b)).sum(1) for a, b in parts]
        return torch.cat(found) if found else self._ours.new_zeros(0)


def _unit_patches(cells: Tensor) -> Tensor:
    """Return the 2 x 2 patch that begins at each cell `(h, w, K)`, of length 1, as `(h, w, 4K)`.

    Where none begins there are zeros.
    """
    height, width, count = cells.shape
    out = cells.new_zeros(height, width, 4, count)
    for number, (r, c) in enumerate(CELLS):
        out[:-1, :-1, number] = cells[r : height - 1 + r, c : width - 1 + c]
    return out.flatten(2).div_(_padded_lengths(cells)[:, :, None])


def _unit_keys(gallery: Gallery, directions: Tensor) -> Tensor:
    """Return the patch of keys in a few directions that begins at each cell, of length 1, as `(m, 4K)`."""
    maps = (gallery.keys @ directions).split((gallery.heights * gallery.widths).tolist())
    sizes = zip(gallery.heights.tolist(), gallery.widths.tolist(), strict=True)
    return torch.cat(
        [_unit_patches(each.view(*size, -1)).flatten(0, 1) for each, size in zip(maps, sizes, strict=True)]
    )


def inside(gallery: Gallery, field: Field) -> Field:
    """Return the field with all matches inside their source images."""
    row = torch.minimum(field.row.clamp(min=0), gallery.heights[field.source] - 2)
    col = torch.minimum(field.col.clamp(min=0), gallery.widths[field.source] - 2)
    return Field(field.source, row, col)


def same_matches(first: Field, second: Field) -> Tensor:
    """Return which patches have the same match in both fields, `(n,)` bool."""
    same = (first.source == second.source) & (first.row == second.row) & (first.col == second.col)
    return same.flatten()


def complete(queries: Tensor, gallery: Gallery, field: Field, directions: Tensor) -> Field:
    """Return the field with the nearest patch of the whole gallery where the source is -1.

    Args:
        queries: Cells `(h, w, C)`.
        gallery: The source images.
        field: Matches, some of them missing.
        directions: `(C, K)` float32, orthonormal, in which patches are compared.
    """
    missing = (field.source < 0).flatten().nonzero()[:, 0]
    if not len(missing):
        return field
    begins = _patch_begins(gallery)
    keys = _unit_keys(gallery, directions)[begins.first].T.contiguous()
    wanted = _unit_patches(queries @ directions)[:-1, :-1].flatten(0, 1)[missing]
    nearest = torch.cat([(part @ keys).argmax(1) for part in wanted.split(COMPLETED)])
    height, width = field.row.shape
    parts = [each.flatten().clone() for each in (field.source, field.row, field.col)]
    for part, found in zip(parts, (begins.source, begins.row, begins.col), strict=True):
        part[missing] = found[nearest]
    return Field(*(part.view(height, width) for part in parts))


@dataclass(frozen=True)
class _Begins:
    """The patches of a gallery in order. source, row, col, first, stride: `(n,)` int64."""

    source: Tensor
    row: Tensor
    col: Tensor
    first: Tensor
    stride: Tensor


def _patch_begins(gallery: Gallery) -> _Begins:
    parts = []
    sizes = zip(gallery.starts.tolist(), gallery.heights.tolist(), gallery.widths.tolist(), strict=True)
    for number, (start, height, width) in enumerate(sizes):
        row, col = positions(height, width, 1, cover=True, device=gallery.keys.device)
        parts.append((torch.full_like(row, number), row, col, start + row * width + col, torch.full_like(row, width)))
    return _Begins(*(torch.cat(column) for column in zip(*parts, strict=True)))


def rebuild(gallery: Gallery, field: Field) -> Tensor:
    """Return the map `(V, h, w)` whose cells are the mean of the matched patches that cover them.

    This is `kernels.patches.fold` of the matches, of which no patch is ever in memory as a whole.
    """
    height, width = field.row.shape
    first, stride = _first_cells(gallery, field)
    total = gallery.values.new_zeros(height + 1, width + 1, gallery.values.shape[1])
    count = gallery.values.new_zeros(height + 1, width + 1, 1)
    for r, c in CELLS:
        cells = gallery.values.index_select(0, first + r * stride + c)
        total[r : height + r, c : width + c] += cells.view(height, width, -1)
        count[r : height + r, c : width + c] += 1
    return (total / count).permute(2, 0, 1).contiguous()
