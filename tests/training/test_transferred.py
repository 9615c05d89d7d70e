"""Lessons in what the method painting hands to decoders."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from kt_batch.kernels.transport import bands
from kt_batch.methods.painting.levels import LAST, LAYERS, encode_levels
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.training.losses import unexplained_variance
from kt_batch.training.painting import new_student
from kt_batch.training.recipes import TRANSFERRED
from kt_batch.training.transferred import POOL, REUSED, Lesson, lesson_losses, lessons, reused, transferred_code

LOADED = load_encoder(EncoderSource())
ENCODER = LOADED.network
DECODERS = {cut: load_decoder(LOADED, "kt-vgg", cut, None).network for cut in LAYERS}
SIDE = 64


def crops(first: int, count: int = 2) -> Tensor:
    """Return pictures `(count, 3, SIDE, SIDE)` of random strokes."""
    generator = torch.Generator().manual_seed(first)
    coarse = torch.rand(count, 3, SIDE // 4, SIDE // 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")


def lesson(cut: str) -> Lesson:
    return next(lessons(ENCODER, DECODERS, cut, iter([crops(1)]), iter([crops(2)])))


@pytest.mark.parametrize("cut", LAYERS)
def test_a_lesson_has_a_code_for_each_pair_and_two_images_to_reconstruct(cut: str) -> None:
    given = lesson(cut)
    side = SIDE // ENCODER.geometry(cut).stride
    assert given.codes.shape == (2, ENCODER.code_channels(cut), side, side)
    assert given.images.equal(torch.stack([crops(1)[0], crops(2)[0]]))
    assert given.paintings.equal(crops(2))
    assert not given.codes.requires_grad


@pytest.mark.parametrize("cut", LAYERS)
def test_a_transferred_code_has_the_moments_of_the_painting(cut: str) -> None:
    photograph, painting = crops(1)[0], crops(2)[0]
    found = bands(transferred_code(ENCODER, DECODERS, cut, photograph, painting)).whole
    own, wanted = (bands(encode_levels(ENCODER, image)[cut]).whole for image in (photograph, painting))
    spread = wanted.deviation.square().sum().sqrt()
    assert (found.mean - wanted.mean).norm() < 0.02 * spread < (own.mean - wanted.mean).norm()


def test_a_photograph_after_itself_keeps_most_of_its_code_at_the_first_level() -> None:
    image = crops(1)[0]
    code = transferred_code(ENCODER, DECODERS, LAYERS[0], image, image)
    own = encode_levels(ENCODER, image)[LAYERS[0]]
    assert unexplained_variance(code[None], own[None]) < 0.2


def test_a_lesson_is_given_several_times_among_others() -> None:
    given = list(itertools.islice(reused(iter(lesson_numbers()), 0), 300))
    assert given[::REUSED] == list(range(100))  # every third is new, and the others have been given before
    assert all(given[place] <= place // REUSED for place in range(300))
    assert all(given[place] > place // REUSED - POOL for place in range(300))
    assert given == list(itertools.islice(reused(iter(lesson_numbers()), 0), 300))


def lesson_numbers() -> list[Lesson]:
    """Return numbers in the place of lessons, which are handed on as they are."""
    return list(range(100))  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", LAYERS)
def test_every_loss_of_a_lesson_has_a_weight_and_reaches_the_decoder(cut: str) -> None:
    student = new_student(LOADED, DECODERS[cut], cut)
    student.standardise(crops(3))
    student.start_from(DECODERS[cut])
    losses = lesson_losses(student, lesson(cut), TRANSFERRED, bfloat16=False)
    lattice = set() if cut == LAST else {"lattice"}  # a decoder of whole pixels makes no grid
    assert set(losses) == {"reconstruction", "content", "style", "outside", "unlike"} | lattice
    for name, value in losses.items():
        assert getattr(TRANSFERRED, name) > 0
        assert value.isfinite()
        (gradient, *_) = torch.autograd.grad(value, list(student.trained().values()), retain_graph=True)
        assert gradient.isfinite().all()
        assert name == "outside" or gradient.abs().max() > 0
