"""The ICC profile of a JPEG XL, which is packed in its codestream.

imagecodecs decodes samples and does not hand over the profile. The libjxl that its wheel brings along does, and is
asked for it here. Source: jxl/decode.h of libjxl 0.11.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs

MAX_PROFILE = 2**22  # bytes
_COLOURS_KNOWN = 0x100  # the event after which the colours can be asked for
_OF_SAMPLES = 1  # the colours of the samples as they are decoded, not those of the original
_SUCCESS = 0
_OLDEST_VERSION = 9000  # 0.9, which dropped an argument


def profile_of(data: bytes) -> bytes | None:
    """Return the ICC profile of the samples; None where there is none, or no library to ask."""
    library = _library()
    if library is None:
        return None
    decoder = library.JxlDecoderCreate(None)
    if not decoder:
        raise MemoryError("libjxl takes no more memory")
    try:
        return _asked(library, decoder, data)
    finally:
        library.JxlDecoderDestroy(decoder)


def _asked(library: Any, decoder: int, data: bytes) -> bytes | None:
    size = ctypes.c_size_t(0)
    library.JxlDecoderSubscribeEvents(decoder, _COLOURS_KNOWN)
    library.JxlDecoderSetInput(decoder, data, len(data))
    library.JxlDecoderCloseInput(decoder)
    if library.JxlDecoderProcessInput(decoder) != _COLOURS_KNOWN:
        return None
    if library.JxlDecoderGetICCProfileSize(decoder, _OF_SAMPLES, ctypes.byref(size)) != _SUCCESS:
        return None
    if not 0 < size.value <= MAX_PROFILE:
        return None
    profile = ctypes.create_string_buffer(size.value)
    if library.JxlDecoderGetColorAsICCProfile(decoder, _OF_SAMPLES, profile, size.value) != _SUCCESS:
        return None
    return profile.raw


@cache
def _library() -> Any:
    """Return the libjxl beside imagecodecs; None where there is none, or an old one."""
    imagecodecs.jpegxl_version()  # loads the library, and those that it needs
    folder = Path(imagecodecs.__file__).parent.with_name("imagecodecs.libs")
    for path in sorted(folder.glob("libjxl-*")):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        if library.JxlDecoderVersion() >= _OLDEST_VERSION:
            library.JxlDecoderCreate.restype = ctypes.c_void_p
            library.JxlDecoderCreate.argtypes = [ctypes.c_void_p]
            library.JxlDecoderDestroy.argtypes = [ctypes.c_void_p]
            library.JxlDecoderSubscribeEvents.argtypes = [ctypes.c_void_p, ctypes.c_int]
            library.JxlDecoderSetInput.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
            library.JxlDecoderCloseInput.argtypes = [ctypes.c_void_p]
            library.JxlDecoderProcessInput.argtypes = [ctypes.c_void_p]
            library.JxlDecoderGetICCProfileSize.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
            library.JxlDecoderGetColorAsICCProfile.argtypes = [
                ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t,
            ]  # fmt: skip
            return library
    return None
