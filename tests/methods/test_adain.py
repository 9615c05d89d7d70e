"""AdaIN on hand-computed numbers, and the complete method with the shipped networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from kt_batch.config import EncoderConfig, RunOptions, ScaleKey
from kt_batch.errors import MismatchError, MissingError, RejectError, UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.methods.adain import Adain, AdainConfig, adain, mean_statistics, statistics
from kt_batch.methods.base import Resources
from kt_batch.methods.features import decode, decode_styled, encode
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.statistics.finish import build_statistics
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import image_id
from kt_batch.store.opening import open_library
from kt_batch.store.statistics import find_statistics
from tests.support.collection import Collection
from tests.support.tiny import SIZE, encoder_config, extracted, hashes, rows, translated_after
from tests.support.tiny import draw as draw_picture

LAYER = "relu4_1"


def channel(*values: float) -> Tensor:
    """Return one channel of features, `(1, 2, 2)`."""
    return torch.tensor(values, dtype=torch.float32).view(1, 2, 2)


def test_features_get_the_mean_and_deviation_of_the_style() -> None:
    # Mean 2, sample deviation sqrt(4/3): the values are -+1/sqrt(4/3) deviations from the mean, so 5 -+ 3 / sqrt(4/3).
    styled = adain(channel(1, 3, 1, 3), torch.tensor([[[5.0]]]), torch.tensor([[[3.0]]]))
    away = 3 / (4 / 3) ** 0.5
    torch.testing.assert_close(styled, channel(5 - away, 5 + away, 5 - away, 5 + away), rtol=1e-4, atol=0)


def test_a_flat_channel_becomes_the_mean_of_the_style() -> None:
    assert adain(channel(7, 7, 7, 7), torch.tensor([[[5.0]]]), torch.tensor([[[3.0]]])).equal(channel(5, 5, 5, 5))


@pytest.mark.parametrize("mask", [None, torch.full((64, 64), 0.3)], ids=["everywhere", "in a region"])
def test_the_rounding_of_a_mean_makes_no_colour_of_a_flat_channel(mask: Tensor | None) -> None:
    # The float32 mean of these cells is off by 2e-6, and its rest was divided by a deviation of 0 and EPSILON.
    style = torch.tensor([[[5.0]]]), torch.tensor([[[3.0]]])
    assert adain(torch.full((1, 64, 64), 7.3), *style, mask).equal(torch.full((1, 64, 64), 5.0))


def test_statistics_of_several_styles_are_averaged() -> None:
    mean, deviation = mean_statistics([statistics(channel(0, 0, 0, 0)), statistics(channel(1, 3, 1, 3))], [0.5, 0.5])
    assert mean.item() == 1.0  # of 0 and 2
    assert deviation.item() == pytest.approx((4 / 3) ** 0.5 / 2)


@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(2, 6))
def test_transferring_its_own_statistics_leaves_a_map_unchanged(seed: int, height: int, width: int) -> None:
    features = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(adain(features, *statistics(features)), features, atol=1e-3, rtol=1e-3)


# ---- with the shipped networks ----


def picture(seed: int) -> Tensor:
    """Return a smooth random picture `(3, 64, 48)`."""
    small = torch.rand(1, 3, 8, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (64, 48), mode="bicubic")[0].clamp(0, 1)


def made(alpha: float, *seeds: int) -> Adain:
    encoder = load_encoder(EncoderSource())
    styles = {f"{seed:016x}": picture(seed) for seed in seeds}
    config = AdainConfig(
        encoder=EncoderConfig(weights_sha256=encoder.sha256, layer=LAYER), styles=tuple(styles), alpha=alpha
    )
    decoder = load_decoder(encoder, "kt-vgg", LAYER, None).network
    return Adain(config, Resources(encoder.network, decoder, styles=styles))


def test_alpha_zero_only_encodes_and_decodes_the_photograph() -> None:
    method, photo = made(0.0, 2), picture(1)
    features = encode(method.encoder, photo, LAYER)
    torch.testing.assert_close(method.translate(photo).output, decode(method.decoder, features, features))


def test_features_have_the_statistics_of_the_style_when_they_are_decoded() -> None:
    method, photo = made(1.0, 2), picture(1)
    own = encode(method.encoder, photo, LAYER)
    styled = adain(own, *statistics(encode(method.encoder, picture(2), LAYER)))
    expected = decode_styled(method.decoder, styled, own, 0.0, 0.0)
    torch.testing.assert_close(method.translate(photo).output, expected)


def test_every_style_has_an_equal_share_and_every_stage_is_timed() -> None:
    result = made(1.0, 2, 3).translate(picture(1))
    assert vars(result.provenance) == {"shares": {f"{2:016x}": 0.5, f"{3:016x}": 0.5}}
    assert list(result.seconds) == list(Adain.stages)


def test_a_transfer_without_a_style_is_refused() -> None:
    encoder = EncoderConfig(weights_sha256="0" * 64)
    for both in ({}, {"styles": ("0" * 16,), "statistics_digest": "0" * 16}):
        with pytest.raises(ValidationError, match="styles or the statistics of a library, one of the two"):
            AdainConfig(encoder=encoder, **both)
    with pytest.raises(UsageError, match="needs an encoder, a decoder and style images"):
        Adain(AdainConfig(encoder=EncoderConfig(weights_sha256="0" * 64), styles=("0" * 16,)), Resources())


# ---- as a run ----


def styled(
    photos: Path, run: Path, *styles: Path, options: RunOptions | None = None, **settings: Any
) -> TranslateSummary:
    choice = Choice(styles=[str(style) for style in styles], size=SIZE)
    config, sources = choose("adain", settings, choice)
    request = TranslateRequest([str(photos)], str(run), config, sources, options or RunOptions(threads=1, unit_size=2))
    return translate(request, LocalRunner(), no_progress)


def test_a_run_needs_no_library_and_records_its_styles(collection: Collection, tmp_path: Path) -> None:
    style = collection.paintings / "1.png"
    summary = styled(collection.photos, tmp_path / "run", style)
    assert (summary.method, summary.images, summary.library, summary.ncc_mean) == ("adain", 3, None, None)
    table = rows(tmp_path / "run", "provenance")
    assert {(row["source_image_id"].hex(), row["share"]) for row in table} == {(image_id(style.read_bytes()), 1.0)}
    assert {row["source_uri"] for row in table} == {str(style)}
    with Image.open(tmp_path / "run/images/11.png.png") as output:
        assert output.size == (64, 50)


def test_the_encoder_is_cut_at_relu4_1_by_default(collection: Collection) -> None:
    styles = [str(collection.paintings / "1.png")]
    layers = [choose("adain", {}, Choice(styles=styles, layer=layer))[0].encoder for layer in (None, "relu3_1")]
    assert [config and config.layer for config in layers] == ["relu4_1", "relu3_1"]


def test_a_run_has_the_same_bytes_for_any_unit_size_and_order_of_styles(collection: Collection, tmp_path: Path) -> None:
    one, other = collection.paintings / "1.png", collection.paintings / "2.png"
    styled(collection.photos, tmp_path / "run", one, other)
    styled(collection.photos, tmp_path / "again", other, one, options=RunOptions(threads=1, unit_size=8))
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "again", "images")


def test_a_run_cannot_be_continued_with_another_style(collection: Collection, tmp_path: Path) -> None:
    styled(collection.photos, tmp_path / "run", collection.paintings / "1.png")
    with pytest.raises(MismatchError, match="styles"):
        styled(collection.photos, tmp_path / "run", collection.paintings / "2.png")


def test_a_style_under_another_name_is_the_same_style(collection: Collection, tmp_path: Path) -> None:
    styled(collection.photos, tmp_path / "run", collection.paintings / "1.png")
    (tmp_path / "copy.png").write_bytes((collection.paintings / "1.png").read_bytes())
    assert styled(collection.photos, tmp_path / "run", tmp_path / "copy.png").new_images == 0


def test_the_error_for_a_style_that_is_not_an_image_names_it_before_the_work(
    collection: Collection, tmp_path: Path
) -> None:
    (tmp_path / "style.png").write_bytes(b"no picture")
    with pytest.raises(RejectError, match=r"The style image '.*style.png' cannot be used"):
        styled(collection.photos, tmp_path / "run", tmp_path / "style.png")
    assert not (tmp_path / "run").exists()


def test_a_style_that_changes_after_the_plan_ends_the_run(collection: Collection, tmp_path: Path) -> None:
    style = draw_picture(tmp_path / "style.png", 5)
    config, sources = choose("adain", {}, Choice(styles=[str(style)], size=SIZE))
    draw_picture(style, 6)
    request = TranslateRequest([str(collection.photos)], str(tmp_path / "run"), config, sources, RunOptions(threads=1))
    with pytest.raises(MismatchError, match=r"style.png' has changed since the run was planned"):
        translate(request, LocalRunner(), no_progress)


def test_colours_move_towards_the_style(tmp_path: Path) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = np.random.default_rng(0).integers(120, 255, (64, 64))
    Image.fromarray(red).save(tmp_path / "red.png")
    photo = draw_picture(tmp_path / "photos/a.png", 3)
    styled(photo.parent, tmp_path / "run", tmp_path / "red.png")
    before, after = (
        np.asarray(Image.open(path).convert("RGB")).mean((0, 1)) for path in (photo, tmp_path / "run/images/a.png.png")
    )
    assert after[0] - after[1:].mean() > before[0] - before[1:].mean() + 50


# ---- after a library -------------------------------------------------------------------------------------------------


@pytest.fixture
def library(collection: Collection, tmp_path: Path) -> Path:
    """Return a library at relu3_1 and relu4_1 with statistics of relu4_1."""
    place = tmp_path / "library"
    extracted([collection.paintings], place, also=(f"relu4_1@{SIZE}",))
    build_statistics(str(place), RunOptions(threads=1), LocalRunner(), no_progress, ScaleKey("relu4_1", SIZE))
    return place


def after_library(photos: Path, run: Path, library: Path) -> TranslateSummary:
    return translated_after(Choice(library=library), photos, run, "adain")


def test_a_library_of_one_image_gives_what_the_image_gives_as_a_style(collection: Collection, tmp_path: Path) -> None:
    painting, place = collection.paintings / "1.png", tmp_path / "library"
    encoder = encoder_config().model_copy(update={"layer": "relu4_1"})
    extracted([painting], place, encoder=encoder)
    build_statistics(str(place), RunOptions(threads=1), LocalRunner(), no_progress)
    after_library(collection.photos, tmp_path / "one", place)
    styled(collection.photos, tmp_path / "other", painting)
    for name in ("11", "12", "13"):
        one, other = (np.asarray(Image.open(tmp_path / run / f"images/{name}.png.png")) for run in ("one", "other"))
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1  # libraries hold float16


def test_a_run_after_a_library_names_its_statistics_and_all_its_images(
    collection: Collection, library: Path, tmp_path: Path
) -> None:
    config, _ = choose("adain", {}, Choice(library=str(library)))
    opened = open_library(str(library))
    assert config.statistics_digest == find_statistics(opened, ScaleKey("relu4_1", SIZE)).digest
    assert config.encoder is not None
    assert (config.encoder.layer, config.encoder.size) == ("relu4_1", SIZE)
    assert after_library(collection.photos, tmp_path / "run", library).images == 3
    table = rows(tmp_path / "run", "provenance")
    paintings = {image_id(path.read_bytes()): str(path) for path in collection.paintings.iterdir()}
    # All four have 64 x 50 pixels, and so as many cells.
    assert {(row["source_image_id"].hex(), row["source_uri"], row["share"]) for row in table} == {
        (image, uri, 0.25) for image, uri in paintings.items()
    }
    explanation = explain(str(tmp_path / "run"), "11.png", 3, 3)
    assert {source.uri for source in explanation.sources} == set(paintings.values())
    assert len(recompute(str(tmp_path / "run"), Recompute(2), no_progress).equal) == 2


def test_a_run_stays_with_the_statistics_that_it_names_when_the_library_grows(
    collection: Collection, library: Path, tmp_path: Path
) -> None:
    after_library(collection.photos, tmp_path / "run", library)
    extracted([collection.photos], library, also=(f"relu4_1@{SIZE}",))
    with pytest.raises(MissingError, match="has no statistics of what it holds now"):
        choose("adain", {}, Choice(library=str(library)))
    assert len(recompute(str(tmp_path / "run"), Recompute(2), no_progress).equal) == 2


def test_styles_and_a_library_exclude_each_other(collection: Collection, library: Path) -> None:
    for choice in (Choice(), Choice(library=str(library), styles=[str(collection.paintings)])):
        with pytest.raises(UsageError, match="The method adain needs --style or --library, one of the two"):
            choose("adain", {}, choice)


def test_the_photographs_own_colours_may_stay() -> None:
    photo = picture(1)
    plain, own = made(1.0, 2), made(1.0, 2)
    own.config = own.config.model_copy(update={"preserve_colour": True})
    output = plain.translate(photo).output
    assert isinstance(output, Tensor)
    torch.testing.assert_close(own.translate(photo).output, preserve_colour(output, photo))
