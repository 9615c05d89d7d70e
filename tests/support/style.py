"""Small photographs and paintings, and a narrow VGG-19 of random weights, for the measures of style."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save
from torch import Tensor

from kt_batch.models.encoder import Encoder
from kt_batch.models.layers import VGG19_LAYERS, kind
from kt_batch.models.vgg19 import FEATURES, vgg19_from_state

WIDTH, HEIGHT = 192, 128
CHANNELS = {"conv1": 8, "conv2": 12, "conv3": 16, "conv4": 24}


def vgg_state(last: str = "conv4_1", channels: Mapping[str, int] = CHANNELS) -> dict[str, Tensor]:
    """Return seeded weights of a VGG-19 up to a convolution, by torchvision's names; a narrow one by default."""
    generator = torch.Generator().manual_seed(0)
    state, width = {}, 3
    for name in (layer for layer in VGG19_LAYERS if kind(layer) == "conv"):
        out = channels[name.partition("_")[0]]
        weight = torch.randn(out, width, 3, 3, generator=generator) * (2 / (9 * width)) ** 0.5
        state[f"features.{FEATURES[name]}.weight"] = weight
        state[f"features.{FEATURES[name]}.bias"] = torch.zeros(out)
        width = out
        if name == last:
            break
    return state


def narrow_vgg(last: str = "conv4_1") -> Encoder:
    """Return that network with reflected borders."""
    return vgg19_from_state(vgg_state(last), {"padding": "reflection"}, "narrow").eval()


def vgg_file(last: str = "conv4_1") -> bytes:
    """Return that network as a weight file."""
    return save(vgg_state(last), {"padding": "reflection"})


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1).contiguous()


def as_picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def photograph(seed: int = 0) -> Image.Image:
    """Return a flat sky above houses of dark and light bricks."""
    random = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), (150, 180, 210), np.uint8)
    bricks = random.integers(20, 235, (HEIGHT // 8, WIDTH // 4, 3))
    pixels[HEIGHT // 2 :] = bricks.repeat(4, axis=0).repeat(4, axis=1)
    return Image.fromarray(pixels)


def painting(seed: int = 1) -> Image.Image:
    """Return a canvas full of short strokes, the warm ones on the left and the cold ones on the right."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (WIDTH, HEIGHT), (120, 100, 80))
    draw = ImageDraw.Draw(picture)
    for _ in range(4000):
        x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
        warm = 220 - 180 * x / WIDTH
        colour = np.clip(np.array([warm, 110, 240 - warm]) + random.normal(0, 35, 3), 0, 255).astype(int)
        draw.line([(x, y), (x + 7, y + random.uniform(-4, 4))], fill=tuple(colour.tolist()), width=2)
    return picture


def blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(2))


def shuffled(picture: Image.Image, tile: int = 32) -> Image.Image:
    """Return a picture whose square tiles have changed places."""
    places = [(x, y) for y in range(0, HEIGHT, tile) for x in range(0, WIDTH, tile)]
    result = Image.new("RGB", picture.size)
    order = np.random.default_rng(3).permutation(len(places))
    for (x, y), other in zip(places, order.tolist(), strict=True):
        from_x, from_y = places[other]
        result.paste(picture.crop((from_x, from_y, from_x + tile, from_y + tile)), (x, y))
    return result


def blotched(picture: Image.Image, seed: int = 2) -> Image.Image:
    """Return a picture with six discs of paint on its upper half."""
    random = np.random.default_rng(seed)
    result = picture.copy()
    draw = ImageDraw.Draw(result)
    for _ in range(6):
        x, y = random.uniform(10, WIDTH - 10), random.uniform(8, HEIGHT // 2 - 8)
        draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=(110, 150, 160))
    return result
