"""Measure the fidelity of kt-vgg over the width of its code at a layer.

    python benchmarks/code_width.py --paintings DIR --photos DIR --vgg19 FILE --out results/code_width.json

kt-vgg's activations at the layer are projected on the k principal directions of the paintings and choose patches for
held-out photographs; VGG-19 judges the choices, as in `kt-batch bench models`. Only the width of the code varies.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from kt_batch.evaluation.models import fidelity, working_images
from kt_batch.methods.features import to_tensor
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.store.images.files import pad_to
from kt_batch.training.fitting import principal_directions


@torch.no_grad()
def main() -> None:
    """Measure all widths, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paintings", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--vgg19", type=Path, required=True)
    parser.add_argument("--layer", default="relu3_1")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96, 128, 144, 192, 256])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    paintings = working_images([str(options.paintings)], 512, held_out=False, at_most=8)
    photos = working_images([str(options.photos)], 512, held_out=True, at_most=12)
    teacher = load_encoder(EncoderSource("vgg19", str(options.vgg19))).network
    encoder = load_encoder(EncoderSource()).network
    stride = encoder.geometry(options.layer).stride
    batches = [to_tensor(pad_to(image.pixels, stride))[None] for image in paintings]
    directions = principal_directions(encoder, options.layer, batches).float()
    table = {}
    for width in options.widths:
        code = nn.Conv2d(len(directions), width, 1, bias=False)
        code.weight.copy_(directions[:width, :, None, None])
        setattr(encoder, f"code_{options.layer}", code)
        fidelity_of_width = fidelity(encoder, teacher, options.layer, photos, paintings)
        table[width] = {**asdict(fidelity_of_width), "bytes_per_patch": 2 * 4 * width}
        print(width, table[width], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({options.layer: table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
