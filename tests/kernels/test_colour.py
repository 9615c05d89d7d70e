"""Luminance, and the preservation of the chroma of the content."""

from __future__ import annotations

import torch

from kt_batch.kernels.colour import luminance, preserve_colour


def pixel(red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.float32).view(3, 1, 1)


def test_the_luminance_of_white_is_one_and_of_green_the_largest_share() -> None:
    torch.testing.assert_close(luminance(pixel(1, 1, 1)), torch.ones(1, 1))
    torch.testing.assert_close(luminance(pixel(0, 1, 0)), torch.full((1, 1), 0.587))
    torch.testing.assert_close(luminance(pixel(1, 0, 0.5)), torch.full((1, 1), 0.299 + 0.057))


def test_an_unchanged_picture_keeps_its_colours(generator: torch.Generator) -> None:
    content = torch.rand(3, 4, 5, generator=generator)
    torch.testing.assert_close(preserve_colour(content, content), content)


def test_the_result_combines_luminance_and_chroma_of_two_images() -> None:
    # Content luminance 0.299 * 0.6 + 0.587 * 0.4 + 0.114 * 0.2 = 0.437; the result is grey 0.5, so 0.063 is added.
    mixed = preserve_colour(pixel(0.5, 0.5, 0.5), pixel(0.6, 0.4, 0.2))
    torch.testing.assert_close(mixed, pixel(0.663, 0.463, 0.263))
    torch.testing.assert_close(luminance(mixed), torch.full((1, 1), 0.5))


def test_values_outside_the_gamut_are_clamped() -> None:
    mixed = preserve_colour(pixel(1, 1, 1), pixel(1, 0, 0))
    assert mixed[0].item() == 1
    assert preserve_colour(pixel(0, 0, 0), pixel(0, 0, 1))[:2].flatten().tolist() == [0, 0]
