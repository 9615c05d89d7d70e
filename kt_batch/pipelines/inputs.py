"""Inputs by content: identify them for a plan, and read them again for the work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, fspath
from typing import TypeVar

from kt_batch.errors import Reason, RejectError, UnreachableError, UsageError
from kt_batch.kernels.synthetic_befores import VARIATIONS, Variation, variation
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.redaction import redacted
from kt_batch.store.archives import archives_of, enter, enter_all
from kt_batch.store.images.file_bytes import Data, FileBytes
from kt_batch.store.images.files import image_id
from kt_batch.store.inputs import Found, Input, find_inputs, input_id, open_input
from kt_batch.store.locations import Location, open_location
from kt_batch.store.manifests import Manifest
from kt_batch.store.paired import pair_id, synthetic_id
from kt_batch.store.passed_over import Kinds, in_words
from kt_batch.store.places import absolute_path, clean_place, origin_of
from kt_batch.store.plans import Item, Unit

HASH_THREADS = 8
MAX_INPUTS_PER_TASK = 16  # handing a small file to a thread costs more than hashing it

Place = str | PathLike[str]  # a path or URI
T = TypeVar("T")


def places(given: Place | Sequence[Place]) -> list[str]:
    """Return one or several places as text."""
    return [fspath(given)] if isinstance(given, str | PathLike) else [fspath(place) for place in given]


def absolute_file(path: Place | None) -> str | None:
    """Return an absolute path: the working directory of a worker is not the driver's."""
    return None if path is None else absolute_path(fspath(path))


def find_images(images: Sequence[str], manifests: Sequence[Manifest], progress: Progress) -> Found:
    """Find all images that places and the rows of manifests stand for, those in archives included.

    Raises as `find_inputs` does.
    """
    return enter_archives(find_inputs(images, manifests), progress)


def enter_archives(found: Found, progress: Progress) -> Found:
    """Return what was found with the images of its archives in their place. An archive is read once, in order."""
    archives = list(archives_of(found))
    if not archives:
        return found
    entered = []
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        for content in pool.map(enter, archives):
            entered.append(content)
            progress(Step("archives", len(entered), len(archives)))
    return enter_all(found, entered)


def say_kinds(kinds: Kinds, progress: Progress) -> Kinds:
    """Say how many files that are no images were passed over, by kind, and return the counts."""
    if kinds:
        progress(Step("plan", 0, 0, note=f"Passed over: {in_words(kinds)}."))
    return kinds


def say_columns(manifests: Sequence[Manifest], progress: Progress) -> None:
    """Say which columns of manifests cannot be tags."""
    for manifest in manifests:
        if manifest.columns:
            shown = ", ".join(f"'{column}'" for column in manifest.columns)
            progress(Step("plan", 0, 0, note=f"Columns of '{manifest.place}' that are no tags: {shown}."))


def say_passed_over(ours: Sequence[str], location: Location, progress: Progress) -> tuple[str, ...]:
    """Say which libraries and runs below the named folders were passed over, other than `location`, and return them."""
    others = tuple(dict.fromkeys(place for place in ours if open_location(place).uri != location.uri))
    if others:
        shown = ", ".join(f"'{place}'" for place in others)
        progress(Step("plan", 0, 0, note=f"Passed over, as libraries and runs are no inputs unless named: {shown}."))
    return others


def check_origins(
    named: Sequence[str], location: Location, pending: Iterable[Unit], manifests: Sequence[Manifest] = ()
) -> None:
    """Refuse planned images in stores that the caller named neither for inputs nor for the library or the run.

    A plan may come from a stranger, and a store learns from a request who asks. Who names a manifest names the stores
    in it.

    Raises:
        UsageError: there is such an image; nothing was sent.
    """
    allowed = {None, origin_of(location.uri), *(origin_of(clean_place(place)) for place in named)}
    allowed.update(*(manifest.origins() for manifest in manifests))
    for unit in pending:
        for item in unit.items:
            strange = [uri for uri in (item.uri, item.after) if origin_of(uri) not in allowed]
            if strange:
                raise UsageError(
                    f"'{location.uri}' plans the image '{redacted(strange[0])}', in a store that you did not name; "
                    "name its place among the inputs if you trust it."
                )


