"""Find the pairs of a paired library: files of one name, the rows of lists, or finished photographs alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from kt_batch.errors import UsageError
from kt_batch.kernels.synthetic_befores import VARIATIONS
from kt_batch.pipelines.inputs import find_images, plan_items
from kt_batch.pipelines.progress import Progress
from kt_batch.store.input_names import input_name, tagged
from kt_batch.store.inputs import Input, uri_of_row
from kt_batch.store.manifests import PairList, path_in_manifest
from kt_batch.store.paired import pair_id, synthetic_id
from kt_batch.store.passed_over import Kinds, add_kinds
from kt_batch.store.plans import Item


@dataclass(frozen=True)
class FoundPairs:
    """The pairs of a request.

    unmatched: Names of files before without one after, and of those after without one before. ours, passed_over: As in
    `Found`.
    """

    items: list[Item]
    unmatched: tuple[str, ...] = ()
    ours: Sequence[str] = ()
    passed_over: Kinds = field(default_factory=dict)


def named_pairs(before: Sequence[str], after: Sequence[str], progress: Progress) -> FoundPairs:
    """Find the files before and after that have one name. Raises UsageError where there is none."""
    first, second = (find_images(places, (), progress) for places in (before, after))
    matched, unmatched = match_names(first.inputs, second.inputs)
    if not matched:
        raise UsageError(
            f"None of the {len(first.inputs)} images before has the name of one of the {len(second.inputs)} after; "
            "a pair has one name in both places, whatever the suffix."
        )
    kinds = add_kinds([first.passed_over, second.passed_over])
    return FoundPairs(pair_items(matched, progress), unmatched, [*first.ours, *second.ours], kinds)


def listed_pairs(lists: Sequence[PairList], progress: Progress) -> FoundPairs:
    """Return the pairs that lists name, each called after its edited picture: a photograph may have several edits."""
    pairs = [
        (
            Input(uri_of_row(before.place), name := _row_name(after.place, pair_list.after.folder), before.tags),
            Input(uri_of_row(after.place), name),
        )
        for pair_list in lists
        for before, after in zip(pair_list.before.rows, pair_list.after.rows, strict=True)
    ]
    kinds = add_kinds(pair_list.before.passed_over for pair_list in lists)
    return FoundPairs(pair_items(pairs, progress), passed_over=kinds)


def synthetic_pairs(after: Sequence[str], progress: Progress) -> FoundPairs:
    """Find finished photographs; each makes VARIATIONS pairs, whose pictures before are computed from it."""
    found = find_images(after, (), progress)
    items = [
        replace(
            item,
            image_id=synthetic_id(item.image_id, number),
            name=tagged(item.name, f"before-{number + 1}"),
            after=item.uri,
        )
        for item in plan_items(found.inputs, progress)
        for number in range(VARIATIONS)
    ]
    return FoundPairs(items, ours=found.ours, passed_over=found.passed_over)


def match_names(before: Sequence[Input], after: Sequence[Input]) -> tuple[list[tuple[Input, Input]], tuple[str, ...]]:
    """Return the pairs of inputs of one name, and the names without a partner.

    Names are compared with their folders. Equal names go first; then names that differ in their suffix or in case, as
    an edit of `a.CR2` may be `a.jpg`, where that leaves one file on either side. Where no name fits at all, the folder
    or archive that all names of a side begin with is left out.
    """
    pairs, alone = _match(_by_name(before, 0), _by_name(after, 0))
    if not pairs:
        pairs, alone = _match(*(_by_name(side, 1 if _common_folder(side) else 0) for side in (before, after)))
    return pairs, alone


def _common_folder(inputs: Sequence[Input]) -> bool:
    folders = {each.name.partition("/")[0] if "/" in each.name else "" for each in inputs}
    return len(folders) == 1 and folders != {""}


def _by_name(inputs: Sequence[Input], folders: int) -> dict[str, Input]:
    """Return the inputs by their names without so many folders at the front."""
    return {"/".join(each.name.split("/")[folders:]): each for each in inputs}


def _match(left: dict[str, Input], right: dict[str, Input]) -> tuple[list[tuple[Input, Input]], tuple[str, ...]]:
    pairs = [(left.pop(name), right.pop(name)) for name in sorted(left.keys() & right.keys())]
    groups: dict[str, tuple[list[Input], list[Input]]] = defaultdict(lambda: ([], []))
    for side, inputs in enumerate((left.items(), right.items())):
        for name, each in inputs:
            groups[_stem(name)][side].append(each)
    alone: list[str] = []
    for ones, others in groups.values():
        if len(ones) == len(others) == 1:
            pairs.append((ones[0], others[0]))
        else:
            alone += [each.name for each in (*ones, *others)]
    return sorted(pairs, key=lambda pair: pair[0].name), tuple(sorted(alone))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()


def _row_name(place: str, folder: str) -> str:
    parts = [part for part in path_in_manifest(uri_of_row(place), folder).split("/") if part]
    return input_name("/".join(parts))


def pair_items(pairs: Sequence[tuple[Input, Input]], progress: Progress) -> list[Item]:
    """Identify every pair by the content of its two files."""
    befores = plan_items([before for before, _ in pairs], progress)
    afters = plan_items([after for _, after in pairs], progress)
    return [
        replace(before, image_id=pair_id(before.image_id, after.image_id), after=after.uri)
        for before, after in zip(befores, afters, strict=True)
    ]
