"""What computes creates tensors on the input device or on a named one."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kt_batch.kernels import transport
from kt_batch.kernels.colour import luminance, preserve_colour
from kt_batch.kernels.colour_map import map_colours
from kt_batch.kernels.enlarge import calm, crisp, fit_slopes, sloped
from kt_batch.kernels.evened import evened
from kt_batch.kernels.haar import haar, mean_and_std
from kt_batch.kernels.integers import least_products, round_patches, round_queries
from kt_batch.kernels.kmeans import assign
from kt_batch.kernels.patches import fold, positions, unfold
from kt_batch.kernels.principal import (
    Basis,
    bound_correction,
    first_level,
    first_level_of,
    further_directions,
    halved,
    other_half,
    principal_directions,
)
from kt_batch.kernels.quadratic import IDENTITY
from kt_batch.kernels.quantised import Codes, dequantise, fit_basis, prepare_queries, products
from kt_batch.kernels.smooth import guided_filter
from kt_batch.kernels.swap import blend, geometric_swap, statistics_swap, top_k_weights
from kt_batch.kernels.tiles import canonical_scores, divide_rows, normalise, pad_rows, row_norms
from kt_batch.kernels.transport import bands, mixture_of_bands

ROOT = Path(__file__).resolve().parents[2] / "kt_batch"
FOLDERS = ("kernels", "index", "models", "methods", "pipelines")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
FACTORIES = {
    "arange", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "normal", "ones", "rand", "randint",
    "randn", "randperm", "tensor", "as_tensor", "tril_indices", "triu_indices", "zeros", "Generator",
}  # fmt: skip


def without_device(code: str) -> list[str]:
    """Return the calls that create a tensor without naming a device."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr in FACTORIES) == ("torch", True)
        and "device" not in {keyword.arg for keyword in node.keywords}
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_tensor_is_created_on_a_named_device(path: Path) -> None:
    assert without_device(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x = torch.zeros(3)", ["torch.zeros(3)"]),
        ("x = torch.zeros(3, device=y.device)", []),
        ("x = f(torch.arange(n).split(2))", ["torch.arange(n)"]),
        ("x = torch.zeros_like(y) + y.new_zeros(3) + torch.cat([y])", []),
    ],
)
def test_the_check_for_devices_finds_calls_without_a_device(code: str, found: list[str]) -> None:
    assert without_device(code) == found


DEVICE = "meta"


def some(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=DEVICE)


def basis() -> Basis:
    return Basis(some(64, 5), some(64))


def swapped() -> list[Tensor]:
    features, patches, guide = some(3, 8, 9), some(56, 4, 3), some(8, 9)
    rows, cols = positions(8, 9, 1, cover=True, device=DEVICE)
    return [
        unfold(features, rows, cols),
        fold(patches, rows, cols, 8, 9),
        geometric_swap(patches, rows, cols, 8, 9),
        statistics_swap(features, patches, patches, rows, cols, some(3), guide),
        blend(some(56, 2, 4, 3), top_k_weights(some(56, 2), 0.05)),
        guided_filter(some(6, 8, 9), guide, 3, 0.01),
        *positions(8, 9, 2, cover=True, device=DEVICE),
    ]


def coded(plane: Tensor | None) -> list[Tensor]:
    codes = Codes(some(300, 32, dtype=torch.uint8), some(300), plane)
    coordinates = some(300, 5, dtype=torch.float16)
    prepared = prepare_queries(some(300, 64), some(300, 5), basis(), codes.bits)
    return [dequantise(coordinates, codes, basis()), prepared, products(prepared, coordinates, codes)]


def levels() -> list[Tensor]:
    level = first_level(some(300, 64), some(64, 5))
    short = halved(level)
    return [
        level,
        first_level_of(some(300, 5, dtype=torch.float16), some(300, dtype=torch.bool)),
        other_half(level, short, -1),
        bound_correction(level, some(300, 7), 1e-6, 1),
        principal_directions(some(300, 64), 5),
        further_directions(some(300, 64), some(64, 5), 7),
    ]


def painted() -> list[Tensor]:
    picture, photograph = some(3, 40, 44), some(3, 40, 44)
    slopes = fit_slopes(photograph, picture, 3, 0.001)
    return [evened(picture, photograph), slopes, sloped(slopes, picture), calm(picture), crisp(picture, 1.5)]


def moved() -> list[Tensor]:
    parts = [bands(some(8, 20, 24)) for _ in range(2)]
    mixed = mixture_of_bands(parts, (0.25, 0.75))
    moments = [each for part in (*parts, mixed) for each in (part.whole, part.coarse, part.fine)]
    directions = transport.principal_directions(mixed.whole, 3)
    limited = transport.limited(mixed.fine.covariance, 2.0)
    return [*(each for part in moments for each in (part.mean, part.covariance, part.deviation)), directions, limited]


@pytest.mark.parametrize(
    "run",
    [
        swapped,
        lambda: coded(None),
        lambda: coded(some(300, 8, dtype=torch.uint8)),
        levels,
        painted,
        moved,
        lambda: list(vars(fit_basis(some(300, 600))).values()),
        lambda: list(assign(some(1500, 64), some(7, 64))),
        lambda: [canonical_scores(some(300, 64), some(300, 64)), normalise(some(300, 64)), row_norms(some(300, 64))],
        lambda: [row_norms(some(0, 64)), pad_rows(some(3, 4), 8), divide_rows(some(3, 4), some(3))],
        lambda: [haar(some(3, 4, 8)), *mean_and_std(some(3, 4, 8))],
        lambda: list(vars(round_queries(some(300, 64))).values()),
        lambda: [luminance(some(3, 8, 9)), preserve_colour(some(3, 8, 9), some(3, 8, 9))],
        lambda: [map_colours(some(8, 9, 3), IDENTITY)],
    ],
)
def test_a_kernel_stays_on_the_device_of_its_inputs(run: Callable[[], list[Tensor]]) -> None:
    # Tensors without values know their device and refuse to mix devices, on a machine without a GPU too.
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert {result.device for result in run()} == {torch.device(DEVICE)}


def test_a_fake_device_refuses_to_mix() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="meta and cpu"):
        torch.cat([some(3), torch.empty(3, device="cpu")])


def test_least_products_are_computed_where_the_queries_are() -> None:
    patches = round_patches(torch.rand(20, 8))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert least_products(round_queries(some(300, 8)), patches, some(300)).device == torch.device(DEVICE)