def plan_items(inputs: Sequence[Input], progress: Progress) -> list[Item]:
    """Identify every input by its content.

    An input that cannot be read now is planned under an id made of its URI. Its unit then rejects it with the reason.
    """
    items: list[Item] = []
    size = max(1, min(MAX_INPUTS_PER_TASK, len(inputs) // (8 * HASH_THREADS)))
    portions = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        for portion in pool.map(lambda some: [_identify(source) for source in some], portions):
            items += portion
            progress(Step("plan", len(items), len(inputs)))
    return items


def _identify(source: Input) -> Item:
    try:
        identity = source.image_id or input_id(source.uri)
    except RejectError:
        identity = unreadable_id(source.uri)
    return Item(identity, source.uri, source.name, tags=source.tags)


def unreadable_id(uri: str) -> str:
    """Return the image id that stands for an input whose bytes could not be read when it was planned."""
    return hashlib.sha256(b"unreadable:" + uri.encode()).hexdigest()[:16]


def read_planned(item: Item) -> Data:
    """Read the bytes of a planned input, or open its file.

    Raises:
        RejectError: The input cannot be read, or its bytes are not those that were planned.
        UnreachableError: Its store fails.
    """
    data = open_input(item.uri)
    if image_id(data) != item.image_id:
        raise RejectError(Reason.CHANGED, f"'{item.uri}' has changed since it was planned; run the command again.")
    return data


def read_image(items: Sequence[Item], decode: Callable[[Data], T], other_uris: Sequence[str] = ()) -> T:
    """Read items that are one image, from the first URI that has it.

    Bytes that cannot be decoded are not tried from another URI, where they would be the same.

    Args:
        items: Names of one image.
        decode: Makes something of the bytes of a file.
        other_uris: URIs to try after those of the items.

    Raises:
        RejectError: No URI has the image, the error of the first URI; or the file was written to meanwhile.
        UnreachableError: One of the URIs lies in a store that fails.
    """
    image = items[0].image_id
    first: RejectError | None = None
    unreachable: UnreachableError | None = None
    for uri in dict.fromkeys([*(item.uri for item in items), *other_uris]):
        try:
            data = read_planned(Item(image, uri, uri))
        except RejectError as error:
            first = first or error
            continue
        except UnreachableError as error:
            unreachable = error
            continue
        try:
            decoded = decode(data)
            _check_unchanged(data, uri)
            return decoded
        except RejectError as error:
            if first is None:
                raise
            raise first from error.with_traceback(None)  # the traceback holds the bytes of the file
    raise unreachable or first or RejectError(Reason.UNREADABLE, f"The image {image} has no URI.")


def read_pair(items: Sequence[Item], decode: Callable[[Data], T]) -> tuple[T, T]:
    """Read the two pictures of a pair, from the first of its names that still has both.

    Raises:
        RejectError: One of them cannot be read or decoded, or the two are not those that were planned.
        UnreachableError: A store fails.
    """
    return _of_first(items, lambda item: _read_pair(item, decode))


def _of_first(items: Sequence[Item], read: Callable[[Item], T]) -> T:
    """Return what the first name of a pair gives that can be read. Raises the error of the first name."""
    first: RejectError | None = None
    for item in items:
        try:
            return read(item)
        except RejectError as error:
            first = first or error.with_traceback(None)  # the traceback holds the bytes of the files
    raise first or RejectError(Reason.UNREADABLE, "The pair has no name.")


def _read_pair(item: Item, decode: Callable[[Data], T]) -> tuple[T, T]:
    before, after = open_input(item.uri), open_input(item.after)
    if pair_id(image_id(before), image_id(after)) != item.image_id:
        why = f"'{item.uri}' or '{item.after}' has changed since they were planned; run the command again."
        raise RejectError(Reason.CHANGED, why)
    decoded = decode(before), decode(after)
    _check_unchanged(before, item.uri)
    _check_unchanged(after, item.after)
    return decoded


def read_finished(items: Sequence[Item], decode: Callable[[Data], T]) -> tuple[T, Variation]:
    """Read the photograph of a synthetic pair, from the first of its names that still has it.

    Returns:
        The photograph, and how its before differs from it.

    Raises:
        RejectError: It cannot be read or decoded, or is not what was planned.
        UnreachableError: A store fails.
    """
    return _of_first(items, lambda item: _read_finished(item, decode))


def _read_finished(item: Item, decode: Callable[[Data], T]) -> tuple[T, Variation]:
    data = open_input(item.after)
    image = image_id(data)
    numbers = [number for number in range(VARIATIONS) if synthetic_id(image, number) == item.image_id]
    if not numbers:
        raise RejectError(Reason.CHANGED, f"'{item.after}' has changed since it was planned; run the command again.")
    decoded = decode(data)
    _check_unchanged(data, item.after)
    return decoded, variation(image, numbers[0])


def _check_unchanged(data: Data, uri: str) -> None:
    if isinstance(data, FileBytes) and data.is_changed:
        raise RejectError(Reason.CHANGED, f"'{uri}' was written to while it was read; run the command again.")
