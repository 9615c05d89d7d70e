"""Masks: label images that say which style holds where in a photograph, found by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from kt_batch.config import Draw
from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.methods.styles import TakesRegions
from kt_batch.methods.table import METHODS
from kt_batch.pipelines.inputs import Place, find_images, places
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.images.files import WorkingImage, image_id
from kt_batch.store.images.labels import decode_labels, labels_at, same_aspect, values_of
from kt_batch.store.inputs import input_id, read_input
from kt_batch.store.passed_over import is_archive_name
from kt_batch.store.plans import Item

Regions = NDArray[np.int64]  # (height, width) of a working image: the number of the style of each pixel


@dataclass(frozen=True)
class Mask:
    """A label image: where its file is, and 16 hex digits of the SHA-256 of its bytes."""

    uri: str
    digest: str


@dataclass(frozen=True)
class Masks:
    """The label images of a place. by_name: Path below the place, without its ending -> mask."""

    place: str
    by_name: Mapping[str, Mask]

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of all names and digests, by ascending name."""
        lines = (f"{name} {mask.digest}\n" for name, mask in sorted(self.by_name.items()))
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()

    def mask_of(self, item: Item) -> Mask:
        """Return the mask of an input: that of its name without the ending, or else of the longest end of this path.

        The place of the input counts after its name, which a pilot replaces. Raises RejectError where there is no mask.
        """
        for path in (item.name, item.uri):
            parts = PurePosixPath(path).with_suffix("").parts
            for start in range(len(parts)):
                if mask := self.by_name.get("/".join(parts[start:])):
                    return mask
        wanted = PurePosixPath(item.uri).with_suffix(".png").name
        raise RejectError(Reason.MASK, f"'{self.place}' holds no label image '{wanted}' for '{item.uri}'.")


def find_masks(given: Place) -> Masks:
    """Find the label images of a place: its PNG files, in an archive by their names there.

    Raises UsageError for a place without one, or with two of one name.
    """
    (place,) = places([given])
    above = f"{PurePosixPath(place).name}/" if is_archive_name(place) else ""
    by_name: dict[str, Mask] = {}
    for each in find_images([place], (), no_progress).inputs:
        if not each.name.lower().endswith(".png"):
            continue
        name = str(PurePosixPath(each.name.removeprefix(above)).with_suffix(""))
        if name in by_name:
            raise UsageError(
                f"--mask '{place}' holds two label images for one name: '{by_name[name].uri}', '{each.uri}'."
            )
        by_name[name] = Mask(each.uri, input_id(each.uri))
    if not by_name:
        raise UsageError(f"--mask '{place}' holds no label image; label images are grey or palette PNG files.")
    return Masks(place, by_name)


def mask_file(place: str | None) -> Mask | None:
    """Return a single label image; None for none. Raises UsageError for a place of several."""
    if place is None:
        return None
    found = find_images([place], (), no_progress).inputs
    if len(found) != 1:
        raise UsageError(f"--mask '{place}' stands for {len(found)} images; give one label image.")
    return Mask(found[0].uri, input_id(found[0].uri))


def check_regions(name: str, mask: Place | None, regions: int | None, chosen: bool) -> None:
    """Raise UsageError for regions that exclude each other or have no effect.

    chosen: Whether the method has style images, libraries to search or filter banks to choose among.
    """
    if mask is None and regions is None:
        return
    if mask is not None and regions is not None:
        raise UsageError(f"--mask and --regions {regions} both say where styles hold; give one of them.")
    option = f"--regions {regions}" if mask is None else "--mask"
    if not chosen:
        raise UsageError(
            f"{option} chooses among style images, libraries or filter banks, and the method {name} has none here; "
            "leave it out."
        )
    if not issubclass(METHODS[name], TakesRegions):
        taking = ", ".join(each for each, method in METHODS.items() if issubclass(method, TakesRegions))
        raise UsageError(f"The method {name} takes no regions, so {option} has no effect; those that do: {taking}.")


def one_each(regions: Mapping[str, object], what: str, weighted: bool, draw: Draw | None = None) -> None:
    """Raise UsageError for what has no effect where each region has one style, library or bank.

    Args:
        regions: Those of the fields `regions` and `masks_sha256` that the caller asks for.
        what: The option whose values regions choose among.
        weighted: Whether one of its values has a weight.
        draw: How each photograph gets a single source.
    """
    if regions and (draw is not None or weighted):
        option = "--mask" if "masks_sha256" in regions else "--regions"
        other = f"--source {draw}" if draw else f"the weight of a {what}"
        raise UsageError(f"{option} gives each region one {what}, so {other} has no effect; leave it out.")


def regions_of(mask: Place | None, regions: int | None) -> tuple[Masks | None, dict[str, object]]:
    """Return the masks that a caller names, and the fields of a configuration that say which regions there are."""
    if mask is not None:
        masks = find_masks(mask)
        return masks, {"masks_sha256": masks.sha256}
    return None, {} if regions is None else {"regions": regions}


def read_regions(mask: Mask, working: WorkingImage, styles: int) -> Regions:
    """Read the regions of a working image.

    Values below the number of styles name styles as they are. With any larger value, the distinct values of the label
    image name them in ascending order.

    Raises:
        RejectError: The label image cannot be read, has changed, has other proportions than the photograph, or more
            values than there are styles.
        UnreachableError: Its store fails.
    """
    try:
        data = read_input(mask.uri)
        labels = decode_labels(data)
    except RejectError as error:
        raise RejectError(Reason.MASK, f"The label image '{mask.uri}' cannot be used: {error.message}") from error
    if image_id(data) != mask.digest:
        raise RejectError(Reason.MASK, f"The label image '{mask.uri}' has changed since the run was planned.")
    width, height = working.original_width, working.original_height
    rows, columns = labels.shape
    if not same_aspect(columns, rows, width, height):
        size = f"{columns} x {rows}"
        why = f"The label image '{mask.uri}' has {size} pixels, which are not the proportions of {width} x {height}."
        raise RejectError(Reason.MASK, why)
    values = values_of(labels)
    if len(values) > styles:
        there = "there is 1 style" if styles == 1 else f"there are {styles} styles"
        why = f"The label image '{mask.uri}' has {len(values)} values, and {there}."
        raise RejectError(Reason.MASK, why)
    small = labels_at(labels, working.width, working.height).astype(np.int64)
    return small if values[-1] < styles else np.searchsorted(values, small)


def by_mask(
    masks: Masks, items: Sequence[Item], working: WorkingImage, styles: int
) -> Iterator[tuple[Regions | RejectError, list[Item]]]:
    """Yield the regions of an image, or why it has none, with its items that have them: copies may have masks."""

    def mask_of(item: Item) -> Mask | str:
        try:
            return masks.mask_of(item)
        except RejectError as error:
            return error.message

    for mask, group in groupby(items, key=mask_of):
        named = list(group)
        if isinstance(mask, str):
            yield RejectError(Reason.MASK, mask), named
            continue
        try:
            regions = read_regions(mask, working, styles)
        except RejectError as error:
            yield error.with_traceback(None), named
        else:
            yield regions, named
