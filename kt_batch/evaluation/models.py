"""Compare encoders and decoders in one run: reconstruction, speed, fidelity to a reference."""

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
from kt_batch.methods.features import decode, encode, to_pixels, to_tensor
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, LoadedDecoder, LoadedEncoder, load_decoder, load_encoder
from kt_batch.pipelines.inputs import find_images, plan_items
from kt_batch.pipelines.progress import Progress, Step, no_progress
from kt_batch.store.images.files import WorkingImage, pad_to
from kt_batch.store.images.files import decode as decode_image
from kt_batch.store.inputs import read_input
from kt_batch.training.recipes import HELD_OUT

LIBRARY_IMAGES = 8  # paintings, evenly spaced, whose patches form the library
QUERY_IMAGES = 12  # images, evenly spaced, whose patches are the queries
QUERIES_PER_IMAGE = 500
PATCHES = 250_000  # at one layer, of all images of one kind; denser layers are subsampled


@dataclass(frozen=True)
class Pair:
    """An encoder cut at a layer, and the weight file of a decoder for it; None: the shipped decoder."""

    name: str
    layer: str
    encoder: EncoderSource
    decoder: str | None


@dataclass(frozen=True)
class Fidelity:
    """Agreement of an encoder with the reference on the best patches.

    Attributes:
        best_ncc: Mean NCC of the reference's best patches, in the reference's features.
        chosen_ncc: Mean NCC of this encoder's best patches, in the reference's features.
        ratio: chosen_ncc / best_ncc.
        same_patch: Share of queries with the same best patch.
        r2: Of a linear fit to the reference's cells, over all channels: fitted on paintings, measured on images.
    """

    best_ncc: float
    chosen_ncc: float
    ratio: float
    same_patch: float
    r2: float


@dataclass(frozen=True)
class Figures:
    """One row of the table. PSNR is in dB over all pixels of an image; seconds are medians over the images."""

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
    """Measure all pairs on the same images.

    Args:
        images: Paths, globs or URIs of the images to restore; patches of some are the queries of the fidelity.
        paintings: Images of the fidelity's library.
        pairs: What to compare.
        reference: Judges the fidelity; None: fidelity is not measured.
        size: Long side of the working images.
        held_out: Use only images outside the training set of kt-vgg.
        threads: Of this process.
        progress: Called after every image and every pair.

    Returns:
        One row for each pair.

    Raises:
        UsageError: If no image is left.
    """
    torch.set_num_threads(threads)
    working = working_images(images, size, held_out=held_out)
    models = [_load(pair) for pair in pairs]
    rows = _reconstruction(pairs, models, working, progress)
    if reference is None:
        return rows
    library = working_images(paintings, size, held_out=False, at_most=LIBRARY_IMAGES)
    judge = load_encoder(reference).network
    measured: dict[tuple[EncoderSource, str], Fidelity] = {}
    queries = working_images(images, size, held_out=held_out, at_most=QUERY_IMAGES)
    for number, (pair, (encoder, _)) in enumerate(zip(pairs, models, strict=True), start=1):
        if (pair.encoder, pair.layer) not in measured:
            measured[pair.encoder, pair.layer] = fidelity(encoder.network, judge, pair.layer, queries, library)
        progress(Step("fidelity", number, len(pairs)))
    return [replace(row, fidelity=measured[p.encoder, p.layer]) for row, p in zip(rows, pairs, strict=True)]


def _load(pair: Pair) -> tuple[LoadedEncoder, LoadedDecoder]:
    encoder = load_encoder(pair.encoder)
    return encoder, load_decoder(encoder, pair.encoder.name, pair.layer, pair.decoder)


