"""Styles in regions: masks and weighted statistics on small maps, and the laws of every method that takes regions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import EncoderConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.gram import gram
from kt_batch.kernels.patches import positions
from kt_batch.kernels.regions import like_regions, on_grid, patch_regions, soft_masks
from kt_batch.kernels.whitening import principal_axes
from kt_batch.methods.adain import statistics
from kt_batch.methods.base import Banks, Resources
from kt_batch.methods.styles import TakesRegions
from kt_batch.methods.table import METHODS, method_named, parse_config
from kt_batch.models.stylebank import AutoEncoder, new_bank
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.single import load_networks
from tests.support.small_pictures import picture, translated

ONE, OTHER = f"{1:016x}", f"{2:016x}"
QUICK: dict[str, dict[str, Any]] = {
    "adain": {},
    "wct": {"levels": 2},
    "gatys": {"iterations": 3},
    "gatys_refined": {"iterations": 3},
    "stylebank": {},
    "ift": {"levels": 2, "updates": 5},
    "patch_swap": {},
}


def random_map(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def halves(height: int = 64, width: int = 48) -> Tensor:
    """Return region 0 above and region 1 below."""
    regions = torch.zeros(height, width, dtype=torch.int64)
    regions[height // 2 :] = 1
    return regions


# ---- masks


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20))
def test_masks_sum_to_one_at_every_pixel_and_cell(seed: int, count: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = soft_masks(torch.randint(count, (height, width), generator=generator), count)
    assert masks.min() >= 0
    for each in (masks, on_grid(masks, max(1, height // 3), max(1, width // 3))):
        torch.testing.assert_close(each.sum(0), torch.ones(each.shape[1:]), atol=1e-5, rtol=0)


def test_an_edge_is_soft_over_nine_pixels() -> None:
    column = soft_masks(halves(32, 8), 2)[0, :, 0]
    assert column[:12].eq(1).all()
    assert column[20:].eq(0).all()
    assert column[12:20].diff().lt(0).all()
    torch.testing.assert_close(column[15:17].sum(), torch.tensor(1.0))


@given(st.integers(0, 2**31))
def test_a_mask_of_zeros_and_ones_leaves_the_statistics_of_its_cells(seed: int) -> None:
    features, mask = random_map(seed, 3, 6, 5), torch.zeros(6, 5)
    mask[:4] = 1
    part = features[:, :4]
    for found, expected in (
        *zip(statistics(features, mask), statistics(part), strict=True),
        (gram(features, mask), gram(part)),
        (principal_axes(features, mask).mean, principal_axes(part).mean),
        (principal_axes(features, mask).variances, principal_axes(part).variances),
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_region_of_one_cell_has_no_deviation_and_no_axes() -> None:
    mask = torch.zeros(4, 4)
    mask[1, 1] = 1
    features = random_map(1, 3, 4, 4)
    assert statistics(features, mask)[1].abs().max() < 1e-5
    assert principal_axes(features, mask).variances.numel() == 0


def test_regions_of_like_features_are_numbered_from_the_largest() -> None:
    features = torch.zeros(2, 8, 6)
    features[0, :3], features[1, 3:] = 1.0, 1.0  # three rows of one kind, five of the other
    regions = like_regions(features, 2, (64, 48))
    assert regions[:20].eq(1).all()
    assert regions[28:].eq(0).all()
    assert like_regions(features, 1, (64, 48)).eq(0).all()
    assert like_regions(torch.ones(2, 8, 6), 3, (64, 48)).eq(0).all()  # no cell differs from another


@given(st.integers(0, 2**31), st.integers(2, 4), st.integers(2, 5), st.integers(2, 5), st.sampled_from([1, 2, 4]))
def test_a_patch_is_of_the_region_with_most_of_its_pixels_whatever_its_number(
    seed: int, count: int, height: int, width: int, stride: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randint(count, (height * stride, width * stride), generator=generator)
    rows, cols = positions(height, width, 1, cover=True)
    found = patch_regions(regions, rows, cols, stride)
    for row, col, region in zip(rows.tolist(), cols.tolist(), found.tolist(), strict=True):
        under = regions[row * stride : (row + 2) * stride, col * stride : (col + 2) * stride].flatten().tolist()
        assert region == max(under, key=under.count)  # of equal ones, the first
    numbers = torch.randperm(count, generator=generator)
    assert patch_regions(numbers[regions], rows, cols, stride).equal(numbers[found])


# ---- the laws


def with_banks(*groups: str) -> Any:
    """Return StyleBank with random networks: the bank of each style, and one bank for each label."""
    torch.manual_seed(0)
    network, named = AutoEncoder(8).eval().requires_grad_(requires_grad=False), sorted(set(groups))
    banks = [new_bank(8, 3, torch.Generator().manual_seed(int(each, 16))) for each in named]
    shares = [{"bank": each * 4, "weight": 1 / len(named), "images": [each]} for each in named]
    order = [named.index(each) for each in groups] if len(groups) > 1 else []
    config = parse_config({"method": "stylebank", "network": "0" * 64, "banks": shares, "region_banks": order})
    return method_named("stylebank")(config, Resources(banks=Banks(network, tuple(banks))))


def made(name: str, *groups: str, **settings: Any) -> Any:
    if name == "stylebank":
        return with_banks(*groups)
    method = method_named(name)
    networks = load_networks(EncoderSource(), method, "relu4_1", None)
    encoder = EncoderConfig(weights_sha256=networks.encoder.sha256, layer="relu4_1")
    pictures = {ONE: picture(2), OTHER: picture(3)}
    styles = {each: pictures[each] for each in sorted(set(groups))}
    named = {"style_groups": tuple((each,) for each in groups)} if len(groups) > 1 else {}
    content = {"method": name, "encoder": encoder, "styles": tuple(styles), **QUICK[name], **named, **settings}
    return method(parse_config(content), Resources(**networks.resources, styles=styles))


def test_these_methods_take_regions() -> None:
    taking = {name for name, method in METHODS.items() if issubclass(method, TakesRegions)}
    searching = {"knowledge", "painting"}  # tests/pipelines/test_regions_of_libraries.py
    assert taking == QUICK.keys() | searching


@pytest.mark.parametrize("name", QUICK)
def test_one_region_over_everything_equals_no_regions_byte_for_byte(name: str) -> None:
    photo = picture(1)
    everywhere = made(name, ONE, OTHER).translate(photo, torch.zeros(64, 48, dtype=torch.int64))
    assert everywhere.output.equal(translated(made(name, ONE), photo))
    assert vars(everywhere.provenance) == {"shares": {ONE: 1.0}}


@pytest.mark.parametrize("name", QUICK)
def test_two_regions_of_one_style_equal_no_regions(name: str) -> None:
    photo = picture(1)
    torch.testing.assert_close(
        made(name, ONE, ONE).translate(photo, halves()).output, translated(made(name, ONE), photo), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", QUICK)
def test_labels_and_styles_that_change_places_give_the_same_picture(name: str) -> None:
    photo = picture(1)
    first = made(name, ONE, OTHER).translate(photo, halves())
    second = made(name, OTHER, ONE).translate(photo, 1 - halves())
    assert first.output.equal(second.output)
    assert vars(first.provenance) == vars(second.provenance)
    assert vars(first.provenance)["shares"] == pytest.approx({ONE: 0.5, OTHER: 0.5}, abs=0.1)  # of areas, or of patches
    assert not first.output.equal(made(name, ONE, OTHER).translate(photo, 1 - halves()).output)


def test_each_region_looks_like_its_style_away_from_the_edge() -> None:
    photo, styles = picture(1), {"red": torch.zeros(3, 64, 48), "blue": torch.zeros(3, 64, 48)}
    styles["red"][0], styles["blue"][2] = picture(2)[0], picture(3)[0]
    method = made("adain", ONE, OTHER)
    method.styles = [statistics(_encoded(method, each)) for each in styles.values()]
    output = method.translate(photo, halves()).output
    above, below = output[:, :24].mean((1, 2)), output[:, 40:].mean((1, 2))
    assert above[0] > above[2] + 0.1
    assert below[2] > below[0] + 0.1


def _encoded(method: Any, image: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = method.encoder.encode(image[None], "relu4_1")[0]
    return found


def test_several_styles_need_regions() -> None:
    with pytest.raises(UsageError, match="2 styles are given for regions, and the picture has none"):
        made("adain", ONE, OTHER).translate(picture(1))
