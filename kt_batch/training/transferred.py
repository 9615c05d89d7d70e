"""Train decoders on what the method painting hands them: photographs with features transferred from paintings."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.config import Layer
from kt_batch.kernels.neighbour_field import Field, complete, improve, rebuild
from kt_batch.kernels.transport import bands, transport_bands
from kt_batch.methods.painting.gallery import Source
from kt_batch.methods.painting.levels import LAST, LAYERS, LEVELS, decode_code, encode_levels, flatness
from kt_batch.methods.painting.method import PASSES, RADIUS, Chosen, level_queries, transferred
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder
from kt_batch.training.loop import Student
from kt_batch.training.losses import lattice_error, moment_distance, outside, unexplained_variance, unlikeness
from kt_batch.training.settings import TrainSettings

LIKE_AT: Layer = "relu3_1"  # where patches are compared with those of the painting
REUSED = 3  # uses of a lesson
POOL = 32  # lessons in memory


@dataclass(frozen=True)
class Lesson:
    """One batch: images to reconstruct, codes of photographs after paintings, and those paintings.

    images: `(n, 3, H, W)` RGB in [0, 1]. codes: `(m, C, h, w)` of the cut that is trained. paintings: `(m, 3, H, W)`.
    """

    images: Tensor
    codes: Tensor
    paintings: Tensor


def reused(lessons: Iterator[Lesson], seed: int) -> Iterator[Lesson]:
    """Yield each lesson REUSED times, among POOL others: to make one takes longer than to learn from it."""
    generator = random.Random(seed)  # noqa: S311 - lessons need no cryptography
    pool: list[Lesson] = []
    for lesson in lessons:
        pool = [*pool[-POOL + 1 :], lesson]
        yield lesson
        for _ in range(REUSED - 1):
            yield generator.choice(pool)


def lessons(
    encoder: Encoder,
    decoders: Mapping[str, Decoder],
    cut: str,
    photographs: Iterable[Tensor],
    paintings: Iterable[Tensor],
) -> Iterator[Lesson]:
    """Yield a lesson for each batch of photographs and of paintings, `(n, 3, H, W)` both.

    The first photograph and the first painting of the batch are reconstructed too.
    """
    for ours, theirs in zip(photographs, paintings, strict=False):
        codes = [transferred_code(encoder, decoders, cut, *pair) for pair in zip(ours, theirs, strict=True)]
        yield Lesson(torch.cat([ours[:1], theirs[:1]]), torch.stack(codes), theirs)


@torch.no_grad()
def transferred_code(
    encoder: Encoder, decoders: Mapping[str, Decoder], cut: str, photograph: Tensor, painting: Tensor
) -> Tensor:
    """Return the code `(C, h, w)` that the method painting decodes at a cut.

    photograph, painting: `(3, H, W)` RGB in [0, 1], of the same size. Coarse matches are looked for in all of it.
    """
    own, codes = encode_levels(encoder, photograph), encode_levels(encoder, painting)
    source = Source(codes, {layer: bands(code) for layer, code in codes.items()})
    chosen = Chosen(("",), (source,), (1.0,))
    picture, field = photograph, None
    for level in LEVELS:
        layer, wanted = level.layer, chosen.wanted(level.layer)
        gallery = chosen.gallery(layer, wanted.whole)
        flat = flatness(photograph, encoder.geometry(layer).stride)
        current = encode_levels(encoder, picture, (layer,))[layer]
        queries = level_queries(level, own[layer], current, flat)
        start = field.finer(*flat.shape) if field else complete(queries, gallery, _unknown(flat))
        field, _ = improve(queries, gallery, start, RADIUS, PASSES)
        code = transferred(level, own[layer], flat, wanted, rebuild(gallery, field))
        if layer == cut:
            return code
        picture = decode_code(decoders[layer], code)
    return transport_bands(encode_levels(encoder, picture, (LAST,))[LAST], chosen.wanted(LAST))


def _unknown(flat: Tensor) -> Field:
    """Return a field without matches for a picture of as many cells as `flat`, `(h, w)`."""
    nowhere = torch.full_like(flat[1:, 1:], -1, dtype=torch.int64)
    return Field(nowhere, nowhere, nowhere)


def lesson_losses(student: Student, lesson: Lesson, settings: TrainSettings, bfloat16: bool) -> dict[str, Tensor]:
    """Return the loss terms of one lesson by name."""
    encoder, cut = student.encoder, student.cut
    with torch.autocast(lesson.images.device.type, torch.bfloat16, enabled=bfloat16):
        error = student.decode(encoder.encode_code(lesson.images, cut)).float() - lesson.images
        picture = student.decode(lesson.codes).float()
        codes = _codes(encoder, picture)
        with torch.no_grad():
            wanted = _codes(encoder, lesson.paintings)
    standard = (each / student.deviation for each in (codes[cut], lesson.codes))
    terms = {
        "reconstruction": error.abs().mean(),
        "content": unexplained_variance(*standard),
        "style": torch.stack([moment_distance(codes[layer], wanted[layer]) for layer in LAYERS]).mean(),
        "outside": outside(picture),
        "unlike": unlikeness(codes[LIKE_AT], wanted[LIKE_AT]),
    }
    if settings.lattice and student.decoder.scale > 1:
        terms["lattice"] = lattice_error(picture, student.decoder.scale)
    return terms


def _codes(encoder: Encoder, image: Tensor) -> dict[str, Tensor]:
    found = encoder.activations(image, LAYERS)
    return {layer: encoder.code(layer, found[layer]).float() for layer in LAYERS}
