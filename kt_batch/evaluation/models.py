"""How good encoders and decoders are, side by side in one run: reconstruction, speed, fidelity to a reference."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kt_batch.errors import UsageError
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.tiles import normalise
from kt_batch.methods.knowledge import decode, encode, to_pixels, to_tensor
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, LoadedDecoder, LoadedEncoder, load_decoder, load_encoder
from kt_batch.pipelines.common import Progress, Step, no_progress, plan_items
from kt_batch.store.images.files import WorkingImage, pad_to
from kt_batch.store.images.files import decode as decode_image
from kt_batch.store.inputs import list_inputs, read_input
from kt_batch.training.autoencoder import HELD_OUT

LIBRARY_IMAGES = 8  # of the paintings, evenly spaced, whose patches are chosen from
QUERY_IMAGES = 12  # of the images, evenly spaced, whose patches ask
QUERIES_PER_IMAGE = 500
PATCHES = 250_000  # of all these images at one layer; nearer to the image they are thinned out


@dataclass(frozen=True)
class Pair:
    """An encoder cut at a layer, with a decoder for it. decoder None: the one shipped with the encoder."""

    name: str
    layer: str
    encoder: EncoderSource
    decoder: str | None


@dataclass(frozen=True)
class Fidelity:
    """Does an encoder choose the patches that the reference would choose?

    best_ncc: mean NCC, as the reference sees it, of the best patch; chosen_ncc: of the one this encoder chose; ratio of
    the two; same_patch: share of equal choices; r2: of the linear fit to the reference's cells, fitted on the paintings
    and measured on the images, all channels together.
    """

    best_ncc: float
    chosen_ncc: float
    ratio: float
    same_patch: float
    r2: float


@dataclass(frozen=True)
class Figures:
    """One row of the table. Decibels over all pixels of an image in [0, 1]; seconds are medians over the images."""

    name: str
    layer: str
    channels: int
    images: int
    psnr_mean: float
    psnr_worst: float
    ssim_mean: float
    encode_seconds: float
    decode_seconds: float
    fidelity: Fidelity | None = None


def bench_models(
    images: Sequence[str],
    paintings: Sequence[str],
    pairs: Sequence[Pair],
    reference: EncoderSource | None,
    *,
    size: int,
    held_out: bool,
    threads: int,
    progress: Progress,
) -> list[Figures]:
    """One row for each pair, all measured on the same images in turn.

    held_out: of the images only those that no training of ours has seen. Without `reference` there is no fidelity.
    Raises UsageError when no image is left.
    """
    torch.set_num_threads(threads)
    working = working_images(images, size, held_out=held_out)
    models = [_load(pair) for pair in pairs]
    rows = _reconstruction(pairs, models, working, progress)
    if reference is None:
        return rows
    library = working_images(paintings, size, held_out=False, at_most=LIBRARY_IMAGES)
    judge = load_encoder(reference).network
    found: dict[tuple[EncoderSource, str], Fidelity] = {}
    asking = working_images(images, size, held_out=held_out, at_most=QUERY_IMAGES)
    for number, (pair, (encoder, _)) in enumerate(zip(pairs, models, strict=True), start=1):
        if (pair.encoder, pair.layer) not in found:
            found[pair.encoder, pair.layer] = fidelity(encoder.network, judge, pair.layer, asking, library)
        progress(Step("fidelity", number, len(pairs)))
    return [replace(row, fidelity=found[p.encoder, p.layer]) for row, p in zip(rows, pairs, strict=True)]


def _load(pair: Pair) -> tuple[LoadedEncoder, LoadedDecoder]:
    encoder = load_encoder(pair.encoder)
    return encoder, load_decoder(encoder, pair.encoder.name, pair.layer, pair.decoder)


def working_images(
    images: Sequence[str], size: int, *, held_out: bool, at_most: int | None = None
) -> list[WorkingImage]:
    """The images, or `at_most` of them evenly spaced, decoded. Raises UsageError for none, RejectError."""
    items = plan_items(list_inputs(images), no_progress)
    chosen = [item for item in items if not held_out or item.image_id.startswith(HELD_OUT)]
    if not chosen:
        raise UsageError(f"{', '.join(images)}: none of the {len(items)} images is held out of training.")
    count = min(at_most or len(chosen), len(chosen))
    return [decode_image(read_input(chosen[i * len(chosen) // count].uri), size) for i in range(count)]


def _reconstruction(
    pairs: Sequence[Pair],
    models: Sequence[tuple[LoadedEncoder, LoadedDecoder]],
    images: Sequence[WorkingImage],
    progress: Progress,
) -> list[Figures]:
    """Every image goes through all pairs before the next one does, so that a busy machine slows all alike."""
    measured: list[list[tuple[float, float, float, float]]] = [[] for _ in pairs]
    for number, image in enumerate(images, start=1):
        for row, pair, (encoder, decoder) in zip(measured, pairs, models, strict=True):
            if number == 1:  # the first call of a network sets up its kernels
                _once(encoder, decoder, pair.layer, image)
            row.append(_once(encoder, decoder, pair.layer, image))
        progress(Step("reconstruction", number, len(images)))
    return [
        _figures(pair, encoder, np.array(row)) for pair, (encoder, _), row in zip(pairs, models, measured, strict=True)
    ]


def _once(
    encoder: LoadedEncoder, decoder: LoadedDecoder, layer: str, image: WorkingImage
) -> tuple[float, float, float, float]:
    """PSNR, SSIM, seconds to encode and to decode."""
    pixels = to_tensor(pad_to(image.pixels, encoder.network.geometry(layer).stride))
    started = time.perf_counter()
    features = encode(encoder.network, pixels, layer)
    encoded = time.perf_counter()
    restored = decode(decoder.network, features)
    ended = time.perf_counter()
    back = to_pixels(restored)[: image.height, : image.width]
    psnr, ssim = likeness(image.pixels, back)
    return psnr, ssim, encoded - started, ended - encoded


def likeness(image: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """PSNR in dB and SSIM of two `(H, W, 3)` float images in [0, 1]. Raises UsageError without scikit-image."""
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError as error:
        raise UsageError("kt-batch bench needs scikit-image: install kt_batch[demo].") from error
    psnr = peak_signal_noise_ratio(image, other, data_range=1)
    return float(psnr), float(structural_similarity(image, other, data_range=1, channel_axis=2))


def _figures(pair: Pair, encoder: LoadedEncoder, measured: np.ndarray) -> Figures:
    psnr, ssim, encoding, decoding = measured.T
    return Figures(
        name=pair.name,
        layer=pair.layer,
        channels=encoder.network.channels_at(pair.layer),
        images=len(measured),
        psnr_mean=round(float(psnr.mean()), 2),
        psnr_worst=round(float(psnr.min()), 2),
        ssim_mean=round(float(ssim.mean()), 4),
        encode_seconds=round(float(np.median(encoding)), 4),
        decode_seconds=round(float(np.median(decoding)), 4),
    )


def fidelity(
    encoder: Encoder, reference: Encoder, layer: str, images: Sequence[WorkingImage], paintings: Sequence[WorkingImage]
) -> Fidelity:
    """Images ask, paintings answer; both choices are judged by the reference's own NCC."""
    ours, theirs = (
        (_maps(network, paintings, layer), _maps(network, images, layer)) for network in (encoder, reference)
    )
    queries = _unit_patches(theirs[1])
    generator = torch.Generator().manual_seed(0)
    prepared_queries = torch.randperm(len(queries), generator=generator)[: QUERIES_PER_IMAGE * len(images)]
    library = _unit_patches(theirs[0])
    best = _nearest(queries[prepared_queries], library)
    chosen = _nearest(_unit_patches(ours[1])[prepared_queries], _unit_patches(ours[0]))
    best_ncc, chosen_ncc = (float((queries[prepared_queries] * library[rows]).sum(1).mean()) for rows in (best, chosen))
    return Fidelity(
        best_ncc=round(best_ncc, 4),
        chosen_ncc=round(chosen_ncc, 4),
        ratio=round(chosen_ncc / best_ncc, 4),
        same_patch=round(float((best == chosen).float().mean()), 4),
        r2=round(linear_fit_r2(ours[0], theirs[0], ours[1], theirs[1]), 4),
    )


