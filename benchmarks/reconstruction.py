"""How well photographs come back through encoder and decoder: kt-vgg beside a peer, in one run.

    python benchmarks/reconstruction.py --images CONTENT_DIR --vgg19 FILE --wct FILE --out results/reconstruction.json

Only photographs held out of kt-vgg's training are used (image id begins with 0). The peer is WCT's decoder for relu3_1
of the normalised VGG-19 (Li et al. 2017), both as safetensors; without them kt-vgg stands alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import kt_batch  # noqa: F401 - before torch, so that its threads wait asleep
from kt_batch.methods.knowledge import decode, encode, to_pixels, to_tensor
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.train import HELD_OUT
from kt_batch.store.images import decode as decode_image
from kt_batch.store.images import image_id, pad_to

LAYER = "relu3_1"


def measure(encoder: Encoder, decoder: Decoder, files: list[Path]) -> dict[str, float]:
    """PSNR (dB) and SSIM at 512 px, and the median seconds of one encode and decode."""
    psnr, ssim, seconds = [], [], []
    for file in files:
        working = decode_image(file.read_bytes(), 512)
        image = to_tensor(pad_to(working.pixels, encoder.geometry(LAYER).stride))
        started = time.perf_counter()
        with torch.no_grad():
            back = decode(decoder, encode(encoder, image, LAYER))
        seconds.append(time.perf_counter() - started)
        pixels = to_pixels(back)[: working.height, : working.width]
        psnr.append(peak_signal_noise_ratio(working.pixels, pixels, data_range=1))
        ssim.append(structural_similarity(working.pixels, pixels, data_range=1, channel_axis=2))
    return {
        "images": len(files),
        "psnr_mean": round(float(np.mean(psnr)), 2),
        "psnr_worst": round(float(np.min(psnr)), 2),
        "ssim_mean": round(float(np.mean(ssim)), 4),
        "seconds_median": round(float(np.median(seconds)), 3),
    }


def main() -> None:
    """Print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--vgg19", type=Path)
    parser.add_argument("--wct", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files = [file for file in sorted(options.images.iterdir()) if image_id(file.read_bytes()).startswith(HELD_OUT)]
    ours = load_encoder(EncoderSource())
    table = {"kt-vgg": measure(ours.network, load_decoder(ours, "kt-vgg", LAYER, None).network, files)}
    if options.vgg19 and options.wct:
        peer = load_encoder(EncoderSource("vgg19", str(options.vgg19)))
        decoder = load_decoder(peer, "vgg19", LAYER, str(options.wct))
        table["VGG-19 + WCT"] = measure(peer.network, decoder.network, files)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
