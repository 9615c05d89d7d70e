"""Laws of the kernels, for any numbers."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.index.ids import pack_ids, sort_order, unpack_ids
from kt_batch.kernels.haar import haar
from kt_batch.kernels.kmeans import fixed_point_sums
from kt_batch.kernels.local_affine import apply_local_affine, fit_local_affine
from kt_batch.kernels.patches import fold, positions, unfold
from kt_batch.kernels.tiles import normalise

few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 9)


def random(seed: int, *shape: int) -> torch.Tensor:
    """Draw values of several magnitudes and both signs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 10 ** torch.randint(-2, 3, (), generator=generator)


@few
@given(seeds, st.integers(1, 20), st.integers(1, 5))
def test_the_haar_packet_goes_back_and_keeps_products(seed: int, count: int, channels: int) -> None:
    one, other = random(seed, count, 4, channels), random(seed + 1, count, 4, channels)
    torch.testing.assert_close(haar(haar(one)), one, atol=1e-6 * float(one.abs().max()), rtol=1e-5)
    before, after = (one.double() * other.double()).sum((1, 2)), (haar(one).double() * haar(other).double()).sum((1, 2))
    scale = float(one.norm() * other.norm())
    torch.testing.assert_close(after, before, atol=1e-6 * scale, rtol=0)


@few
@given(seeds, st.integers(1, 5), sizes, sizes, st.integers(1, 2))
def test_folding_what_was_unfolded_gives_the_map_back(
    seed: int, channels: int, height: int, width: int, stride: int
) -> None:
    features = random(seed, channels, height, width)
    rows, cols = positions(height, width, stride, cover=True)
    torch.testing.assert_close(fold(unfold(features, rows, cols), rows, cols, height, width), features)


@few
@given(seeds, st.integers(1, 60), st.integers(1, 5), st.data())
def test_sums_of_any_parts_in_any_order_are_the_sums_of_the_whole(
    seed: int, count: int, k: int, data: st.DataObject
) -> None:
    vectors = normalise(random(seed, count, 6))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, k - 1), min_size=count, max_size=count)))
    order = torch.tensor(data.draw(st.permutations(range(count))))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    pieces = torch.tensor_split(order, cuts)
    parts = [fixed_point_sums(vectors[piece], labels[piece], k) for piece in pieces]
    sums, counts = fixed_point_sums(vectors, labels, k)
    assert torch.equal(torch.stack([s for s, _ in parts]).sum(0), sums)
    assert torch.equal(torch.stack([c for _, c in parts]).sum(0), counts)


places = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))


@few
@given(st.lists(places, min_size=1, max_size=30))
def test_patch_ids_are_in_the_order_of_image_row_and_column(some: list[tuple[int, int, int]]) -> None:
    ids = np.concatenate([pack_ids(f"{i:016x}", np.array([r]), np.array([c])) for i, r, c in some])
    assert [some[n] for n in sort_order(ids)] == sorted(some)
    assert sorted(some) == [some[n] for n in sorted(range(len(some)), key=lambda n: ids[n].tobytes())]
    images, rows, cols = unpack_ids(ids)
    back = [int.from_bytes(image.tobytes()) for image in images]
    assert list(zip(back, rows.tolist(), cols.tolist(), strict=True)) == some


@few
@given(seeds, st.integers(3, 9), st.integers(3, 9), st.integers(1, 4), st.data())
def test_a_picture_that_is_one_affine_map_of_another_is_found_exactly(
    seed: int, height: int, width: int, radius: int, data: st.DataObject
) -> None:
    gain = data.draw(st.floats(0.6, 1.7))
    small = st.floats(-0.1, 0.1)
    slopes = gain * (np.eye(3) + np.array(data.draw(st.lists(small, min_size=9, max_size=9))).reshape(3, 3))
    offsets = np.array(data.draw(st.lists(small, min_size=3, max_size=3)))
    source = np.random.default_rng(seed).random((height, width, 3), np.float32)
    target = (source @ slopes.T + offsets).astype(np.float32)
    small_source, small_target = (torch.from_numpy(each).permute(2, 0, 1) for each in (source, target))
    maps = fit_local_affine(small_source, small_target, radius, 1e-9)
    np.testing.assert_allclose(apply_local_affine(source, maps.numpy(), 0, height), target, atol=1e-3)
