"""Charts in many colour spaces, their ICC profiles, and what a reader must make of them.

The arithmetic is independent of the package: published matrices, curves in float64, and profiles of version 2 with
tables, where the package writes version 4 with parameters.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.hostile import chunk, deep_png, saved, tiff

Values = NDArray[np.float64]

# XYZ of red, green and blue as columns, adapted to D50: Lindbloom's tables, and for the last two those of CSS Color 4.
SRGB_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE_D50 = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)
PROPHOTO_D50 = np.array([[0.7976749, 0.1351917, 0.0313534], [0.2880402, 0.7118741, 0.0000857], [0.0, 0.0, 0.8252100]])
D65_TO_D50 = np.array(
    [[1.0479298, 0.0229468, -0.0501922], [0.0296278, 0.9904345, -0.0170738], [-0.0092431, 0.0150551, 0.7518743]]
)
P3_D50 = D65_TO_D50 @ np.array(
    [[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0.0, 0.0451134, 1.0439444]]
)
REC2020_D50 = D65_TO_D50 @ np.array(
    [[0.6369580, 0.1446169, 0.1688810], [0.2627002, 0.6779981, 0.0593017], [0.0, 0.0280727, 1.0609851]]
)


def srgb_to_light(values: Values) -> Values:
    """Return the light of values with the curve of sRGB."""
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4))


def light_to_srgb(light: Values) -> Values:
    """Return the values with the curve of sRGB of light, which is clipped to [0, 1]."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def bt709_to_light(values: Values) -> Values:
    """Return the light of values with the curve of ITU-R BT.709."""
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


def gamma(exponent: float) -> Callable[[Values], Values]:
    """Return a curve that is a power."""
    return lambda values: np.maximum(values, 0) ** exponent


@dataclass(frozen=True)
class Chart:
    """A colour space. `colorants` is None for grey; `curve` turns values in [0, 1] into light."""

    colorants: Values | None
    curve: Callable[[Values], Values]

    def from_srgb(self, colours: Values) -> Values:
        """Return the values (H, W, 1 | 3) of sRGB colours; the curve is inverted by a table."""
        light = srgb_to_light(colours)
        if self.colorants is None:
            light = light @ SRGB_D50[1][:, None]
        else:
            light = light @ (np.linalg.inv(self.colorants) @ SRGB_D50).T
        places = np.linspace(0, 1, 2**18)
        return np.asarray(np.interp(light, self.curve(places), places))

    def to_srgb(self, values: Values) -> Values:
        """Return the sRGB colours (H, W, 3) of values (H, W, 1 | 3)."""
        light = self.curve(values)
        if self.colorants is None:
            return light_to_srgb(np.repeat(light, 3, axis=2))
        return light_to_srgb(light @ (np.linalg.inv(SRGB_D50) @ self.colorants).T)

    def profile(self, name: str = "any name") -> bytes:
        """Return an ICC profile of the space."""
        return matrix_profile(name, self.colorants, self.curve)


CHARTS: Mapping[str, Chart] = {
    "sRGB": Chart(SRGB_D50, srgb_to_light),
    "Display P3": Chart(P3_D50, srgb_to_light),
    "Adobe RGB": Chart(ADOBE_D50, gamma(563 / 256)),
    "ProPhoto RGB": Chart(PROPHOTO_D50, gamma(1.8)),
    "Rec. 2020": Chart(REC2020_D50, bt709_to_light),
    "Rec. 709": Chart(SRGB_D50, bt709_to_light),
    "linear sRGB": Chart(SRGB_D50, gamma(1.0)),
    "gamma 1.8": Chart(SRGB_D50, gamma(1.8)),
    "gamma 2.2": Chart(SRGB_D50, gamma(2.2)),
    "grey of gamma 2.2": Chart(None, gamma(2.2)),
    "linear grey": Chart(None, gamma(1.0)),
}


def chart_colours() -> Values:
    """Return sRGB colours (48, 64, 3), dark and pale and strong ones, in patches of 8 x 8, which a JPEG keeps."""
    levels = np.array([0.1, 0.35, 0.6, 0.9])
    patches = np.stack(np.meshgrid(levels, levels, levels[:3]), axis=-1).reshape(6, 8, 3)
    return patches.repeat(8, axis=0).repeat(8, axis=1)


