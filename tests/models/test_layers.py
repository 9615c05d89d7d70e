"""The receptive field of a cell of VGG-19, computed from its list of layers."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.models.layers import CUT_POINTS, VGG19_LAYERS, Geometry, boxes, geometry, kind, layers_up_to


def vgg19(cut: str) -> Geometry:
    return geometry(layers_up_to(VGG19_LAYERS, cut))


@pytest.mark.parametrize("col", [0, 1, 57])
def test_a_patch_at_relu3_1_sees_28_pixels(col: int) -> None:
    assert vgg19("relu3_1").stride == 4
    assert vgg19("relu3_1").interval(col, 2) == (4 * col - 10, 4 * col + 18)


@pytest.mark.parametrize("col", [0, 1, 57])
def test_a_patch_at_relu4_1_sees_76_pixels(col: int) -> None:
    assert vgg19("relu4_1").stride == 8
    assert vgg19("relu4_1").interval(col, 2) == (8 * col - 30, 8 * col + 46)


def test_a_convolution_sees_its_neighbours() -> None:
    assert geometry(("conv1_1", "relu1_1")) == Geometry(stride=1, first=-1, size=3)


def test_a_pool_sees_the_two_pixels_it_covers() -> None:
    assert geometry(("pool1",)) == Geometry(stride=2, first=0, size=2)


def test_a_convolution_after_a_pool_matches_a_hand_computed_example() -> None:
    # Cell i of the convolution reads cells i-1 to i+1 of the pool, and these the pixels 2i-2 to 2i+3.
    assert geometry(("pool1", "conv2_1")) == Geometry(stride=2, first=-2, size=6)


def test_without_layers_a_cell_is_its_pixel() -> None:
    assert geometry(()) == Geometry(stride=1, first=0, size=1)


def test_boxes_are_clipped_to_the_image() -> None:
    low, high = boxes(np.array([0, 3, 14]), vgg19("relu3_1"), 64)
    assert low.tolist() == [0, 2, 46]
    assert high.tolist() == [18, 30, 64]


def test_every_patch_may_belong_to_a_different_image() -> None:
    low, high = boxes(np.array([1, 1]), vgg19("relu3_1"), np.array([20, 100]))
    assert low.tolist() == [0, 0]
    assert high.tolist() == [20, 22]


def test_every_cut_point_is_a_layer() -> None:
    assert set(CUT_POINTS) <= set(VGG19_LAYERS)
    assert layers_up_to(VGG19_LAYERS, "relu1_1") == ("conv1_1", "relu1_1")
    assert {kind(name) for name in VGG19_LAYERS} == {"conv", "relu", "pool"}
