"""Make the figures 2, 4, 6, 7, 8, 9 and 10 of StyleBank (Chen et al. 2017) with the shipped network and banks.

    python benchmarks/stylebank_figures.py SHEETS --added wheatfield.bank.safetensors --branches BRANCHES
    python benchmarks/stylebank_figures.py SHEETS ... --composed docs/images/stylebank_figures.jpg --figures 2 4 9
    python benchmarks/stylebank_branches.py BRANCHES --style PAINTING... --images PHOTOGRAPHS

SHEETS gets one PNG for each figure. Photographs are those of scikit-image, which may be published. Figure 8 needs a
bank that was added to the shipped network for the style image of a shipped one, figure 6 the networks of
`stylebank_branches.py`; each is left out without its option.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from kt_batch.demo.bundled import bundled
from kt_batch.kernels.filter_banks import filtered, fused, mixture
from kt_batch.kernels.regions import like_regions
from kt_batch.methods.features import to_tensor
from kt_batch.models.banks import load_bank, load_network, network_of, shipped_banks
from kt_batch.models.stylebank import EPSILON, STRIDE, AutoEncoder

SIDE = 384  # pixels of the long side of a photograph
WIDTH, GAP, LABEL = 1000, 4, 15  # of a sheet, in pixels
PALETTE = ((230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
BOX = 14  # cells along a patch of figure 2
STRONGEST = 8  # channels of figure 2
PATCHES = {"hair": ("red", 4, 43), "wall": ("lime", 26, 60)}  # colour, row and column of the first cell

Row = list[tuple[str, Image.Image]]  # pictures from left to right, each with its label


class Shipped:
    """The shipped network and its banks by name."""

    def __init__(self) -> None:
        paths = shipped_banks()
        self.banks = {name: load_bank(path) for name, path in paths.items()}
        first = next(iter(paths))
        self.network: AutoEncoder = network_of(paths[first], self.banks[first].header, None)[1].network

    def bank(self, name: str) -> Tensor:
        """Return the bank of a style, `(C, C, k, k)`."""
        return self.banks[name].bank

    def styled(self, features: Tensor, name: str) -> Image.Image:
        """Return the picture of features `(1, C, h, w)` after a style."""
        return picture(self.network.decode(filtered(features, self.bank(name))))


def photograph(name: str) -> Tensor:
    """Return a photograph of scikit-image, `(1, 3, H, W)` in [0, 1]; its sides are multiples of the stride."""
    (image,) = bundled((name,)).values()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    width, height = (side // STRIDE * STRIDE for side in image.size)
    return to_tensor(np.asarray(image.crop((0, 0, width, height)), np.float32) / 255)[None]


def picture(pixels: Tensor) -> Image.Image:
    """Return pixels `(1, 3, H, W)` as a picture."""
    return Image.fromarray((pixels[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def coloured(regions: Tensor) -> Image.Image:
    """Return regions `(H, W)` in the colours of PALETTE."""
    return Image.fromarray(np.array(PALETTE, np.uint8)[regions.numpy()])


# ---- figure 2 --------------------------------------------------------------------------------------------------------


def boxed(image: Image.Image) -> Image.Image:
    """Return a picture with the boxes of PATCHES."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for colour, row, column in PATCHES.values():
        left, top, side = column * STRIDE, row * STRIDE, BOX * STRIDE
        draw.rectangle((left, top, left + side, top + side), outline=colour, width=3)
    return image


def decoded_as(network: AutoEncoder, features: Tensor, whole: Tensor) -> Tensor:
    """Decode features `(1, C, h, w)` with the means and deviations that the whole picture's features have.

    Normalised by its own, a patch in an empty picture would have no colour in common with its place in the whole.
    """
    for number, layer in enumerate(network.decoder):
        features, whole = layer(features), layer(whole)
        mean, variance = whole.mean((2, 3), keepdim=True), whole.var((2, 3), keepdim=True, unbiased=False)
        norm = cast("nn.GroupNorm", network.norms[3 + number])
        weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
        features, whole = (
            ((x - mean) / (variance + EPSILON).sqrt() * weight + bias).clamp_min(0) for x in (features, whole)
        )
    reach = network.out.kernel_size[0] // 2
    return cast("Tensor", network.out(nn.functional.pad(features, (reach,) * 4, mode="replicate")))


def bars(values: Tensor, colour: str, kept: Sequence[int]) -> Image.Image:
    """Return values `(C,)` as bars; those of the kept channels in colour."""
    width, height = 320, 240
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    step, top = width / len(values), float(values.max())
    for channel, value in enumerate(values.tolist()):
        fill = colour if channel in kept else "grey"
        draw.rectangle((channel * step, height - 1 - value / top * (height - 10), (channel + 0.8) * step, height), fill)
    return page