def in_bits(values: Values, bits: int) -> NDArray[Any]:
    """Return values in [0, 1] as integers of 8 or 16 bits; a single channel is dropped."""
    whole: NDArray[Any] = np.round(np.clip(values, 0, 1) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    return whole[..., 0] if whole.shape[-1] == 1 else whole


def matrix_profile(name: str, colorants: Values | None, curve: Callable[[Values], Values], points: int = 1024) -> bytes:
    """Return an RGB or grey profile of version 2 whose curves are tables of `points` values."""
    table = np.round(np.clip(curve(np.linspace(0, 1, points)), 0, 1) * 65535).astype(">u2").tobytes()
    trc = b"curv\0\0\0\0" + struct.pack(">I", points) + table
    tags = {b"wtpt": xyz(np.array([0.9642, 1.0, 0.8249]))}
    if colorants is None:
        tags[b"kTRC"] = trc
    else:
        tags |= {name: xyz(colorants[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), trc)
    return profile(name, b"GRAY" if colorants is None else b"RGB ", tags)


def table_profile(chart: Chart, both_ways: bool = True) -> bytes:
    """Return an RGB profile of version 2 that describes a space by tables, to XYZ and, with `both_ways`, back."""
    assert chart.colorants is not None
    ramp = np.linspace(0, 1, 4096)
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(8, 3)
    inverse = np.interp(np.minimum(2 * ramp, 1), chart.curve(np.linspace(0, 1, 2**16)), np.linspace(0, 1, 2**16))
    tags = {b"A2B0": _table(np.eye(3), chart.curve(ramp), corners @ chart.colorants.T / 2, ramp)}
    if both_ways:
        tags[b"B2A0"] = _table(np.asarray(np.linalg.inv(chart.colorants)), ramp, corners, inverse)
    return profile("tables", b"RGB ", {b"wtpt": xyz(np.array([0.9642, 1.0, 0.8249])), **tags})


def _table(matrix: Values, before: Values, grid: Values, after: Values) -> bytes:
    """Return a matrix, a curve for each channel, a grid of 2 x 2 x 2, and a curve for each channel, in 16 bits."""

    def whole(values: Values) -> bytes:
        return np.round(np.clip(values, 0, 1) * 65535).astype(">u2").tobytes()

    head = bytes((3, 3, 2, 0)) + np.round(matrix * 65536).astype(">i4").tobytes() + struct.pack(">2H", 4096, 4096)
    return b"mft2\0\0\0\0" + head + whole(before) * 3 + whole(grid) + whole(after) * 3


def profile(name: str, space: bytes, tags: Mapping[bytes, bytes], version: int = 0x02400000) -> bytes:
    """Return an ICC profile with a description and more tags."""
    text = name.encode() + b"\0"
    all_tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        **tags,
    }
    directory, body = struct.pack(">I", len(all_tags)), b""
    for signature, content in all_tags.items():
        directory += struct.pack(">4sII", signature, 132 + 12 * len(all_tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s", 128 + len(directory) + len(body), version, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + xyz(np.array([0.9642, 1.0, 0.8249]))[8:]
    return header.ljust(128, b"\0") + directory + body


def xyz(values: Values) -> bytes:
    """Return a tag with three numbers."""
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


# ---- files with a profile --------------------------------------------------------------------------------------------


def as_jpeg(values: Values, icc: bytes) -> bytes:
    """Return a JPEG of the best quality."""
    return saved(Image.fromarray(in_bits(values, 8)), "JPEG", quality=100, subsampling=0, icc_profile=icc)


def as_png8(values: Values, icc: bytes) -> bytes:
    """Return a PNG of 8 bits."""
    return saved(Image.fromarray(in_bits(values, 8)), "PNG", icc_profile=icc)


def as_png16(values: Values, icc: bytes) -> bytes:
    """Return a PNG of 16 bits."""
    return deep_png(in_bits(values, 16).astype(np.uint16), iccp(icc))


def as_tiff8(values: Values, icc: bytes) -> bytes:
    """Return a TIFF of 8 bits."""
    return _as_tiff(in_bits(values, 8), icc)


def as_tiff16(values: Values, icc: bytes) -> bytes:
    """Return a TIFF of 16 bits."""
    return _as_tiff(in_bits(values, 16), icc)


def _as_tiff(samples: NDArray[Any], icc: bytes) -> bytes:
    kind = {1: "minisblack", 3: "rgb", 4: "separated"}[1 if samples.ndim == 2 else samples.shape[2]]
    return tiff(samples, photometric=kind, iccprofile=icc, metadata=None)


def as_webp(values: Values, icc: bytes) -> bytes:
    """Return a WebP without loss."""
    return saved(Image.fromarray(in_bits(values, 8)), "WEBP", lossless=True, icc_profile=icc)


def as_bmp(values: Values, icc: bytes) -> bytes:
    """Return a BMP whose header of 124 bytes points to an embedded profile behind the pixels."""
    samples = in_bits(values, 8)
    height, width = samples.shape[:2]
    rows = b"".join(row[:, ::-1].tobytes().ljust((3 * width + 3) // 4 * 4, b"\0") for row in samples[::-1])
    info = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    info += struct.pack("<4I4s36x3I", 0, 0, 0, 0, b"DEBM", 0, 0, 0)
    info += struct.pack("<IIII", 4, 124 + len(rows), len(icc), 0)
    start = 14 + len(info)
    return struct.pack("<2sIHHI", b"BM", start + len(rows) + len(icc), 0, 0, start) + info + rows + icc


def iccp(icc: bytes) -> bytes:
    """Return the chunk iCCP."""
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(icc))


FORMATS: Mapping[str, Callable[[Values, bytes], bytes]] = {
    "JPEG": as_jpeg,
    "PNG of 8 bits": as_png8,
    "PNG of 16 bits": as_png16,
    "TIFF of 8 bits": as_tiff8,
    "TIFF of 16 bits": as_tiff16,
    "WebP": as_webp,
    "BMP": as_bmp,
}


def stored_values(data: bytes) -> Values:
    """Return the values (H, W, channels) in [0, 1] that a JPEG holds, by Pillow and without any conversion."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image, np.float64).reshape(image.height, image.width, -1) / 255
