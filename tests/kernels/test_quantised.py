"""Patches in 4 or 5 bits per value with principal coordinates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.principal import Basis, first_level, first_level_of
from kt_batch.kernels.quantised import (
    can_code,
    decoded,
    dequantise,
    fit_basis,
    joined,
    prepare_queries,
    products,
    quantise,
    round_towards_zero,
)
from kt_batch.kernels.tiles import normalise
from tests.support.synthetic import clustered

VALUES = 640  # 160 channels; 127 directions
BITS = pytest.mark.parametrize("bits", [4, 5])


def vectors(count: int, seed: int = 0) -> Tensor:
    return normalise(clustered(count, VALUES // 4, clusters=20, seed=seed).flatten(1))


@pytest.fixture(scope="module")
def basis() -> Basis:
    return fit_basis(vectors(1000))


def test_a_code_is_the_nearest_of_sixteen_steps() -> None:
    # No direction and a spread of 1, so that what is coded is the vector itself. Steps of .44 around 0 lie at .22, .66
    # and 1.1: nearest to both .6 and .8 is .66, which is code 9.
    basis = Basis(torch.zeros(2, 1), torch.ones(2))
    _, kept = quantise(torch.tensor([[0.6, 0.8]]), basis, 4)
    assert (int(kept.codes[0, 0]) & 15, int(kept.codes[0, 0]) >> 4) == (9, 9)
    assert decoded(kept.codes).tolist() == [pytest.approx([0.66, 0.66])]
    assert float(kept.gains[0]) == pytest.approx(1 / (2 * 0.66**2) ** 0.5)


def test_a_code_is_the_nearest_of_thirty_two_steps() -> None:
    # Steps of .26 around 0 lie at .13, .39, .65 and .91, codes 16 to 19, and as far below, 15 to 12. Nearest to .6 is
    # .65 (18), to -.8 -.91 (12); to 0 .13 and -.13 are equally near, and 15.5 is rounded to the even 16.
    basis = Basis(torch.zeros(8, 1), torch.ones(8))
    _, kept = quantise(torch.tensor([[0.6, 0, 0, 0, 0, 0, 0, -0.8]]), basis, 5)
    # Low bits 2, 0, 0, 0 and 0, 0, 0, 12; the fifth bit of all but the last value.
    assert kept.codes.tolist() == [[0x02, 0x00, 0x00, 0xC0]]
    assert kept.plane is not None
    assert kept.plane.tolist() == [[0b01111111]]
    expected = [0.65, *[0.13] * 6, -0.91]
    assert decoded(kept.codes, kept.plane).tolist() == [pytest.approx(expected)]
    assert float(kept.gains[0]) == pytest.approx(1 / sum(value**2 for value in expected) ** 0.5)


@pytest.mark.parametrize(("bits", "reach"), [(4, 7.5 * 0.44), (5, 15.5 * 0.26)])
def test_values_out_of_range_get_the_last_code(bits: int, reach: float) -> None:
    basis = Basis(torch.zeros(8, 1), torch.tensor([0.1, *[1.0] * 7]))
    _, kept = quantise(torch.tensor([[-1.0, *[0.0] * 7], [1.0, *[0.0] * 7]]), basis, bits)  # 10 spreads below and above
    assert decoded(kept.codes, kept.plane)[:, 0].tolist() == pytest.approx([-reach, reach])


def test_the_low_bits_store_the_first_half_of_the_values() -> None:
    found = decoded(torch.tensor([[0x1F, 0x80]], dtype=torch.uint8))
    assert found.tolist() == [pytest.approx([(code - 7.5) * 0.44 for code in (15, 0, 1, 8)])]


def test_bit_b_of_plane_byte_j_is_the_fifth_bit_of_value_b_times_an_eighth_plus_j() -> None:
    # 16 values, so 2 bytes: 0b10000001 is of values 0 and 7 * 2 = 14, 0b00010010 of 1 * 2 + 1 = 3 and 4 * 2 + 1 = 9.
    codes = torch.full((1, 8), 0x31, dtype=torch.uint8)  # 1 in the first half, 3 in the second
    found = decoded(codes, torch.tensor([[0b10000001, 0b00010010]], dtype=torch.uint8))
    expected = [1.0] * 8 + [3.0] * 8
    for value in (0, 14, 3, 9):
        expected[value] += 16
    assert found.tolist() == [pytest.approx([(code - 15.5) * 0.26 for code in expected])]


@BITS
def test_decoded_vectors_have_unit_length_and_are_close_to_the_originals(basis: Basis, bits: int) -> None:
    dry_run_request = vectors(300, seed=5)
    found = dequantise(*quantise(dry_run_request, basis, bits), basis)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(300))
    assert ((found * dry_run_request).sum(1) > {4: 0.99, 5: 0.997}[bits]).all()


@BITS
def test_the_rest_is_exactly_the_vector_minus_its_coordinates(basis: Basis, bits: int) -> None:
    coordinates, codes = quantise(vectors(200, seed=6), basis, bits)
    found = dequantise(coordinates, codes, basis)
    torch.testing.assert_close(found @ basis.directions, coordinates.float(), atol=2e-6, rtol=0)
    again = first_level(found, basis.directions)
    torch.testing.assert_close(first_level_of(coordinates, codes.gains > 0)[:, :-1], again[:, :-1], atol=2e-6, rtol=0)


@BITS
def test_the_stored_rest_length_is_never_too_short(basis: Basis, bits: int) -> None:
    coordinates, codes = quantise(vectors(200, seed=7), basis, bits)
    found = dequantise(coordinates, codes, basis).double()
    directions = basis.directions.double()
    rest = (found - found @ directions @ directions.T).norm(dim=1)
    assert (first_level_of(coordinates, codes.gains > 0)[:, -1].double() >= rest - 1e-6).all()


@BITS
def test_a_zero_vector_stays_zero_and_has_no_rest(basis: Basis, bits: int) -> None:
    coordinates, codes = quantise(torch.zeros(2, VALUES), basis, bits)
    assert dequantise(coordinates, codes, basis).eq(0).all()
    assert first_level_of(coordinates, codes.gains > 0).eq(0).all()
    assert (
        products(prepare_queries(vectors(2), vectors(2) @ basis.directions, basis, bits), coordinates, codes)
        .eq(0)
        .all()
    )


@BITS
def test_a_vector_in_the_span_of_the_directions_is_unchanged(bits: int) -> None:
    basis = Basis(torch.eye(VALUES)[:, :127].contiguous(), torch.full((VALUES,), 0.04))
    one = torch.zeros(1, VALUES)
    one[0, 3] = 1
    found = dequantise(*quantise(one, basis, bits), basis)
    assert float(found[0, 3]) == pytest.approx(1)


@BITS
def test_products_are_those_of_the_decoded_vectors(basis: Basis, bits: int) -> None:
    library, queries = vectors(300, seed=8), vectors(300, seed=9)
    coordinates, codes = quantise(library, basis, bits)
    slow = (dequantise(coordinates, codes, basis).double() * queries.double()).sum(1)
    fast = products(prepare_queries(queries, queries @ basis.directions, basis, bits), coordinates, codes)
    torch.testing.assert_close(fast.double(), slow, atol=2e-6, rtol=0)


def test_the_error_of_five_bits_is_less_than_half_that_of_four(basis: Basis) -> None:
    library = vectors(300, seed=8)
    four, five = (
        float((dequantise(*quantise(library, basis, bits), basis) - library).square().sum()) for bits in (4, 5)
    )
    assert five < four / 2


@BITS
def test_quantising_a_vector_does_not_depend_on_its_batch(basis: Basis, bits: int) -> None:
    together, codes = quantise(vectors(1500, seed=3), basis, bits)
    alone, some = quantise(vectors(1500, seed=3)[1100:1103], basis, bits)
    assert together[1100:1103].equal(alone)
    assert codes.part(1100, 3).tensors().keys() == some.tensors().keys()
    assert all(part.equal(some.tensors()[name]) for name, part in codes.part(1100, 3).tensors().items())
    assert dequantise(together, codes, basis)[1100:1103].equal(dequantise(alone, some, basis))


@BITS
def test_quantising_in_parts_equals_quantising_at_once(basis: Basis, bits: int) -> None:
    _, codes = quantise(vectors(20), basis, bits)
    assert codes.bits == bits
    again = joined([codes.part(0, 7), codes.part(7, 13)])
    assert all(again.tensors()[name].equal(part) for name, part in codes.tensors().items())


@BITS
def test_quantising_no_vectors_gives_none(basis: Basis, bits: int) -> None:
    assert prepare_queries(torch.empty(0, VALUES), torch.empty(0, 127), basis, bits).shape == (0, VALUES + 128)


@pytest.mark.parametrize(
    ("values", "directions", "bits", "expected"),
    [(508, 127, 4, True), (508, 127, 5, False), (512, 127, 5, True), (504, 127, 4, False), (504, 127, 5, False)],
)
def test_few_values_are_not_coded_and_five_bits_require_whole_bytes(
    values: int, directions: int, bits: int, expected: bool
) -> None:
    assert can_code(values, directions, bits) == expected


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
@settings(deadline=None)
def test_rounding_towards_zero_never_increases_a_magnitude(values: list[float]) -> None:
    found = round_towards_zero(torch.tensor(values))
    assert (found.float().abs() <= torch.tensor(values).abs()).all()
    assert ((torch.tensor(values) - found.float()).abs() <= torch.tensor(values).abs() * 2.0**-10 + 2.0**-24).all()
