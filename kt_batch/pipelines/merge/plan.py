"""Plan a merge: which library owns each image, and the units of the new library.

A unit of a library becomes a unit of the new one, with the images that it owns and the rejects that still count. Of an
image in several libraries the first one named is the owner; the unit holds all names and places that any of them has
for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kt_batch.errors import DamagedError
from kt_batch.store import layout
from kt_batch.store.library import Library
from kt_batch.store.plans import Item, Unit, unit_of
from kt_batch.store.receipts import Receipt
from kt_batch.store.tables import read_table

IMAGE_COLUMNS = ["image_id", "uris", "tags"]


@dataclass(frozen=True)
class ImageTexts:
    """The texts in the row of an image: its URIs and tags."""

    uris: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class MergeUnit:
    """A unit of the new library.

    unit: Its items. source: The library that it comes from. receipt: That of the unit there. there: All images of that
    unit. images: Those that are taken, with the texts of their rows. rejects: URIs of the rejects that are taken.
    """

    unit: Unit
    source: Library
    receipt: Receipt
    there: frozenset[str]
    images: Mapping[str, ImageTexts]
    rejects: frozenset[str]


@dataclass
class _Image:
    """An image: its owner (library number, unit), its texts there, and what all libraries say about it."""

    owner: tuple[int, str]
    texts: ImageTexts
    common: tuple[str, ...]
    items: dict[tuple[str, str], Item] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    holders: set[int] = field(default_factory=set)

    def sorted_items(self) -> list[Item]:
        return [self.items[key] for key in sorted(self.items)]

    def all_texts(self) -> ImageTexts:
        """Return the texts of the new row: those of the owner first, in its order."""
        missing = self.tags - set(self.texts.tags)
        first = [tag for tag in self.texts.tags if tag in self.common]
        tags = (*first, *sorted({*self.texts.tags, *missing} - set(first))) if missing else self.texts.tags
        return ImageTexts(tuple(item.uri for item in self.sorted_items()), tags)


@dataclass(frozen=True)
class MergePlan:
    """The units of the new library. images: How many different ones they hold. shared: Those in several libraries."""

    units: Sequence[MergeUnit]
    images: int
    shared: int


Found = dict[str, dict[str, ImageTexts]]  # unit -> image -> texts of its row


def plan_merge(libraries: Sequence[Library]) -> MergePlan:
    """Plan the units of the new library, in the order of the libraries and of their plans.

    Raises:
        MissingError: A part is gone.
        DamagedError: A part is damaged, or holds images that its unit does not name.
    """
    found = [_image_rows(library) for library in libraries]
    images = _find_owners(libraries, found)
    _collect_items(libraries, images)
    rejects = _find_rejects(libraries, images)
    units = []
    for number, library in enumerate(libraries):
        for unit, receipt in library.committed.attempts:
            there = found[number].get(unit.id, {})
            owned = {image: images[image] for image in there if images[image].owner == (number, unit.id)}
            rejected = rejects.get((number, unit.id), [])
            items = [item for image in owned.values() for item in image.sorted_items()] + rejected
            if receipt is None or not items:
                continue
            texts = {image: each.all_texts() for image, each in owned.items()}
            made = unit_of(sorted(items, key=lambda item: (item.image_id, item.name, item.uri)), 0)
            uris = frozenset(item.uri for item in rejected)
            units.append(MergeUnit(made, library, receipt, frozenset(there), texts, uris))
    return MergePlan(units, len(images), sum(len(image.holders) > 1 for image in images.values()))


def _image_rows(library: Library) -> Found:
    """Return the texts of the rows of images/ by unit."""
    found: Found = {}
    units = {unit.id: unit for unit, _ in library.committed.attempts}
    for unit, ref in library.committed.parts(layout.IMAGES).items():
        table = read_table(library.location, ref, IMAGE_COLUMNS)
        named = {item.image_id for item in units[unit].items}
        rows = zip(*(table[name].to_pylist() for name in IMAGE_COLUMNS), strict=True)
        found[unit] = {raw.hex(): ImageTexts(tuple(uris), tuple(tags)) for raw, uris, tags in rows}
        if len(found[unit]) != table.num_rows or not found[unit].keys() <= named:
            raise DamagedError(
                f"{library.location.uri}/{ref.name} holds other images than its unit names, or one twice"
            )
    return found


def _find_owners(libraries: Sequence[Library], found: Sequence[Found]) -> dict[str, _Image]:
    """Return each image by id: the first library owns it, and there the first unit of the plan."""
    images: dict[str, _Image] = {}
    for number, library in enumerate(libraries):
        for unit, _ in library.committed.attempts:
            for image, texts in found[number].get(unit.id, {}).items():
                owner = _Image((number, unit.id), texts, library.config.tags)
                images.setdefault(image, owner).tags.update(texts.tags)
                images[image].holders.add(number)
    return images


def _collect_items(libraries: Sequence[Library], images: Mapping[str, _Image]) -> None:
    """Give each image the items of all libraries; items that were rejected are none of its places."""
    for library in libraries:
        for _, item, rejected in _tried(library):
            image = images.get(item.image_id)
            if image is None or rejected:
                continue
            earlier = image.items.get((item.name, item.uri))
            tags = sorted({*item.tags, *(earlier.tags if earlier else ())})
            image.items[item.name, item.uri] = replace(item, output="", tags=tuple(tags))
            image.tags.update(tags)


def _tried(library: Library) -> Iterator[tuple[str, Item, bool]]:
    """Yield (unit, item, whether it was rejected there) of the committed units, in plan order."""
    tables = library.committed.rejects.tables
    for unit, receipt in library.committed.attempts:
        uris = set(tables[unit.id]["uri"].to_pylist()) if unit.id in tables else set()
        if receipt is not None:
            yield from ((unit.id, item, item.uri in uris) for item in unit.items)


def _find_rejects(libraries: Sequence[Library], images: Mapping[str, _Image]) -> Mapping[tuple[int, str], list[Item]]:
    """Return the rejects that are taken over, by library and unit.

    They are those that count in their library, unless the image or its place is there; of one input the first.
    """
    taken = {uri for image in images.values() for _, uri in image.items}
    holder: dict[tuple[str, str], tuple[int, str]] = {}
    kept: defaultdict[tuple[int, str], list[Item]] = defaultdict(list)
    for number, library in enumerate(libraries):
        standing = library.committed.rejects.standing
        for unit, item, _ in _tried(library):
            if (unit, item) not in standing or item.image_id in images or item.uri in taken:
                continue
            place, keys = (number, unit), ((item.name, item.image_id), (item.name, item.uri))
            if all(holder.get(key, place) == place for key in keys):
                holder |= dict.fromkeys(keys, place)
                kept[place].append(replace(item, output=""))
    return kept
