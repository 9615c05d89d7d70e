"""Show decodings of swapped features on one sheet: 12 pairs, both swaps, kt-vgg and a peer.

    python benchmarks/swap_sheet.py PHOTOGRAPHS PAINTINGS --vgg19 FILE --peer WCT --out docs/images/swaps.jpg
    python benchmarks/swap_sheet.py PHOTOGRAPHS PAINTINGS --vgg19 FILE --peer ADAIN --layer relu4_1 --out ...

The 12 pairs are evenly spaced among all pairs of a photograph and a painting. Columns: photograph, painting, then
geometric and statistics swap, each by kt-vgg and by VGG-19 with the peer's decoder, with exact matching. The
photographs and canvases of `make demo` may be published.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import itertools
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kt_batch.kernels.colour import luminance
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.swap import geometric_swap, statistics_swap
from kt_batch.kernels.tiles import normalise
from kt_batch.methods.features import decode, encode, to_pixels, to_tensor
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.store.images.files import decode as decode_image
from kt_batch.store.images.files import pad_to

PAIRS = 12
SIZE = 384
CELL = 200  # width of a picture on the sheet, pixels


def read(path: Path) -> Tensor:
    """Read an image as `(3, H, W)` in [0, 1], sides multiples of 8."""
    return to_tensor(pad_to(decode_image(path.read_bytes(), SIZE).pixels, 8))


def swapped(encoder: Encoder, decoder: Decoder, layer: str, photo: Tensor, painting: Tensor) -> list[Tensor]:
    """Translate the photograph after the painting, by geometric and by statistics swap."""
    features, style = encode(encoder, photo, layer), encode(encoder, painting, layer)
    height, width = features.shape[1:]
    rows, cols = positions(height, width, 1, cover=True)
    queries = unfold(features, rows, cols)
    library = unfold(style, *positions(style.shape[1], style.shape[2], 1, cover=False))
    matched = library[(queries.flatten(1) @ normalise(library.flatten(1)).T).argmax(1)]
    guide = torch.nn.functional.adaptive_avg_pool2d(luminance(photo)[None], (height, width))[0]
    deviation = library.std(dim=1, correction=0).mean(0)
    statistics = statistics_swap(features, queries, matched, rows, cols, deviation, guide)
    if layer not in encoder.codes:
        statistics = statistics.clamp(min=0)
    geometric = geometric_swap(matched, rows, cols, height, width)
    return [decode(decoder, geometric, features, 0.0), decode(decoder, statistics, features)]  # as --alpha 1


def to_picture(image: Tensor) -> Image.Image:
    """Convert `(3, H, W)` in [0, 1] to a picture CELL pixels wide."""
    picture = Image.fromarray((to_pixels(image) * 255).round().astype("uint8"))
    return picture.resize((CELL, round(picture.height * CELL / picture.width)), Image.Resampling.LANCZOS)


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("paintings", type=Path)
    parser.add_argument("--vgg19", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--layer", default="relu3_1")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    ours, peer = load_encoder(EncoderSource()), load_encoder(EncoderSource("vgg19", options.vgg19))
    layer = options.layer
    decoders = load_decoder(ours, "kt-vgg", layer, None), load_decoder(peer, "vgg19", layer, options.peer)
    sides = [sorted(p for p in folder.rglob("*") if p.is_file()) for folder in (options.photographs, options.paintings)]
    rows = []
    pairs = list(itertools.product(*sides))
    for photo, painting in (pairs[i * len(pairs) // PAIRS] for i in range(PAIRS)):
        images = read(photo), read(painting)
        mine, theirs = (
            swapped(encoder.network, decoder.network, layer, *images)
            for encoder, decoder in zip((ours, peer), decoders, strict=True)
        )
        rows.append([to_picture(image) for image in (*images, mine[0], theirs[0], mine[1], theirs[1])])
    height = sum(max(picture.height for picture in row) + 4 for row in rows)
    sheet = Image.new("RGB", (len(rows[0]) * (CELL + 4), height), "white")
    top = 0
    for row in rows:
        for number, picture in enumerate(row):
            sheet.paste(picture, (number * (CELL + 4), top))
        top += max(picture.height for picture in row) + 4
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out)


if __name__ == "__main__":
    main()
