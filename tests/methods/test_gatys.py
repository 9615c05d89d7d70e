"""Optimised pixels: the losses on hand-computed numbers, and the complete method with the shipped encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kt_batch.config import EncoderConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.kernels.gram import content_loss, gram, style_loss, total_variation
from kt_batch.methods.base import Resources
from kt_batch.methods.gatys import Gatys, GatysConfig, halved_sizes, minimised, multiples
from kt_batch.methods.styles import Parts
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.translate.sources import Choice
from tests.support.collection import Collection
from tests.support.small_pictures import picture, translated
from tests.support.tiny import SIZE, hashes, translated_after

EVERYWHERE = Parts((0,), (1.0,))


def test_a_gram_matrix_holds_the_mean_products_of_channels() -> None:
    features = torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]])  # two channels of two cells
    assert gram(features).equal(torch.tensor([[2.5, 1.5], [1.5, 4.5]]))


def test_the_losses_are_those_of_the_paper() -> None:
    features, other = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 2.0]]])
    assert content_loss(features, other).item() == 2.0  # (1 - 3)^2 / 2
    assert style_loss(features, gram(other)).item() == 4.0  # (5 / 2 - 13 / 2)^2 / (4 * 1)
    assert total_variation(torch.tensor([[[1.0, 2.0], [4.0, 2.0]]])).item() == 9 + 0 + 1 + 4


def test_the_style_loss_does_not_depend_on_where_cells_are() -> None:
    features = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert style_loss(features.flip(1).flip(2), gram(features)).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_an_optimiser_finds_the_least_of_a_parabola(optimiser: str) -> None:
    found = minimised(torch.full((3, 4, 4), 0.1), lambda x: (x - 0.4).square().sum(), optimiser, 200)
    torch.testing.assert_close(found, torch.full((3, 4, 4), 0.4), atol=1e-3, rtol=0)


def test_pixels_stay_between_black_and_white() -> None:
    assert minimised(torch.full((3, 4, 4), 0.5), lambda x: (x - 2).square().sum(), "lbfgs", 20).max() == 1.0


def test_sizes_double_up_to_that_of_the_image() -> None:
    image = torch.zeros(3, 256, 192)
    assert halved_sizes(image, 3, 8) == [(64, 48), (128, 96), (256, 192)]
    assert halved_sizes(image, 5, 8) == [(64, 48), (128, 96), (256, 192)]  # 32 x 24 is too small
    assert multiples((21, 3), 8) == (24, 16)


# ---- with the shipped encoder ----


def made(*styles: Tensor, **settings: Any) -> Gatys:
    encoder = load_encoder(EncoderSource())
    named = {f"{number:016x}": style for number, style in enumerate(styles)}
    config = GatysConfig(
        encoder=EncoderConfig(weights_sha256=encoder.sha256, layer="relu4_1"),
        styles=tuple(named),
        **{"iterations": 5, **settings},
    )
    return Gatys(config, Resources(encoder.network, styles=named))


@pytest.mark.parametrize("settings", [{}, {"optimiser": "adam"}, {"start": "noise"}, {"sizes": 2}, {"pooling": "max"}])
def test_the_loss_falls(settings: dict[str, Any]) -> None:
    photo = picture(1)
    method = made(picture(2), **settings)
    loss = method._loss(photo, 1.0, EVERYWHERE)
    with torch.no_grad():
        assert loss(translated(method, photo)) < loss(method._start(photo, EVERYWHERE))


def test_without_a_difference_of_styles_the_photograph_stays() -> None:
    photo = picture(1)
    torch.testing.assert_close(translated(made(photo), photo), photo, atol=1e-4, rtol=0)


def test_every_style_keeps_a_term_of_its_own() -> None:
    photo = picture(1)
    one, other, both = (
        made(*styles)._loss(photo, 1.0, EVERYWHERE)
        for styles in ((picture(2),), (picture(3),), (picture(2), picture(3)))
    )
    with torch.no_grad():
        assert both(photo).item() == pytest.approx((one(photo).item() + other(photo).item()) / 2, rel=1e-5)


def test_the_seed_decides_the_noise() -> None:
    photo, style = picture(1), picture(2)
    first, same, other = (translated(made(style, start="noise", seed=seed), photo) for seed in (1, 1, 2))
    assert first.equal(same)
    assert not first.equal(other)


def test_every_style_has_an_equal_share_and_every_stage_is_timed() -> None:
    result = made(picture(2), picture(3), iterations=1).translate(picture(1))
    assert vars(result.provenance) == {"shares": {f"{0:016x}": 0.5, f"{1:016x}": 0.5}}
    assert list(result.seconds) == list(Gatys.stages)


def test_a_transfer_without_a_style_is_refused() -> None:
    config = GatysConfig(encoder=EncoderConfig(weights_sha256="0" * 64), styles=("0" * 16,))
    with pytest.raises(UsageError, match="needs an encoder and style images"):
        Gatys(config, Resources())


def test_a_run_has_the_same_bytes_for_any_unit_size(collection: Collection, tmp_path: Path) -> None:
    choice = Choice(styles=collection.paintings / "1.png", size=SIZE)
    for name, unit_size in (("run", 2), ("again", 8)):
        options = RunOptions(threads=1, unit_size=unit_size)
        assert translated_after(choice, collection.photos, tmp_path / name, "gatys", options, iterations=3).images == 3
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "again", "images")
