"""The settings of a painting change it as they say, by the measures of style, on drawn pictures."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kt_batch.evaluation.style.network import NetworkMeasures, structure
from kt_batch.evaluation.style.pixels import patch_curves, patch_distances
from kt_batch.kernels.smooth import box_mean
from kt_batch.methods.base import LevelProvenance
from kt_batch.methods.painting.levels import LEVELS
from tests.methods.painting.test_painting import RED, painter
from tests.support.style import as_tensor, narrow_vgg, painting, photograph

PHOTOGRAPH, PAINTING = as_tensor(photograph()), as_tensor(painting())


def pictures(**settings: Sequence[object]) -> list[Tensor]:
    """Return the photograph after the painting, with each value of one setting."""
    ((name, values),) = settings.items()
    return [torch.as_tensor(painter({RED: PAINTING}, **{name: value}).translate(PHOTOGRAPH).output) for value in values]


def distances(outputs: list[Tensor]) -> list[float]:
    """Return the mean patch distance of each picture from the painting."""
    wanted = patch_curves(PAINTING)
    found = [patch_distances(patch_curves(output), wanted) for output in outputs]
    return [sum(each) / len(each) for each in found]


def test_strength_goes_from_the_photograph_to_the_painting_without_a_turn() -> None:
    """At every step the picture is nearer to the painting in style, and less like the photograph in structure."""
    outputs = pictures(strength=(0.0, 0.25, 0.5, 0.75, 1.0))
    network = NetworkMeasures(narrow_vgg(), "narrow")
    own = network.see(PHOTOGRAPH)
    kept = [structure(network.see(output), own) for output in outputs]
    style = distances(outputs)
    assert kept[0] == pytest.approx(1)
    assert style == sorted(style, reverse=True)
    assert kept == sorted(kept, reverse=True)
    assert style[2] < style[0] - 0.25 * (style[0] - style[4])  # half of the strength is no small change


def test_fewer_levels_are_another_picture_of_the_same_style() -> None:
    full, fast = pictures(levels=(3, 1))
    plain, *near = distances([PHOTOGRAPH, full, fast])
    assert not full.equal(fast)
    assert max(near) < 0.6 * plain


def test_the_levels_that_are_left_out_are_still_matched_and_recorded() -> None:
    provenance = painter({RED: PAINTING}, levels=1).translate(PHOTOGRAPH).provenance
    assert isinstance(provenance, LevelProvenance)
    assert list(provenance.levels) == [level.layer for level in LEVELS]


def test_without_brushwork_flat_parts_have_no_strokes() -> None:
    """The sky of the photograph is of one colour: strokes are what differs there from the mean over 9 x 9 pixels."""
    painted, calm = pictures(brushwork=(True, False))
    strokes = [float((output - box_mean(output, 4))[:, 8:40].std()) for output in (painted, calm)]
    assert strokes[1] < 0.2 * strokes[0]