def working_images(
    images: Sequence[str], size: int, *, held_out: bool, at_most: int | None = None
) -> list[WorkingImage]:
    """Decode the images, or `at_most` of them, evenly spaced.

    Raises:
        UsageError: If no image is left.
        RejectError: If one cannot be read.
    """
    items = plan_items(find_images(images, (), no_progress).inputs, no_progress)
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
    """Restore each image by all pairs before the next image, so that a busy machine slows all pairs alike."""
    measured: list[list[tuple[float, float, float, float]]] = [[] for _ in pairs]
    for number, image in enumerate(images, start=1):
        for row, pair, (encoder, decoder) in zip(measured, pairs, models, strict=True):
            if number == 1:  # warm-up
                _restore(encoder, decoder, pair.layer, image)
            row.append(_restore(encoder, decoder, pair.layer, image))
        progress(Step("reconstruction", number, len(images)))
    return [
        _figures(pair, encoder, np.array(row)) for pair, (encoder, _), row in zip(pairs, models, measured, strict=True)
    ]


def _restore(
    encoder: LoadedEncoder, decoder: LoadedDecoder, layer: str, image: WorkingImage
) -> tuple[float, float, float, float]:
    """Return PSNR, SSIM, and the seconds to encode and to decode."""
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
    """Return PSNR in dB and SSIM of two `(H, W, 3)` float images in [0, 1]. Raises UsageError without scikit-image."""
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
    """Match patches of the images with patches of the paintings; the reference's NCC judges both encoders' choices."""
    (own_library, own_images), (library_maps, image_maps) = (
        (_maps(network, paintings, layer), _maps(network, images, layer)) for network in (encoder, reference)
    )
    queries = _unit_patches(image_maps)
    generator = torch.Generator().manual_seed(0)
    chosen_queries = torch.randperm(len(queries), generator=generator)[: QUERIES_PER_IMAGE * len(images)]
    queries, library = queries[chosen_queries], _unit_patches(library_maps)
    best = _nearest(queries, library)
    chosen = _nearest(_unit_patches(own_images)[chosen_queries], _unit_patches(own_library))
    best_ncc, chosen_ncc = (float((queries * library[rows]).sum(1).mean()) for rows in (best, chosen))
    return Fidelity(
        best_ncc=round(best_ncc, 4),
        chosen_ncc=round(chosen_ncc, 4),
        ratio=round(chosen_ncc / best_ncc, 4),
        same_patch=round(float((best == chosen).float().mean()), 4),
        r2=round(linear_fit_r2(own_library, library_maps, own_images, image_maps), 4),
    )


def _maps(encoder: Encoder, images: Sequence[WorkingImage], layer: str) -> list[Tensor]:
    stride = encoder.geometry(layer).stride
    return [encode(encoder, to_tensor(pad_to(image.pixels, stride)), layer) for image in images]


def _unit_patches(maps: list[Tensor]) -> Tensor:
    """Return all normalised patches `(n, 4C)`, or every second, third, ... along each axis to stay near PATCHES."""
    cells = sum(m.shape[1] * m.shape[2] for m in maps)
    step = math.ceil(math.sqrt(cells / PATCHES))
    return normalise(torch.cat([unfold(m, *positions(m.shape[1], m.shape[2], step, False)).flatten(1) for m in maps]))


def _nearest(queries: Tensor, library: Tensor) -> Tensor:
    return torch.cat([(part @ library.T).argmax(1) for part in queries.split(512)])


def linear_fit_r2(
    inputs: list[Tensor], targets: list[Tensor], test_inputs: list[Tensor], test_targets: list[Tensor]
) -> float:
    """Return R2 over all channels of a least-squares map, with a constant term, from input to target maps `(C, h, w)`.

    It is fitted to the first two lists and measured on the others.
    """

    def cells(maps: list[Tensor]) -> Tensor:
        return torch.cat([m.flatten(1).T for m in maps]).double()

    def with_one(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)

    x, y = with_one(cells(inputs)), cells(targets)
    weights = torch.linalg.solve(x.T @ x + 1e-6 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    target = cells(test_targets)
    error = (with_one(cells(test_inputs)) @ weights - target).square().sum()
    return float(1 - error / (target - target.mean(0)).square().sum())
