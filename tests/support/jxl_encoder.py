"""JPEG XL with an ICC profile, by the libjxl beside imagecodecs, which itself writes no profile."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

_UINT8, _UINT16 = 2, 3  # kinds of samples


class _BasicInfo(ctypes.Structure):
    """JxlBasicInfo of jxl/codestream_header.h."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("have_container", "width", "height", "bits", "exponent_bits")),
        *((name, ctypes.c_float) for name in ("intensity_target", "min_nits")),
        ("relative_to_max_display", ctypes.c_int),
        ("linear_below", ctypes.c_float),
        *((name, ctypes.c_uint32) for name in ("uses_original_profile", "have_preview", "have_animation")),
        *((name, ctypes.c_uint32) for name in ("orientation", "channels", "further_channels")),
        ("rest", ctypes.c_uint8 * 256),
    )


class _PixelFormat(ctypes.Structure):
    _fields_ = (
        ("channels", ctypes.c_uint32),
        ("kind", ctypes.c_int),
        ("order", ctypes.c_int),
        ("align", ctypes.c_size_t),
    )


@cache
def _library() -> Any:
    imagecodecs.jpegxl_version()  # loads the library
    folder = Path(imagecodecs.__file__).parent.with_name("imagecodecs.libs")
    paths = sorted(folder.glob("libjxl-*"))
    if not paths:
        pytest.skip("imagecodecs was built here without a libjxl of its own")
    library = ctypes.CDLL(str(paths[0]))
    for name in ("JxlEncoderCreate", "JxlEncoderFrameSettingsCreate"):
        getattr(library, name).restype = ctypes.c_void_p
    library.JxlEncoderSetFrameDistance.argtypes = [ctypes.c_void_p, ctypes.c_float]
    return library


def jxl_with_profile(samples: NDArray[Any], profile: bytes, lossless: bool = True) -> bytes:
    """Return grey or RGB samples of 8 or 16 bits as a JPEG XL with an ICC profile."""
    library = _library()
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else 3
    encoder = ctypes.c_void_p(library.JxlEncoderCreate(None))
    info = _BasicInfo()
    library.JxlEncoderInitBasicInfo(ctypes.byref(info))
    info.width, info.height, info.bits, info.channels = width, height, 8 * samples.itemsize, channels
    info.uses_original_profile = int(lossless)
    assert library.JxlEncoderSetBasicInfo(encoder, ctypes.byref(info)) == 0
    assert library.JxlEncoderSetICCProfile(encoder, profile, ctypes.c_size_t(len(profile))) == 0
    settings = ctypes.c_void_p(library.JxlEncoderFrameSettingsCreate(encoder, None))
    if lossless:
        assert library.JxlEncoderSetFrameLossless(settings, 1) == 0
    else:
        assert library.JxlEncoderSetFrameDistance(settings, 0.1) == 0
    kind = _PixelFormat(channels, _UINT8 if samples.itemsize == 1 else _UINT16, 0, 0)
    pixels = np.ascontiguousarray(samples)
    place = pixels.ctypes.data_as(ctypes.c_void_p)
    assert library.JxlEncoderAddImageFrame(settings, ctypes.byref(kind), place, ctypes.c_size_t(pixels.nbytes)) == 0
    library.JxlEncoderCloseInput(encoder)
    out = ctypes.create_string_buffer(4 * pixels.nbytes + 2**20)
    following, left = ctypes.c_void_p(ctypes.addressof(out)), ctypes.c_size_t(len(out))
    assert library.JxlEncoderProcessOutput(encoder, ctypes.byref(following), ctypes.byref(left)) == 0
    library.JxlEncoderDestroy(encoder)
    return out.raw[: len(out) - left.value]