def style_elements(shipped: Shipped) -> list[Row]:
    """Figure 2: two patches of the features alone, through the bank and the decoder; with all channels, and few."""
    pixels = photograph("astronaut.png")
    features, bank = shipped.network.encode(pixels), shipped.bank("wheatfield")
    whole = filtered(features, bank)
    styled = picture(shipped.network.decode(whole))
    rows: list[Row] = []
    for name, (colour, row, column) in PATCHES.items():
        mask = torch.zeros(features.shape[2:])
        mask[row : row + BOX, column : column + BOX] = 1
        responses = features[0, :, row : row + BOX, column : column + BOX].mean((1, 2))
        kept = responses.topk(STRONGEST).indices
        few = torch.zeros(len(responses))
        few[kept] = 1
        alone, sparse = (
            picture(decoded_as(shipped.network, filtered(features * mask * channels, bank), whole))
            for channels in (torch.ones(1, 1, 1, 1), few[None, :, None, None])
        )
        left, top, side = column * STRIDE, row * STRIDE, BOX * STRIDE
        box = (left, top, left + side, top + side)
        cells = [("photograph", boxed(picture(pixels))), ("wheatfield", boxed(styled))]
        cells += [(f"{name}: responses of channels", bars(responses, colour, kept.tolist()))]
        cells += [
            (label, image.crop(box).resize((240, 240), Image.Resampling.NEAREST))
            for label, image in (
                ("its place in the picture", styled), ("the patch alone", alone), (f"its {STRONGEST} channels", sparse),
            )
        ]  # fmt: skip
        rows.append(cells)
    return rows


# ---- the other figures -----------------------------------------------------------------------------------------------


def clusters(shipped: Shipped) -> list[Row]:
    """Figure 4: clusters of the features, and the picture after a style."""
    rows: list[Row] = []
    for name in ("chelsea.png", "coffee.png"):
        pixels = photograph(name)
        features = shipped.network.encode(pixels)
        size = (pixels.shape[2], pixels.shape[3])
        rows.append(
            [
                ("photograph", picture(pixels)),
                ("five clusters of its features", coloured(like_regions(features[0], 5, size))),
                *((style, shipped.styled(features, style)) for style in ("scream", "wheatfield")),
            ]
        )
    return rows


def branches(folder: Path) -> list[Row]:
    """Figure 6: what the auto-encoder gives back after a training without its branch, and with it."""
    pixels = photograph("chelsea.png")
    cells = [("photograph", picture(pixels))]
    for name in ("without", "with"):
        (path,) = (folder / name / "weights").glob("network-*.safetensors")
        cells.append((f"auto-encoder trained {name} its branch", picture(load_network(path).network(pixels))))
    return [cells]


