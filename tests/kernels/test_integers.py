"""Products of 8-bit integers exclude only pairs below the threshold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.integers import (
    has_integer_products,
    integer_products,
    least_products,
    round_patches,
    round_queries,
)
from kt_batch.models.precision import quick_integers


def exact_products(queries: Tensor, patches: Tensor) -> Tensor:
    """Compute `integer_products` on any processor."""
    return (queries.long() @ patches.long().T).int()


def test_a_step_is_a_127th_of_the_largest_value() -> None:
    x = torch.tensor([[1.27, -0.634], [0.02, 0.01]])
    queries, patches = round_queries(x), round_patches(x)
    assert queries.values.tolist() == [[127, -63], [127, 64]]  # -63.4, and 63.5 to the even one
    assert patches.values.tolist() == [[127, -63], [2, 1]]
    torch.testing.assert_close(
        queries.errors, torch.tensor([0.004, 0.005 * 0.02 / 1.27], dtype=torch.float64), rtol=1e-3, atol=1e-9
    )
    torch.testing.assert_close(patches.error, 0.004, rtol=1e-3, atol=0)
    torch.testing.assert_close(patches.length, (1.27**2 + 0.634**2) ** 0.5, rtol=1e-6, atol=0)


def test_vectors_of_whole_steps_are_exact() -> None:
    x = torch.tensor([[127.0, -3], [5, 0]])
    patches = round_patches(x)
    queries = round_queries(x[:1])
    assert (patches.error, queries.errors.item(), patches.step) == (0, 0, 1)
    # the second patch reaches 127 * 5; the threshold is one less, since the division may round up
    assert least_products(queries, patches, torch.tensor([635.0])).tolist() == [634]


def test_integer_queries_do_not_depend_on_the_batch_size(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(20, 9, generator=generator)
    together = vars(round_queries(x))
    monkeypatch.setattr("kt_batch.kernels.integers.PART", 7)
    assert all(values.equal(together[name]) for name, values in vars(round_queries(x)).items())


def test_zero_vectors_are_zero_integers_and_impossible_thresholds_fit_into_32_bits() -> None:
    nothing = torch.zeros(2, 3)
    queries, patches = round_queries(nothing), round_patches(nothing)
    assert queries.values.eq(0).all()
    assert patches.values.eq(0).all()
    found = least_products(queries, patches, torch.tensor([0.5, -0.5]))
    assert found.tolist() == [2**31 - 1, -(2**31) + 1]


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 140), st.sampled_from([1e-3, 1.0, 30.0]), st.integers(0, 99)
)
def test_every_pair_that_reaches_the_threshold_has_a_product_at_least_as_large(
    n: int, c: int, dim: int, spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales = spread ** torch.rand(dim, generator=generator)  # of some values much larger than of others
    q, x = (torch.randn(rows, dim, generator=generator) * scales for rows in (n, c))
    true = q.double() @ x.double().T
    queries, patches = round_queries(q), round_patches(x)
    found = exact_products(queries.values, patches.values)
    for column in range(min(c, 3)):  # as if just this patch were to be reached
        needed = least_products(queries, patches, (true[:, column] - true[:, column].abs() * 1e-6).float())
        assert (found[:, column] >= needed).all()


@pytest.mark.skipif(not quick_integers(), reason="this processor has no instructions for products of 8-bit integers")
@pytest.mark.parametrize(("n", "c", "dim"), [(1, 1, 1), (3, 7, 5), (1, 512, 128), (33, 65, 33), (200, 100, 128)])
def test_integer_products_are_exact_in_any_shape(n: int, c: int, dim: int, generator: torch.Generator) -> None:
    q, x = (torch.randint(-127, 128, (rows, dim), dtype=torch.int8, generator=generator) for rows in (n, c))
    assert integer_products(q, x).equal(exact_products(q, x))


def test_the_private_function_of_torch_exists_and_multiplies_integers() -> None:
    # A torch that drops or changes it fails here; searches then use float32 bounds.
    assert has_integer_products()
    queries = torch.tensor([[1, -2, 3, 4, 0, 0, 0, 0]], dtype=torch.int8)
    patches = torch.tensor([[5, 6, 7, -8, 1, 1, 1, 1], [0, 0, 0, 2, 9, 9, 9, 9]], dtype=torch.int8)
    found = integer_products(queries, patches)
    assert found.dtype == torch.int32
    assert found.tolist() == [[5 - 12 + 21 - 32, 8]]


def test_the_private_function_of_torch_is_called_in_one_place() -> None:
    package = Path(__file__).resolve().parents[2] / "kt_batch"
    users = [path for path in package.rglob("*.py") if "torch._int_mm(" in path.read_text(encoding="utf-8")]
    assert users == [package / "kernels/integers.py"]
