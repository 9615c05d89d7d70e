"""Compare `gatys_refined` with `gatys`: processor seconds, and the losses of both at gatys' layers, on the same pairs.

python benchmarks/gatys_refined.py --pair PHOTOGRAPH PAINTING [--pair ...] [--size 160] [--iterations 100] [--out FILE]

Both methods begin with the photograph, with one thread and the same number of iterations, one after the other. The
losses are those of `gatys` for any picture: its style loss (the mean over four layers) and its content loss. The
layers alone are measured by the refined loss under the optimiser of `gatys`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kt_batch.config import EncoderConfig
from kt_batch.kernels.gram import content_loss, gram
from kt_batch.methods.base import Resources, Result, SourceProvenance
from kt_batch.methods.features import to_pixels, to_tensor
from kt_batch.methods.gatys import CONTENT, STYLE, Gatys, GatysConfig, Wanted, activations, minimised, styles_loss
from kt_batch.methods.gatys_refined import GatysRefined, GatysRefinedConfig
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.store.images.files import decode, encode, pad_to

STYLE_ID = "0" * 16


def read(path: str, size: int) -> Tensor:
    """Return an image `(3, H, W)` with sides that are multiples of 8."""
    return to_tensor(pad_to(decode(Path(path).read_bytes(), size).pixels, 8))


@torch.no_grad()
def losses(encoder: Encoder, picture: Tensor, photograph: Tensor, painting: Tensor) -> dict[str, float]:
    """Return the style and content losses of a picture at gatys' layers."""
    found, content, style = (activations(encoder, each, STYLE, "average") for each in (picture, photograph, painting))
    wanted = Wanted([{layer: gram(style[layer]) for layer in STYLE}], [1.0])
    kept = content_loss(found[CONTENT], content[CONTENT]) / content[CONTENT].numel()
    return {"style_loss": float(styles_loss(found, wanted)), "content_loss": float(kept)}


def methods(painting: Tensor, size: int, iterations: int) -> tuple[Encoder, dict[str, Any]]:
    """Return the encoder, and the methods by name."""
    loaded = load_encoder(EncoderSource())
    encoder = EncoderConfig(weights_sha256=loaded.sha256, layer="relu4_1", size=size)
    common: dict[str, Any] = {"encoder": encoder, "styles": (STYLE_ID,), "iterations": iterations}
    resources = Resources(loaded.network, styles={STYLE_ID: painting})
    refined = GatysRefined(GatysRefinedConfig(**common), resources)
    return loaded.network, {
        "gatys": Gatys(GatysConfig(**common), resources),
        "gatys_refined": refined,
        "gatys_refined, b = 1000": GatysRefined(GatysRefinedConfig(**common, style_weight=1000.0), resources),
        "three layers, L-BFGS": ThreeLayers(refined),
    }


class ThreeLayers:
    """The loss of `gatys_refined` under L-BFGS, the optimiser of `gatys`."""

    def __init__(self, refined: GatysRefined) -> None:
        self.refined = refined

    def translate(self, image: Tensor) -> Result:
        """Translate one image `(3, H, W)`."""
        loss = self.refined._loss(image, self.refined.mixes.parts(None))  # noqa: SLF001 - the loss is what is measured
        output = minimised(image, loss, "lbfgs", self.refined.config.iterations)
        return Result(output, SourceProvenance({}), {})


def measured(pair: tuple[str, str], size: int, iterations: int, pictures: Path | None) -> dict[str, Any]:
    """Return the figures of all methods on one pair."""
    photograph, painting = (read(path, size) for path in pair)
    encoder, made = methods(painting, size, iterations)
    figures: dict[str, Any] = {"photograph": losses(encoder, photograph, photograph, painting)}
    for name, method in made.items():
        started = time.process_time()
        output = cast("Tensor", method.translate(photograph).output)
        seconds = time.process_time() - started
        figures[name] = {"processor_seconds": round(seconds, 2), **losses(encoder, output, photograph, painting)}
        if pictures:
            stems = "__".join(Path(path).stem for path in pair)
            (pictures / f"{stems}__{name.replace(', ', '-').replace(' ', '')}.png").write_bytes(
                encode(to_pixels(output), "png", 100)
            )
    return {"pair": [Path(path).name for path in pair], "pixels": list(photograph.shape[1:]), "figures": figures}


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", nargs=2, action="append", required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    if wanted.pictures:
        wanted.pictures.mkdir(parents=True, exist_ok=True)
    pairs = [measured(tuple(pair), wanted.size, wanted.iterations, wanted.pictures) for pair in wanted.pair]
    text = json.dumps({"iterations": wanted.iterations, "threads": 1, "pairs": pairs}, indent=1)
    print(text)
    if wanted.out:
        wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
