"""Layouts and compressions of TIFF that Pillow misreads or does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.files import decode
from tests.support.hostile import tiff

HEIGHT, WIDTH = 40, 48
DOWN, ACROSS = np.mgrid[:HEIGHT, :WIDTH]
COLOUR = {
    "minisblack": (ACROSS * 5)[..., None].astype(np.uint8),
    "rgb": np.stack([ACROSS * 5, DOWN * 6, np.full((HEIGHT, WIDTH), 100)], axis=-1).astype(np.uint8),
}
ALPHA = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
ALPHA[20:] = 128


def over_white(colour: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    """Return what a picture shows over white, in [0, 1]."""
    alpha, values = ALPHA / 255, colour / 255
    shown = {"unassalpha": values * alpha + 1 - alpha, "assocalpha": values + 1 - alpha, "unspecified": values}[kind]
    return np.broadcast_to(np.minimum(shown, 1), (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("photometric", COLOUR)
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_transparency_is_read_from_every_layout(
    bits: int, planes: str, photometric: str, kind: str, tile: tuple[int, int] | None, compression: str | None
) -> None:
    values = np.concatenate([COLOUR[photometric], ALPHA], axis=-1)
    if bits == 16:
        values = values.astype(np.uint16) * 257
    if planes == "separate":
        values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    data = tiff(
        values,
        photometric=photometric,
        planarconfig=planes,
        extrasamples=[kind],
        compression=compression,
        tile=tile,
        metadata=None,
    )
    expected = over_white(COLOUR[photometric], kind)
    np.testing.assert_allclose(decode(data, 64).pixels, expected, atol=0.6 / 255)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_planes_are_oriented_like_anything_else(orientation: int) -> None:
    values = np.moveaxis(np.concatenate([COLOUR["minisblack"], ALPHA], axis=-1), -1, 0).copy()
    options = {"planarconfig": "separate", "extrasamples": ["unassalpha"], "metadata": None}
    tags = [(274, "H", 1, orientation, True)]
    image = decode(tiff(values, photometric="minisblack", extratags=tags, **options), 64)
    expected = over_white(COLOUR["minisblack"], "unassalpha")
    turns = {1: 0, 3: 2, 6: -1}[orientation]
    np.testing.assert_allclose(image.pixels, np.rot90(expected, turns), atol=0.6 / 255)


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("alpha", [False, True])
def test_webp_in_a_tiff_is_read(tile: tuple[int, int] | None, alpha: bool) -> None:
    values = np.concatenate([COLOUR["rgb"], ALPHA], axis=-1) if alpha else COLOUR["rgb"]
    options = {"extrasamples": ["unassalpha"]} if alpha else {}
    data = tiff(
        values,
        photometric="rgb",
        compression="webp",
        compressionargs={"level": -1},  # without loss
        tile=tile,
        metadata=None,
        **options,
    )
    expected = over_white(COLOUR["rgb"], "unassalpha" if alpha else "unspecified")
    np.testing.assert_allclose(decode(data, 64).pixels, expected, atol=0.6 / 255)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_webp_in_a_tiff_that_is_cut_is_rejected(kept: float) -> None:
    data = tiff(COLOUR["rgb"], photometric="rgb", compression="webp", metadata=None)
    start = data.index(b"RIFF")
    with pytest.raises(RejectError) as caught:
        decode(data[: start + int(kept * (len(data) - start))], 64)
    assert caught.value.reason == Reason.TRUNCATED


def test_planes_that_lie_beyond_the_end_are_rejected() -> None:
    values = np.moveaxis(np.concatenate([COLOUR["minisblack"], ALPHA], axis=-1), -1, 0).copy()
    data = tiff(values, photometric="minisblack", planarconfig="separate", extrasamples=["unassalpha"], metadata=None)
    with pytest.raises(RejectError, match="the TIFF points beyond its end") as caught:
        decode(data[:-100], 64)
    assert caught.value.reason == Reason.TRUNCATED
