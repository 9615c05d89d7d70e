"""Style images: identified by the driver, and read by a worker when its method asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kt_batch.config import SMALLEST_SIZE, Draw
from kt_batch.errors import MismatchError, RejectError, UsageError
from kt_batch.methods.base import Method
from kt_batch.methods.features import to_tensor
from kt_batch.methods.styles import MixesStyles
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.masks import one_each
from kt_batch.store.collections import split_weight
from kt_batch.store.images.files import WorkingImage, decode, image_id, pad_to
from kt_batch.store.inputs import Found, Input, input_id, read_input
from kt_batch.store.places import expand_home, scheme_of


@dataclass(frozen=True)
class StyleImage:
    """A style image: 16 hex digits, and where its file is."""

    image_id: str
    uri: str


@dataclass(frozen=True)
class StylePlaces:
    """The places of style images in the order of the caller. weights: Of each; None where no place has one."""

    places: tuple[str, ...]
    weights: tuple[float, ...] | None = None


def style_places(given: Sequence[str]) -> StylePlaces:
    """Return the places and weights of texts such as `irises.jpg`, `monet/=0.5` and `s3://bucket/monet=2`.

    A local file whose own name ends so is that file. A place without a weight has the weight 1 beside those with one.

    Raises:
        UsageError: A weight is not above 0, or too large.
    """
    split = [(text, None) if _is_there(text) else split_weight(text, "style") for text in given]
    named = tuple(place for place, _ in split)
    if all(weight is None for _, weight in split):
        return StylePlaces(named)
    return StylePlaces(named, tuple(1.0 if weight is None else weight for _, weight in split))


def _is_there(text: str) -> bool:
    return scheme_of(text) is None and os.path.lexists(expand_home(text))


def style_groups(places: StylePlaces, found: Found) -> tuple[tuple[str, ...], ...]:
    """Return the ids of the style images of each place, ascending. found: What all places stand for together.

    Raises:
        RejectError: An image cannot be read.
    """
    known = {source.uri for source in found.inputs}
    groups = []
    for place in places.places:
        uris = [each.uri for each in find_images([place], (), no_progress).inputs if each.uri in known]
        groups.append(tuple(sorted({input_id(uri) for uri in uris})))
    return tuple(groups)


def style_weights(places: StylePlaces, groups: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """Return the weight of each style image, by ascending id; none where all count alike.

    The images of a place share its weight. The weights of an image of several places add up, and all sum to 1.
    """
    if places.weights is None:
        return ()
    weights: dict[str, float] = {}
    for weight, group in zip(places.weights, groups, strict=True):
        for image in group:
            weights[image] = weights.get(image, 0.0) + weight / len(group)
    total = sum(weights.values())
    shares = tuple(weights[image] / total for image in sorted(weights))
    return () if len(set(shares)) == 1 else shares


def mixed(
    method: type[Method], places: StylePlaces, found: Found, regions: Mapping[str, object], draw: Draw | None = None
) -> dict[str, object]:
    """Return the fields of a configuration that say how style images are mixed, and where.

    Args:
        method: The method.
        places: The places of the styles.
        found: What they stand for.
        regions: Those of the fields `regions` and `masks_sha256` that the caller asks for.
        draw: How each photograph gets a single source.

    Raises:
        UsageError: Weights or regions have no effect.
    """
    name = method.config_type.model_fields["method"].default
    if regions:
        one_each(regions, "--style", places.weights is not None, draw)
        return {**regions, "style_groups": style_groups(places, found)}
    if places.weights is None:
        return {}
    given = f"{places.places[0]}={places.weights[0]:g}"
    if not issubclass(method, MixesStyles):
        raise UsageError(f"The method {name} has no use for the weight of --style {given}: it mixes no styles.")
    if draw is not None:
        raise UsageError(f"The weight of --style {given} has no effect with --source {draw}, which takes one style.")
    weights = style_weights(places, style_groups(places, found))
    return {"style_weights": weights} if weights else {}


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