def _maps(encoder: Encoder, images: Sequence[WorkingImage], layer: str) -> list[Tensor]:
    stride = encoder.geometry(layer).stride
    return [encode(encoder, to_tensor(pad_to(image.pixels, stride)), layer) for image in images]


def _unit_patches(maps: list[Tensor]) -> Tensor:
    """Every patch, or every second, third, ... of each axis where there would be more than PATCHES."""
    cells = sum(m.shape[1] * m.shape[2] for m in maps)
    step = math.ceil(math.sqrt(cells / PATCHES))
    return normalise(torch.cat([unfold(m, *positions(m.shape[1], m.shape[2], step, False)).flatten(1) for m in maps]))


def _nearest(queries: Tensor, library: Tensor) -> Tensor:
    return torch.cat([(part @ library.T).argmax(1) for part in queries.split(512)])


def linear_fit_r2(
    ours: list[Tensor], theirs: list[Tensor], ours_test: list[Tensor], theirs_test: list[Tensor]
) -> float:
    """R2, all channels together, of the least-squares map with a constant term from our maps `(C, h, w)` to theirs."""

    def cells(maps: list[Tensor]) -> Tensor:
        return torch.cat([m.flatten(1).T for m in maps]).double()

    def with_one(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)

    x, y = with_one(cells(ours)), cells(theirs)
    weights = torch.linalg.solve(x.T @ x + 1e-6 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    target = cells(theirs_test)
    error = (with_one(cells(ours_test)) @ weights - target).square().sum()
    return float(1 - error / (target - target.mean(0)).square().sum())
