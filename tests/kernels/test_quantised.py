"""Patches in 4 bits a value beside their principal coordinates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.principal import Basis, first_level, first_level_of
from kt_batch.kernels.quantised import asked, decoded, dequantise, fit_basis, products, quantise, towards_zero
from kt_batch.kernels.tiles import unit
from tests.synthetic import clustered

VALUES = 640  # 160 channels; 127 directions


def vectors(count: int, seed: int = 0) -> Tensor:
    return unit(clustered(count, VALUES // 4, clusters=20, seed=seed).flatten(1))


@pytest.fixture(scope="module")
def basis() -> Basis:
    return fit_basis(vectors(1000))


def test_a_code_is_the_nearest_of_sixteen_steps() -> None:
    # No direction and a spread of 1, so that what is coded is the vector itself. Steps of .44 around 0 lie at .22, .66
    # and 1.1: nearest to both .6 and .8 is .66, which is code 9.
    basis = Basis(torch.zeros(2, 1), torch.ones(2))
    _, codes, gains = quantise(torch.tensor([[0.6, 0.8]]), basis)
    assert (int(codes[0, 0]) & 15, int(codes[0, 0]) >> 4) == (9, 9)
    assert decoded(codes).tolist() == [pytest.approx([0.66, 0.66])]
    assert float(gains[0]) == pytest.approx(1 / (2 * 0.66**2) ** 0.5)


def test_what_is_too_large_has_the_last_code() -> None:
    basis = Basis(torch.zeros(2, 1), torch.tensor([0.1, 1.0]))
    _, codes, _ = quantise(torch.tensor([[-1.0, 0.0]]), basis)
    assert int(codes[0, 0]) & 15 == 0  # -10 spreads; -3.3 is as far as codes go


def test_the_first_half_of_the_values_is_in_the_low_bits() -> None:
    found = decoded(torch.tensor([[0x1F, 0x80]], dtype=torch.uint8))
    assert found.tolist() == [pytest.approx([(code - 7.5) * 0.44 for code in (15, 0, 1, 8)])]


def test_what_comes_back_is_of_unit_length_and_near_what_went_in(basis: Basis) -> None:
    asked_for = vectors(300, seed=5)
    found = dequantise(*quantise(asked_for, basis), basis)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(300))
    assert ((found * asked_for).sum(1) > 0.99).all()


def test_the_rest_is_exactly_what_the_coordinates_leave(basis: Basis) -> None:
    coordinates, codes, gains = quantise(vectors(200, seed=6), basis)
    found = dequantise(coordinates, codes, gains, basis)
    torch.testing.assert_close(found @ basis.directions, coordinates.float(), atol=2e-6, rtol=0)
    again = first_level(found, basis.directions)
    torch.testing.assert_close(first_level_of(coordinates, gains > 0)[:, :-1], again[:, :-1], atol=2e-6, rtol=0)


def test_the_length_of_the_rest_is_never_too_short(basis: Basis) -> None:
    coordinates, codes, gains = quantise(vectors(200, seed=7), basis)
    found = dequantise(coordinates, codes, gains, basis).double()
    directions = basis.directions.double()
    rest = (found - found @ directions @ directions.T).norm(dim=1)
    assert (first_level_of(coordinates, gains > 0)[:, -1].double() >= rest - 1e-6).all()


def test_a_zero_vector_stays_one_and_has_no_rest(basis: Basis) -> None:
    coordinates, codes, gains = quantise(torch.zeros(2, VALUES), basis)
    assert dequantise(coordinates, codes, gains, basis).eq(0).all()
    assert first_level_of(coordinates, gains > 0).eq(0).all()
    assert products(asked(vectors(2), basis), coordinates, codes, gains).eq(0).all()


def test_a_vector_within_the_directions_stays_itself() -> None:
    basis = Basis(torch.eye(VALUES)[:, :127].contiguous(), torch.full((VALUES,), 0.04))
    one = torch.zeros(1, VALUES)
    one[0, 3] = 1
    found = dequantise(*quantise(one, basis), basis)
    assert float(found[0, 3]) == pytest.approx(1)


def test_products_are_those_of_the_vectors_that_come_back(basis: Basis) -> None:
    library, queries = vectors(300, seed=8), vectors(300, seed=9)
    coordinates, codes, gains = quantise(library, basis)
    slow = (dequantise(coordinates, codes, gains, basis).double() * queries.double()).sum(1)
    fast = products(asked(queries, basis), coordinates, codes, gains)
    torch.testing.assert_close(fast.double(), slow, atol=2e-6, rtol=0)


def test_a_vector_does_not_depend_on_what_it_is_quantised_beside(basis: Basis) -> None:
    together = quantise(vectors(1500, seed=3), basis)
    alone = quantise(vectors(1500, seed=3)[1100:1103], basis)
    assert [part[1100:1103].equal(one) for part, one in zip(together, alone, strict=True)] == [True] * 3
    found = dequantise(*together, basis)[1100:1103]
    assert found.equal(dequantise(*alone, basis))


def test_none_at_all_is_none(basis: Basis) -> None:
    assert asked(torch.empty(0, VALUES), basis).shape == (0, VALUES + 128)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
@settings(deadline=None)
def test_rounding_towards_zero_never_makes_larger(values: list[float]) -> None:
    found = towards_zero(torch.tensor(values))
    assert (found.float().abs() <= torch.tensor(values).abs()).all()
    assert ((torch.tensor(values) - found.float()).abs() <= torch.tensor(values).abs() * 2.0**-10 + 2.0**-24).all()
