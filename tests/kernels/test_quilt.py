"""Patchworks: pieces whose place, tone and number of uses is known."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.neighbour_field import Gallery
from kt_batch.kernels.quilt import EVEN, PIECE, quilt

SIDE = 3 * PIECE


def half_and_half(first: Tensor, second: Tensor) -> Tensor:
    """Return a map `(C, SIDE, 2 * SIDE)` of one colour on the left and another on the right."""
    return torch.stack([first, second], dim=1).repeat_interleave(SIDE, dim=1)[:, None].expand(-1, SIDE, -1).contiguous()


BLUE, RED = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
SOURCE = half_and_half(BLUE, RED)


def queries_of(picture: Tensor) -> Tensor:
    return picture.permute(1, 2, 0).contiguous()


def test_each_half_of_a_picture_is_cut_from_the_half_of_the_source_that_has_its_colour() -> None:
    picture = half_and_half(RED, BLUE)
    wanted = torch.ones(SIDE - 1, 2 * SIDE - 1, dtype=torch.bool)
    found = quilt(queries_of(picture), Gallery.of([queries_of(SOURCE)], [queries_of(SOURCE)]), wanted)
    assert (found.col[:, : SIDE - PIECE] >= SIDE - PIECE // 2).all()
    assert (found.col[:, SIDE:] < SIDE + PIECE // 2).all()


def test_a_piece_is_copied_as_it_is() -> None:
    wanted = torch.ones(PIECE, PIECE, dtype=torch.bool)
    picture = RED[:, None, None].expand(2, PIECE + 1, PIECE + 1)
    found = quilt(queries_of(picture), Gallery.of([queries_of(SOURCE)], [queries_of(SOURCE)]), wanted)
    assert (found.row - found.row[0, 0]).equal(torch.arange(PIECE)[:, None].expand(PIECE, PIECE))
    assert (found.col - found.col[0, 0]).equal(torch.arange(PIECE).expand(PIECE, PIECE))


def test_pieces_of_one_colour_come_from_places_that_do_not_overlap() -> None:
    wanted = torch.ones(2 * PIECE, 2 * PIECE, dtype=torch.bool)
    picture = RED[:, None, None].expand(2, 2 * PIECE + 1, 2 * PIECE + 1)
    source = RED[:, None, None].expand(2, 4 * PIECE, 4 * PIECE)
    found = quilt(queries_of(picture), Gallery.of([queries_of(source)], [queries_of(source)]), wanted)
    starts = [(int(found.row[r, c]), int(found.col[r, c])) for r in (0, PIECE) for c in (0, PIECE)]
    for number, (row, col) in enumerate(starts):
        for other_row, other_col in starts[:number]:
            assert max(abs(row - other_row), abs(col - other_col)) >= PIECE


def test_the_source_of_the_right_colour_is_taken() -> None:
    sources = [colour.expand(9, 11, 2) for colour in (BLUE, RED)]
    wanted = torch.ones(7, 7, dtype=torch.bool)
    for number, colour in enumerate((BLUE, RED)):
        picture = colour[:, None, None].expand(2, 8, 8)
        assert quilt(queries_of(picture), Gallery.of(sources, sources), wanted).source.eq(number).all()


def test_matches_lie_inside_a_source_that_is_smaller_than_a_piece() -> None:
    source = torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(0))
    wanted = torch.zeros(9, 9, dtype=torch.bool)
    wanted[4, 5] = wanted[8, 8] = True
    found = quilt(torch.ones(10, 10, 3), Gallery.of([queries_of(source)], [queries_of(source)]), wanted)
    assert (found.row[wanted] <= 1).all()
    assert (found.col[wanted] <= 2).all()


SIDES = st.integers(2, 2 * PIECE + 2)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3), SIDES, SIDES, st.sampled_from((0.0, 1.0, 1e18)))
def test_matches_lie_inside_sources_of_any_size(
    sizes: list[tuple[int, int]], height: int, width: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(height * 100 + width)
    sources = [scale * torch.randn(*size, 3, generator=generator) for size in sizes]
    wanted = torch.rand(height - 1, width - 1, generator=generator) < 0.7
    gallery = Gallery.of(sources, sources)
    found = quilt(scale * torch.randn(height, width, 3, generator=generator), gallery, wanted)
    assert ((found.row >= 0) & (found.row <= gallery.heights[found.source] - 2)).all()
    assert ((found.col >= 0) & (found.col <= gallery.widths[found.source] - 2)).all()


def test_a_piece_with_a_thing_in_it_loses_to_brushwork_of_one_tone() -> None:
    """On the left a purple thing that is blue above and red below: its mean is the picture's, its cells are not."""
    purple = (BLUE + RED) / 2
    source = purple.expand(2 * PIECE, 6 * PIECE, 2).clone()
    source[:PIECE, : 2 * PIECE], source[PIECE:, : 2 * PIECE] = BLUE, RED
    wanted = torch.ones(PIECE, PIECE, dtype=torch.bool)
    found = quilt(purple.expand(PIECE + 1, PIECE + 1, 2), Gallery.of([source], [source]), wanted)
    assert int(found.col[0, 0]) >= 2 * PIECE


def test_only_the_share_of_pieces_that_vary_least_is_taken() -> None:
    """Noise grows from left to right, and its tone is the picture's: only the left of the source is copied."""
    height, width = PIECE + 1, 20 * PIECE
    noise = torch.randn(height, width, 2, generator=torch.Generator().manual_seed(3))
    source = RED + noise * torch.linspace(0, 3, width)[None, :, None]
    pieces = width - PIECE
    wanted = torch.ones(4 * PIECE, 4 * PIECE, dtype=torch.bool)
    found = quilt(RED.expand(4 * PIECE + 1, 4 * PIECE + 1, 2), Gallery.of([source], [source]), wanted)
    starts = found.col[::PIECE, ::PIECE]
    assert int(starts.max()) <= 1.5 * EVEN * pieces
    assert int(starts.max()) >= 0.5 * EVEN * pieces  # all of them serve, since none is liked twice
