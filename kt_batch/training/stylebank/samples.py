"""Samples of a training: a sheet of photographs in all styles as PNG, and the losses of those pictures as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kt_batch.store.targets import write_file
from kt_batch.training.stylebank.loop import Trainee
from kt_batch.training.stylebank.losses import Perceptual


@torch.no_grad()
def pictures_of(trainee: Trainee, photographs: Tensor) -> list[Tensor]:
    """Return the reconstruction of photographs `(n, 3, H, W)`, then them in each style; not clamped."""
    count = len(photographs)
    styled = [trainee.stylised(photographs, [style] * count) for style in range(len(trainee.names))]
    return [trainee.autoencoder(photographs), *styled]


@torch.no_grad()
def losses_of(
    trainee: Trainee, perceptual: Perceptual, photographs: Tensor, pictures: Sequence[Tensor]
) -> dict[str, dict[str, float]]:
    """Return the losses of pictures of `pictures_of`: of the reconstruction, and of each bank by name."""
    found = {"reconstruction": {"identity": float(F.mse_loss(pictures[0], photographs))}}
    for style, name in enumerate(trainee.names):
        losses = perceptual(pictures[style + 1], photographs, [style] * len(photographs))
        found[name] = {
            "content": float(losses.content),
            "style": float(losses.styles.mean()),
            "variation": float(losses.variation),
        }
    return found


def sheet(columns: Sequence[Tensor]) -> bytes:
    """Return images `(n, 3, H, W)` side by side as a PNG, a row for each of n."""
    rows = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)
    pixels = (rows.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def save_samples(
    folder: Path, step: int, trainee: Trainee, perceptual: Perceptual, photographs: Tensor
) -> Mapping[str, Mapping[str, float]]:
    """Write `<step>.png` (photograph, reconstruction, each style) and `<step>.json`; return the losses."""
    pictures = pictures_of(trainee, photographs)
    losses = losses_of(trainee, perceptual, photographs, pictures)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f"{step:06}.png", sheet([photographs, *pictures]))
    write_file(folder / f"{step:06}.json", (json.dumps({"step": step, "losses": losses}, indent=1) + "\n").encode())
    return losses
