"""The measures of style on pictures whose answer is known."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from kt_batch.errors import UsageError, WeightsError
from kt_batch.evaluation.style.measures import StyleMeasures, StyleValues
from kt_batch.evaluation.style.network import NetworkMeasures
from kt_batch.models.weights import EncoderSource, load_encoder
from tests.support import style


@pytest.fixture(scope="module")
def measures() -> StyleMeasures:
    return StyleMeasures(load_encoder(EncoderSource()).network, NetworkMeasures(style.narrow_vgg(), "narrow"))


def measured(measures: StyleMeasures, result: Image.Image, photograph: Image.Image) -> StyleValues:
    """Return the values of a result beside a photograph, after `style.painting()`."""
    kept = measures.photograph(style.as_tensor(photograph)), measures.painting(style.as_tensor(style.painting()))
    return measures.measure(style.as_tensor(result), *kept)


@pytest.fixture(scope="module")
def unchanged(measures: StyleMeasures) -> StyleValues:
    """The photograph as its own result."""
    return measured(measures, style.photograph(), style.photograph())


def test_the_painting_itself_has_its_style_and_all_its_patches(measures: StyleMeasures) -> None:
    values = measured(measures, style.painting(), style.photograph())
    assert (values.style_distance, values.patch_distance) == (0, 0)
    assert values.style_distances == {"relu1_1": 0, "relu2_1": 0, "relu3_1": 0, "relu4_1": 0}
    assert values.patch_distances == [0, 0, 0, 0]
    assert values.patch_realism == pytest.approx(1, abs=1e-5)
    assert values.sharpness == values.painting_sharpness


def test_the_photograph_itself_keeps_all_structure_and_has_another_style(unchanged: StyleValues) -> None:
    assert (unchanged.structure, unchanged.blotchiness) == (1, 0)
    assert unchanged.style_distance is not None
    assert unchanged.style_distance > 0.3
    assert unchanged.patch_distance > 0.3
    assert unchanged.patch_realism < 0.9


def test_a_blurred_painting_is_less_sharp_and_has_other_patches(measures: StyleMeasures) -> None:
    values = measured(measures, style.blurred(style.painting()), style.photograph())
    assert values.sharpness < 0.5 * values.painting_sharpness
    finest, *_, coarsest = values.patch_distances
    assert finest > 0.7
    assert coarsest < 0.1
    assert values.patch_distance > 0.2


def test_a_painting_in_shuffled_tiles_keeps_its_fine_patches_and_no_structure(
    measures: StyleMeasures, unchanged: StyleValues
) -> None:
    values = measured(measures, style.shuffled(style.painting()), style.painting())
    assert max(values.patch_distances[:2]) < 0.15  # coarser patches are about as wide as a tile of 32 pixels
    assert values.patch_distance < 0.5 * unchanged.patch_distance
    assert values.structure == pytest.approx(0, abs=0.1)


def test_blotches_on_a_flat_sky_are_found(measures: StyleMeasures) -> None:
    values = measured(measures, style.blotched(style.photograph()), style.photograph())
    assert values.blotchiness is not None
    assert values.blotchiness > 2  # units of CIELAB


def test_what_happens_outside_the_flat_region_is_no_blotch(measures: StyleMeasures) -> None:
    changed = style.photograph()
    changed.paste(style.painting().crop((0, 80, style.WIDTH, style.HEIGHT)), (0, 80))
    values = measured(measures, changed, style.photograph())
    assert values.blotchiness == pytest.approx(0, abs=0.05)


def test_without_a_flat_region_there_is_no_blotchiness(measures: StyleMeasures) -> None:
    assert measured(measures, style.photograph(), style.painting()).blotchiness is None


def test_without_vgg_the_two_network_measures_are_absent(unchanged: StyleValues) -> None:
    alone = StyleMeasures(load_encoder(EncoderSource()).network, None)
    values = measured(alone, style.photograph(), style.photograph())
    assert (values.style_distance, values.structure, values.style_distances) == (None, None, None)
    assert values.patch_distance == unchanged.patch_distance
    assert values.patch_realism == unchanged.patch_realism


def test_equal_pictures_have_equal_values(measures: StyleMeasures) -> None:
    once, again = (measured(measures, style.blotched(style.photograph()), style.photograph()) for _ in range(2))
    assert once == again


@pytest.mark.parametrize(("width", "height"), [(100, 128), (128, 100), (48, 128)])
def test_a_picture_of_another_size_is_refused(measures: StyleMeasures, width: int, height: int) -> None:
    with pytest.raises(UsageError, match=f"got a picture of {width} x {height} pixels; allowed are"):
        measures.photograph(torch.zeros(3, height, width))


def test_a_vgg_that_ends_too_early_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"up to relu4_1; 'short.safetensors' ends at relu3_1"):
        NetworkMeasures(style.narrow_vgg("conv3_1"), "short.safetensors")