def toy(shipped: Shipped) -> list[Row]:
    """Figure 7: areas of one colour, of one colour in two textures, and of one texture in two colours."""
    width, height = 360, 96
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    fields = (((60, 90, 170), None), ((200, 120, 50), None), ((200, 120, 50), 0), ((200, 120, 50), 1))
    for number, (colour, texture) in enumerate((*fields, ((60, 90, 170), 1))):
        left = number * width // 5
        draw.rectangle((left, 0, left + width // 5, height), colour)
        light = tuple(min(255, channel + 60) for channel in colour)
        for at in range(4, height, 8):
            if texture == 0:
                draw.line((left, at, left + width // 5 - 1, at), light, 3)
            for x in range(left + 4, left + width // 5 - 4, 8) if texture == 1 else ():
                draw.ellipse((x - 2, at - 2, x + 2, at + 2), light)
    features = shipped.network.encode(to_tensor(np.asarray(image, np.float32) / 255)[None])
    return [[("colours and textures", image), *((name, shipped.styled(features, name)) for name in shipped.banks)]]


def added(shipped: Shipped, path: Path) -> list[Row]:
    """Figure 8: a bank that was added to the finished network, beside the one that was trained with it."""
    bank = load_bank(path)
    (joint,) = (name for name, each in shipped.banks.items() if each.header.images.keys() == bank.header.images.keys())
    steps = shipped.banks[joint].header.steps
    rows: list[Row] = []
    for name in ("chelsea.png", "coffee.png"):
        pixels = photograph(name)
        features = shipped.network.encode(pixels)
        late = picture(shipped.network.decode(filtered(features, bank.bank)))
        rows.append(
            [
                ("photograph", picture(pixels)),
                (f"{joint}: added, {bank.header.steps:,} steps", late),
                (f"{joint}: joint, {steps:,} steps", shipped.styled(features, joint)),
            ]
        )
    return rows


def fusion(shipped: Shipped) -> list[Row]:
    """Figure 9: two banks, mixed by weights (eq. 5)."""
    rows: list[Row] = []
    banks = [shipped.bank("scream"), shipped.bank("wheatfield")]
    for name in ("chelsea.png", "rocket.jpg"):
        pixels = photograph(name)
        features = shipped.network.encode(pixels)
        cells = [("photograph", picture(pixels))]
        for weight in (1.0, 0.75, 0.5, 0.25, 0.0):
            bank = mixture(banks, (weight, 1 - weight))
            label = f"{weight:g} scream + {1 - weight:g} wheatfield"
            cells.append((label, picture(shipped.network.decode(filtered(features, bank)))))
        rows.append(cells)
    return rows


def regions(shipped: Shipped) -> list[Row]:
    """Figure 10: clusters of the features, each with a bank of its own (eq. 6)."""
    rows: list[Row] = []
    for name in ("coffee.png",):
        pixels = photograph(name)
        features = shipped.network.encode(pixels)
        cells_of = like_regions(features[0], 2, (features.shape[2], features.shape[3]))
        masks = torch.stack([(cells_of == number).float() for number in (0, 1)])
        fuse = fused(features, [shipped.bank("scream"), shipped.bank("wave")], masks)
        shown = like_regions(features[0], 2, (pixels.shape[2], pixels.shape[3]))
        rows.append(
            [
                ("photograph", picture(pixels)),
                ("two clusters", coloured(shown)),
                *((style, shipped.styled(features, style)) for style in ("scream", "wave")),
                ("scream and wave by cluster", picture(shipped.network.decode(fuse))),
            ]
        )
    return rows


def sheet(title: str, rows: list[Row]) -> Image.Image:
    """Return rows of pictures as one picture with a title."""
    columns = max(len(row) for row in rows)
    width = (WIDTH - GAP * (columns - 1)) // columns
    scaled = [
        [(label, image.resize((width, round(image.height * width / image.width)))) for label, image in row]
        for row in rows
    ]
    heights = [LABEL + GAP + max(image.height for _, image in row) for row in scaled]
    page = Image.new("RGB", (WIDTH, LABEL + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((0, 1), title, fill="black")
    top = LABEL
    for row, height in zip(scaled, heights, strict=True):
        for column, (label, image) in enumerate(row):
            draw.text((column * (width + GAP), top + 1), label, fill="black")
            page.paste(image, (column * (width + GAP), top + LABEL))
        top += height
    return page


def stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Return sheets below each other."""
    whole = Image.new("RGB", (WIDTH, sum(page.height + 2 * GAP for page in pages)), "white")
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height + 2 * GAP
    return whole


@torch.no_grad()
def main() -> None:
    """Write the sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheets", type=Path)
    parser.add_argument("--added", type=Path, help="A bank that was added to the shipped network, for figure 8.")
    parser.add_argument("--branches", type=Path, help="The folder of stylebank_branches.py, for figure 6.")
    parser.add_argument("--figures", type=int, nargs="+", help="Those of the composed picture.")
    parser.add_argument("--composed", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    shipped = Shipped()
    figures: dict[int, tuple[str, Callable[[], list[Row]]]] = {
        2: ("Figure 2: style elements of two patches", lambda: style_elements(shipped)),
        4: ("Figure 4: clusters of features, and pictures", lambda: clusters(shipped)),
        7: ("Figure 7: colours and textures", lambda: toy(shipped)),
        9: ("Figure 9: linear fusion", lambda: fusion(shipped)),
        10: ("Figure 10: fusion by region", lambda: regions(shipped)),
    }
    if given.branches:
        figures[6] = ("Figure 6: the two branches of a training", lambda: branches(given.branches))
    if given.added:
        figures[8] = (
            "Figure 8: an added style, and the same style trained jointly",
            lambda: added(shipped, given.added),
        )
    given.sheets.mkdir(parents=True, exist_ok=True)
    pages = {number: sheet(title, rows()) for number, (title, rows) in sorted(figures.items())}
    for number, page in pages.items():
        page.save(given.sheets / f"figure-{number}.png")
    if given.composed:
        chosen = [pages[number] for number in given.figures or pages]
        stacked(chosen).save(given.composed, quality=68, optimize=True, progressive=True)


if __name__ == "__main__":
    main()
