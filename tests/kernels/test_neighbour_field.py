"""Matches near those of the neighbours: scores against slow loops, and searches whose answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.neighbour_field import STEPS, Field, Gallery, complete, improve, rebuild, scores
from kt_batch.kernels.patches import CELLS, fold, positions


def draw(seed: int, channels: int, height: int, width: int) -> Tensor:
    """Return random features `(channels, height, width)`."""
    return torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed))


def gallery_of(*maps: Tensor) -> Gallery:
    """Return a gallery that transfers what it compares."""
    return Gallery.of([cells(each) for each in maps], [cells(each) for each in maps])


def cells(features: Tensor) -> Tensor:
    """Return features `(C, h, w)` as queries `(h, w, C)`."""
    return features.permute(1, 2, 0).contiguous()


def constant(source: int, row: int, col: int, height: int, width: int) -> Field:
    """Return a field of `height` x `width` patches that all have one match."""
    shape = (height, width)
    return Field(*(torch.full(shape, value) for value in (source, row, col)))


def patch(features: Tensor, row: int, col: int) -> Tensor:
    """Return one 2 x 2 patch as a vector."""
    return torch.cat([features[:, row + r, col + c] for r, c in CELLS])


@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(2, 5))
def test_a_score_is_the_cosine_of_two_patches(seed: int, height: int, width: int) -> None:
    pictures = [draw(seed, 3, 4, 5), draw(seed + 1, 3, 3, 6)]
    query = draw(seed + 2, 3, height, width)
    generator = torch.Generator().manual_seed(seed)
    shape = (height - 1, width - 1)
    field = Field(
        torch.randint(0, 2, shape, generator=generator),
        torch.randint(0, 2, shape, generator=generator),
        torch.randint(0, 4, shape, generator=generator),
    )
    found = scores(cells(query), gallery_of(*pictures), field).view(shape)
    for row in range(shape[0]):
        for col in range(shape[1]):
            match = pictures[int(field.source[row, col])]
            theirs = patch(match, int(field.row[row, col]), int(field.col[row, col]))
            expected = torch.cosine_similarity(patch(query, row, col), theirs, dim=0)
            assert found[row, col].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_picture_finds_itself_from_matches_one_cell_away() -> None:
    picture = draw(1, 4, 8, 9)
    rows, cols = torch.meshgrid(torch.arange(7), torch.arange(8), indexing="ij")
    start = Field(torch.zeros(7, 8, dtype=torch.int64), rows + 1, cols - 1)
    found, score = improve(cells(picture), gallery_of(picture), start, torch.eye(4), radius=1, passes=0)
    assert found.row.equal(rows)
    assert found.col.equal(cols)
    torch.testing.assert_close(score, torch.ones(56))


def test_one_right_match_spreads_to_its_neighbours() -> None:
    """All start at a wrong place but one; each pass carries the right shift on."""
    picture = draw(2, 4, 6, 6)
    rows, cols = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    start = constant(0, 0, 0, 5, 5)
    start.row[2, 2], start.col[2, 2] = 2, 2
    found, _ = improve(cells(picture), gallery_of(picture), start, torch.eye(4), radius=0, passes=3)
    assert found.row.equal(rows)
    assert found.col.equal(cols)


@given(st.integers(0, 2**31), st.integers(0, 2), st.integers(0, 2), st.integers(1, 3))
def test_matches_only_get_better_and_stay_inside(seed: int, radius: int, passes: int, count: int) -> None:
    """However few directions the places compete in."""
    directions = torch.linalg.qr(draw(seed + 3, 1, 3, 3)[0])[0][:, :count]
    gallery = gallery_of(draw(seed, 3, 4, 7), draw(seed + 1, 3, 6, 3))
    query = cells(draw(seed + 2, 3, 5, 5))
    start = constant(1, 2, 1, 4, 4)
    found, score = improve(query, gallery, start, directions, radius, passes)
    assert bool((score >= scores(query, gallery, start) - 1e-6).all())
    torch.testing.assert_close(score, scores(query, gallery, found))
    assert bool((found.row <= gallery.heights[found.source] - 2).all())
    assert bool((found.col <= gallery.widths[found.source] - 2).all())
    assert bool((found.row >= 0).all() and (found.col >= 0).all())


def slow_improve(
    queries: Tensor, gallery: Gallery, start: Field, directions: Tensor, radius: int, passes: int
) -> tuple[Field, Tensor]:
    """Return what `improve` returns, by comparing all patches with every place in full."""
    few = Gallery.of(
        [(gallery.keys @ directions)[first : first + h * w].view(h, w, -1) for first, h, w in pictures(gallery)],
        [gallery.values[first : first + h * w].view(h, w, -1) for first, h, w in pictures(gallery)],
    )
    best, score, near = start, scores(queries, gallery, start), scores(queries @ directions, few, start)

    def offer(source: Tensor, row: Tensor, col: Tensor) -> None:
        nonlocal best, score, near
        row = torch.minimum(row.clamp(min=0), gallery.heights[source] - 2)
        col = torch.minimum(col.clamp(min=0), gallery.widths[source] - 2)
        other = Field(source, row, col)
        found, nearness = scores(queries, gallery, other), scores(queries @ directions, few, other)
        won = (found > score) & (nearness > near)
        score, near = torch.where(won, found, score), torch.where(won, nearness, near)
        grid = won.view(row.shape)
        pairs = ((source, best.source), (row, best.row), (col, best.col))
        best = Field(*(torch.where(grid, new, old) for new, old in pairs))

    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            if down or right:
                offer(start.source, start.row + down, start.col + right)
    for _ in range(passes):
        for down, right in STEPS:
            source, row, col = (torch.roll(each, (down, right), (0, 1)) for each in (best.source, best.row, best.col))
            offer(source, row + down, col + right)
    return best, score


def pictures(gallery: Gallery) -> list[tuple[int, int, int]]:
    """Return the first cell, the height and the width of each picture."""
    parts = (gallery.starts.tolist(), gallery.heights.tolist(), gallery.widths.tolist())
    return list(zip(*parts, strict=True))


@given(st.integers(0, 2**31), st.integers(1, 3))
def test_a_search_is_that_of_plain_comparisons(seed: int, count: int) -> None:
    gallery = gallery_of(draw(seed, 3, 7, 9), draw(seed + 1, 3, 6, 5))
    query = cells(draw(seed + 2, 3, 8, 6))
    generator = torch.Generator().manual_seed(seed)
    start = Field(*(torch.randint(0, most, (7, 5), generator=generator) for most in (2, 5, 4)))
    directions = torch.linalg.qr(draw(seed + 3, 1, 3, 3)[0])[0][:, :count]
    found, score = improve(query, gallery, start, directions, 1, 2)
    expected, best = slow_improve(query, gallery, start, directions, 1, 2)
    assert float((found.source == expected.source).float().mean()) > 0.95  # equal but for ties in the last bit
    torch.testing.assert_close(score, scores(query, gallery, found))
    torch.testing.assert_close(score.mean(), best.mean(), atol=1e-3, rtol=0)


def test_places_compete_in_the_given_directions_before_they_are_compared_in_full() -> None:
    """A place that is right in the channels left out alone is never looked at."""
    picture = torch.zeros(2, 2, 3)  # two patches: at 0, and at 1
    picture[1] = torch.tensor([1.0, 1.0, 5.0])
    picture[0] = torch.tensor([1.0, 1.0, 1.0])
    query = torch.ones(2, 2, 2)
    query[1, :, 1] = 5.0
    start = constant(0, 0, 0, 1, 1)
    gallery = gallery_of(picture)
    blind, _ = improve(cells(query), gallery, start, torch.eye(2)[:, :1], 1, 0)
    seeing, _ = improve(cells(query), gallery, start, torch.eye(2), 1, 0)
    assert (blind.col.item(), seeing.col.item()) == (0, 1)


def test_a_missing_match_is_the_nearest_of_all_sources() -> None:
    pictures = [draw(4, 3, 4, 4), draw(5, 3, 5, 6)]
    query = draw(6, 3, 2, 3)
    query[:, :, :2] = pictures[1][:, 3:5, 2:4]  # the first of two patches is that of the second picture at (3, 2)
    start = constant(-1, 0, 0, 1, 2)
    start.source[0, 1], start.row[0, 1], start.col[0, 1] = 0, 1, 2
    found = complete(cells(query), gallery_of(*pictures), start, torch.eye(3))
    assert [each[0].tolist() for each in (found.source, found.row, found.col)] == [[1, 0], [3, 1], [2, 2]]


def test_the_places_of_a_finer_level_are_twice_as_far() -> None:
    # One coarse patch at (3, 5) of source 2; its four cells of half the size begin at (6, 10).
    fine = constant(2, 3, 5, 1, 1).finer(3, 3)
    assert fine.row.tolist() == [[6, 6], [7, 7]]
    assert fine.col.tolist() == [[10, 11], [10, 11]]
    assert fine.source.tolist() == [[2, 2], [2, 2]]


@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(2, 5))
def test_a_map_is_rebuilt_as_the_matched_patches_are_folded(seed: int, height: int, width: int) -> None:
    pictures = [draw(seed, 3, 4, 5), draw(seed + 1, 3, 3, 6)]
    generator = torch.Generator().manual_seed(seed)
    shape = (height - 1, width - 1)
    field = Field(*(torch.randint(0, most, shape, generator=generator) for most in (2, 2, 4)))
    rows, cols = positions(height, width, 1, cover=True)
    places = zip(*(each.flatten().tolist() for each in (field.source, field.row, field.col)), strict=True)
    matched = torch.stack([patch(pictures[source], row, col).view(4, 3) for source, row, col in places])
    torch.testing.assert_close(rebuild(gallery_of(*pictures), field), fold(matched, rows, cols, height, width))


def test_a_patch_of_zeros_has_the_score_zero() -> None:
    score = scores(torch.zeros(2, 2, 3), gallery_of(draw(8, 3, 2, 2)), constant(0, 0, 0, 1, 1))
    assert score.item() == 0


def test_a_field_takes_the_matches_of_another_one_where_its_own_are_not_wanted() -> None:
    wanted = torch.tensor([[True, False]])
    mixed = constant(0, 1, 2, 1, 2).where(wanted, constant(3, 4, 5, 1, 2))
    assert [each.tolist() for each in (mixed.source, mixed.row, mixed.col)] == [[[0, 3]], [[1, 4]], [[2, 5]]]
