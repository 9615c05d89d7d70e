"""Style images: identified by the driver, and read by a worker when its method asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kt_batch.config import SMALLEST_SIZE
from kt_batch.errors import MismatchError, RejectError
from kt_batch.methods.features import to_tensor
from kt_batch.store.images.files import WorkingImage, decode, image_id, pad_to
from kt_batch.store.inputs import Input, read_input


@dataclass(frozen=True)
class StyleImage:
    """A style image: 16 hex digits, and where its file is."""

    image_id: str
    uri: str


def identify_styles(inputs: Sequence[Input]) -> tuple[StyleImage, ...]:
    """Return the style images by ascending image id; equal images count once.

    Raises RejectError when one cannot be used.
    """
    styles = {}
    for source in reversed(inputs):
        data = read_input(source.uri)
        _decode_style(source.uri, data, SMALLEST_SIZE)
        styles[image_id(data)] = source.uri
    return tuple(StyleImage(identity, uri) for identity, uri in sorted(styles.items()))


def _decode_style(uri: str, data: bytes, size: int) -> WorkingImage:
    try:
        return decode(data, size)
    except RejectError as error:
        raise RejectError(error.reason, f"The style image '{uri}' cannot be used: {error.message}") from error


class StyleImages(Mapping[str, Tensor]):
    """Style images by id; each is read when it is asked for, so that memory does not grow with their number.

    Raises, for an image that is asked for:
        RejectError: It cannot be used.
        MismatchError: It is not the image that was chosen.
    """

    def __init__(self, styles: Sequence[StyleImage], size: int, stride: int) -> None:
        self._styles = {style.image_id: style for style in styles}
        self._size = size
        self._stride = stride

    def __getitem__(self, image_id: str) -> Tensor:
        return _load_style(self._styles[image_id], self._size, self._stride)

    def __iter__(self) -> Iterator[str]:
        return iter(self._styles)

    def __len__(self) -> int:
        return len(self._styles)


def _load_style(style: StyleImage, size: int, stride: int) -> Tensor:
    data = read_input(style.uri)
    if image_id(data) != style.image_id:
        raise MismatchError(f"The style image '{style.uri}' has changed since the run was planned.")
    return to_tensor(pad_to(_decode_style(style.uri, data, size).pixels, stride))
